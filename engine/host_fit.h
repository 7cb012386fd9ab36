#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/host_memory.h"
#include "base/model_shape.h"
#include "base/result.h"
#include "engine/engine.h"
#include "engine/kernels/packing.h"
#include "engine/model/encoder_config.h"
#include "kv_cache/kv_layout.h"

namespace engine {

/// What an engine will take, known from the headers of its files.
struct EngineNeeds {
    base::ModelShape shape;
    WeightFormat weights = WeightFormat::f32;  // of the layers' matrices, as they are computed with
    kv_cache::KvDtype kv = kv_cache::KvDtype::f32;
    std::uint64_t checkpoint_bytes = 0;       // on disk
    std::uint64_t weight_bytes = 0;           // in memory; on the host once for all engines of the machine
    std::uint64_t scratch_bytes = 0;          // activations and rows of logits; 0 on a GPU (only the backend knows)
    std::uint64_t kv_token_bytes = 0;         // KV of one token
    std::uint64_t kv_pool_bytes = 0;          // as the options have it; 0: to be chosen
    std::uint32_t block_tokens = 0;           // of the options
    bool on_host = true;                      // else on a GPU, whose memory is checked when it is loaded
    std::vector<std::string> unused_tensors;  // of the checkpoint, that no part of the graph reads
};

/// Looks at a model without loading it: reads configuration and headers, packs and allocates nothing.
/// Error: what load_engine() would say of options, configuration or checkpoint.
base::Result<EngineNeeds> inspect_model(const EngineOptions& options);

/// The same of a sentence encoder, which has no KV and runs on the host.
struct EncoderNeeds {
    EncoderShape shape;
    WeightFormat weights = WeightFormat::f32;
    std::uint64_t checkpoint_bytes = 0;  // on disk
    std::uint64_t weight_bytes = 0;      // in memory, once for all engines of the machine
};

/// As inspect_model(), for a folder of an encoder.
base::Result<EncoderNeeds> inspect_encoder(const std::string& model_dir);

/// Engines of one process that run the same model on the host.
struct HostUse {
    std::string name;  // of the model, for messages
    EngineNeeds needs;
    std::uint32_t engines = 1;
};

/// Of a process beside its engines: tokenizers, gateway, queues, libraries. Measured with the serve of a small model
/// (docs/benchmarks.md, "Memory"): about 110 MB, of which up to half are an engine's steps.
inline constexpr std::uint64_t kProcessBytes = std::uint64_t{64} << 20;
/// Of KV, that an engine must have room for where nobody says how much: less is of no use.
inline constexpr std::uint32_t kKvTokensLeast = 512;

/// The size of the KV pool of an engine of each of `uses`: its own, or where that is open kHostKvBytes, or less where
/// three quarters of what `memory` leaves are less (all open ones then get room for as many tokens). Weights count once
/// for a model, KV and steps for each engine. Error: resource_exhausted when all of it does not fit (an open pool
/// counting as kKvTokensLeast tokens, or a context where that is less), with every figure and with what to lower.
base::Result<std::vector<std::uint64_t>> fit_on_host(std::span<const HostUse> uses, const base::HostMemory& memory);

/// What engines may take of the host: `limit_bytes` where it is not 0, else what is available. Empty: nobody knows.
std::optional<base::HostMemory> host_memory_of(std::uint64_t limit_bytes);

}  // namespace engine
