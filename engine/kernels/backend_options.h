#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "engine/kernels/packing.h"
#include "kv_cache/kv_layout.h"

namespace engine {

/// What a backend is asked for, as settings spell it. What it allows of this is its own affair: make_backend() has it
/// checked before a device is touched.
struct BackendOptions {
    std::string_view family = "auto";        // auto: the best this machine's processor can run
    std::uint32_t threads = 1;               // compute threads, the caller's included
    std::vector<std::uint32_t> cpus;         // pin to these processors; empty: do not pin
    std::uint32_t device_index = 0;          // cuda: which GPU
    bool deterministic = false;              // cuda: only products whose order of sums is fixed; others always do so
    std::string prefill_attention = "auto";  // auto, mma, wgmma (cuda, Hopper: chunks by its own instructions)
    bool dependent_launch = false;           // cuda 9.0: kernels of a step may begin before the one before; same bits
    std::string weight_format = "auto";      // auto, f32, bf16, fp8
    std::string kv_dtype = "auto";           // auto, f32, bf16
};

/// How a backend keeps a model.
struct ModelFormats {
    WeightFormat weights = WeightFormat::f32;  // of the layers' matrices
    kv_cache::KvDtype kv = kv_cache::KvDtype::f32;
};

/// Every setting has one of the values that it can have anywhere. Error: invalid_argument, with all of them.
base::Result<void> check_names(const BackendOptions& options);

/// What the backends on the host have. `family`: of which one, for the message.
/// Error: unimplemented for a format, invalid_argument for what only a GPU has; both say what to set.
base::Result<void> check_host_options(const BackendOptions& options, std::string_view family);

/// The formats of a backend on the host. auto: matrices as they are `stored`, KV in bf16 with weights in bf16.
ModelFormats choose_host_formats(const BackendOptions& options, WeightFormat stored);

}  // namespace engine
