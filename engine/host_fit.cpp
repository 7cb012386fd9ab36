#include "engine/host_fit.h"

#include <algorithm>
#include <cstdio>

#include "engine/kv_sizing.h"
#include "engine/model/checkpoint.h"
#include "engine/model/encoder_weights.h"
#include "engine/model/weights.h"

namespace engine {
namespace {

std::string megabytes(std::uint64_t bytes) {
    char text[32];
    std::snprintf(text, sizeof text, "%.1f MB", static_cast<double>(bytes) / 1e6);
    return text;
}

std::uint64_t least_kv_bytes(const EngineNeeds& needs) {
    return needs.kv_token_bytes * std::min(kKvTokensLeast, needs.shape.context_tokens);
}

std::uint64_t kv_bytes_wanted(const EngineNeeds& needs) {
    return needs.kv_pool_bytes > 0 ? needs.kv_pool_bytes : least_kv_bytes(needs);
}

std::string times(std::uint32_t engines, std::uint64_t bytes) {
    return (engines > 1 ? std::to_string(engines) + " x " : "") + megabytes(bytes);
}

base::Error refusal(std::span<const HostUse> uses, const base::HostMemory& memory, std::uint64_t needed) {
    std::string parts;
    bool has_pool = false;  // that was asked for
    for (const HostUse& use : uses) {
        const EngineNeeds& needs = use.needs;
        has_pool = has_pool || needs.kv_pool_bytes > 0;
        parts += use.name + ": weights " + megabytes(needs.weight_bytes) + " (" + std::string(name_of(needs.weights)) +
                 "), KV " + times(use.engines, kv_bytes_wanted(needs)) + " (" + std::to_string(needs.kv_token_bytes) +
                 " bytes a token), steps " + times(use.engines, needs.scratch_bytes) + "; ";
    }
    return {base::ErrorCode::resource_exhausted,
            "this does not fit into memory: " + parts + "the process itself " + megabytes(kProcessBytes) + "; " +
                megabytes(needed) + " in all, and " + memory.limited_by + " has " + megabytes(memory.available_bytes) +
                ". Lower " + (has_pool ? "engine.kv_pool_bytes or " : "") +
                "worker.batch_tokens_max, run fewer workers, or take a smaller model"};
}

}  // namespace

base::Result<std::vector<std::uint64_t>> fit_on_host(std::span<const HostUse> uses, const base::HostMemory& memory) {
    std::uint64_t taken = kProcessBytes;  // by all but open pools
    std::uint64_t open_least = 0;
    for (const HostUse& use : uses) {
        taken += use.needs.weight_bytes + use.engines * (use.needs.scratch_bytes + use.needs.kv_pool_bytes);
        if (use.needs.kv_pool_bytes == 0) { open_least += use.engines * least_kv_bytes(use.needs); }
    }
    if (taken + open_least > memory.available_bytes) {
        return tl::unexpected(refusal(uses, memory, taken + open_least));
    }
    const std::uint64_t left = memory.available_bytes - taken;
    std::vector<std::uint64_t> pools;
    for (const HostUse& use : uses) {
        const std::uint64_t least = least_kv_bytes(use.needs);
        // Three quarters of what is left: others on the machine need some, and so does the page cache.
        const double share = open_least == 0 ? 0
                                             : 0.75 * static_cast<double>(left) * static_cast<double>(least) /
                                                   static_cast<double>(open_least);
        const auto open = static_cast<std::uint64_t>(std::min(share, static_cast<double>(kHostKvBytes)));
        pools.push_back(use.needs.kv_pool_bytes > 0 ? use.needs.kv_pool_bytes : std::max(open, least));
    }
    return pools;
}

base::Result<EncoderNeeds> inspect_encoder(const std::string& model_dir) {
    auto shape = read_encoder_config(model_dir);
    if (!shape) { return base::pass_on(shape); }
    const auto checkpoint = Checkpoint::open(model_dir);
    if (!checkpoint) { return base::pass_on(checkpoint); }
    PackingPlan plan = plan_encoder_packing(*shape, WeightFormat::f32);
    if (const auto good = check_tensors(*checkpoint, plan); !good) { return base::pass_on(good); }
    const WeightFormat format = stored_format(*checkpoint, plan);
    plan = plan_encoder_packing(*shape, format);
    return EncoderNeeds{.shape = std::move(*shape),
                        .weights = format,
                        .checkpoint_bytes = checkpoint->bytes(),
                        .weight_bytes = plan.file_bytes};
}

std::optional<base::HostMemory> host_memory_of(std::uint64_t limit_bytes) {
    if (limit_bytes > 0) { return base::HostMemory{limit_bytes, "the setting engine.host_memory_bytes"}; }
    return base::available_host_memory();
}

}  // namespace engine
