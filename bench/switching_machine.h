#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "base/result.h"
#include "engine/engine.h"
#include "kv_transfer/tier/tier.h"

namespace bench {

/// How KV is moved when a stream gives way, each a step further (FastSwitch, Shen et al., 2024, figure 10).
enum class SwapMode {
    recompute,  // nothing below the pool
    paged,      // a copy for each block, layer, K or V, while the engine waits; what came back is copied again in whole
    groups,     // the same with a copy for each run of neighbouring blocks
    async,      // beside the steps
    reuse,      // what came back stays below: only what is new is copied
    through,    // and what is computed goes out while it is
    ahead,      // and who gets memory next is loaded before: what Sluice does
};
/// Whether what is computed goes out while it is.
inline bool goes_through(SwapMode mode) {
    return mode == SwapMode::through || mode == SwapMode::ahead;
}
std::string_view name_of(SwapMode mode);
/// Error: invalid_argument with the names that there are.
base::Result<SwapMode> swap_mode_of(std::string_view name);

/// A GPU as far as steps and copies take time. Defaults: LLaMA-3-8B on an A10 (24 GB, 600 GB/s, 125 TFLOP/s dense BF16)
/// behind PCIe 4 x16, FastSwitch's first set-up.
struct ModelledGpu {
    double parameters = 8.03e9;
    std::uint32_t layers = 32;
    std::uint32_t kv_heads = 8;
    std::uint32_t head_dim = 128;
    double bytes_per_second = 600e9;
    double flops = 125e12;
    double used = 0.7;                    // of both, by kernels
    double step_seconds = 0.002;          // of each step, on the host
    double link_bytes_per_second = 25e9;  // to host memory
    double launch_seconds = 2.5e-6;       // of one copy: what cudaMemcpyAsync takes of the host

    double block_bytes(std::uint32_t block_tokens) const {
        return 2.0 * 2 * layers * kv_heads * head_dim * block_tokens;
    }
};

struct SwapCounts {
    std::uint64_t copies_out = 0;
    std::uint64_t copies_in = 0;
    std::uint64_t blocks_out = 0;
    std::uint64_t blocks_in = 0;
    std::uint64_t saves = 0;  // jobs
    std::uint64_t loads = 0;
    double seconds = 0;  // of all copies
};

/// What steps and copies run on, real or modelled. One thread, that of the step loop.
class SwitchingMachine {
public:
    /// Of a copy that has ended: any thread.
    using OnEvent = std::function<void(kv_transfer::TierEvent)>;

    virtual ~SwitchingMachine() = default;
    virtual engine::Engine& engine() = 0;
    virtual const base::Clock& clock() const = 0;
    virtual std::uint32_t tier_slots() const = 0;
    virtual std::size_t block_bytes() const = 0;

    /// A mover for one run; the one before is gone. Error: of memory.
    virtual base::Result<void> begin(SwapMode mode, OnEvent on_event) = 0;
    virtual void end() = 0;
    virtual kv_transfer::TierMover& mover() = 0;
    virtual bool copies_pending() const = 0;
    /// Until `until`, the end of the step that runs or of a copy has come; `wait` is the step loop's.
    virtual void wait(base::TimePoint until, const std::function<void(base::TimePoint)>& wait) = 0;
    virtual SwapCounts counts() const = 0;
    /// Of [from, to), in which the engine stood still: what a copy that the step thread made itself took.
    virtual base::Duration copied_between(base::TimePoint from, base::TimePoint to) = 0;
};

/// `block_tokens` 16, `pool_blocks` of KV.
std::unique_ptr<SwitchingMachine> modelled_machine(const ModelledGpu& gpu, std::uint32_t pool_blocks,
                                                   std::uint32_t tier_slots, std::uint32_t context_tokens);
/// Loads the model. Errors: its own, and of memory.
base::Result<std::unique_ptr<SwitchingMachine>> real_machine(const engine::EngineOptions& options,
                                                             std::uint32_t pool_blocks, std::uint32_t tier_slots);

}  // namespace bench
