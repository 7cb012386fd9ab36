#include "cli/model/needs.h"

#include <fmt/format.h>

#include <algorithm>

#include "cli/model/manifest.h"

namespace cli::model {
namespace {

constexpr std::size_t kNamesShown = 4;

/// 49152 as "49,152".
std::string grouped(std::uint64_t number) {
    std::string digits = std::to_string(number);
    for (std::size_t at = digits.size(); at > 3; at -= 3) {
        digits.insert(at - 3, 1, ',');
    }
    return digits;
}

std::string parameters_of(const base::ModelShape& shape) {
    return fmt::format("{:.1f} million", static_cast<double>(shape.parameters()) / 1e6);
}

std::string weights_of(const engine::EngineNeeds& needs) {
    return fmt::format("{} on disk, {} in memory ({})", format_bytes(needs.checkpoint_bytes),
                       format_bytes(needs.weight_bytes), engine::name_of(needs.weights));
}

std::string kv_of(const engine::EngineNeeds& needs) {
    return fmt::format("{} bytes a token ({})", grouped(needs.kv_token_bytes),
                       needs.kv == kv_cache::KvDtype::f32 ? "f32" : "bf16");
}

/// "nothing", or how many tensors and the first of them.
std::string unused_of(const std::vector<std::string>& tensors) {
    if (tensors.empty()) { return "nothing"; }
    std::string names;
    for (std::size_t i = 0; i < std::min(tensors.size(), kNamesShown); ++i) {
        names += fmt::format("{}{}", i == 0 ? "" : ", ", tensors[i]);
    }
    return fmt::format("{} {} ({}{})", tensors.size(), tensors.size() == 1 ? "tensor" : "tensors", names,
                       tensors.size() > kNamesShown ? ", ..." : "");
}

std::string fits_of(const engine::EngineNeeds& needs, const base::HostMemory& memory) {
    const std::uint64_t taken = needs.weight_bytes + needs.scratch_bytes + engine::kProcessBytes;
    const std::string available =
        fmt::format("{} available ({})", format_bytes(memory.available_bytes), memory.limited_by);
    const std::uint64_t least = needs.kv_token_bytes * std::min(engine::kKvTokensLeast, needs.shape.context_tokens);
    if (memory.available_bytes < taken + least) {
        return fmt::format("not now: it takes {} before any KV, {}", format_bytes(taken), available);
    }
    const std::uint64_t tokens = (memory.available_bytes - taken) / needs.kv_token_bytes;
    if (tokens >= needs.shape.context_tokens) {
        return fmt::format("a context of all {} tokens; KV of {} tokens in all beside the weights, {}",
                           grouped(needs.shape.context_tokens), grouped(tokens), available);
    }
    return fmt::format("a context of {} tokens at most, {}", grouped(tokens), available);
}

}  // namespace

std::vector<std::pair<std::string, std::string>> describe_needs(const engine::EngineNeeds& needs,
                                                                const std::optional<base::HostMemory>& memory) {
    const base::ModelShape& shape = needs.shape;
    std::vector<std::pair<std::string, std::string>> lines{
        {"architecture", fmt::format("{}, {} layers, {} wide, {} query and {} KV heads of {}, vocabulary {}",
                                     shape.architecture, shape.layers, grouped(shape.hidden), shape.heads_q,
                                     shape.heads_kv, shape.head_dim, grouped(shape.vocabulary))},
        {"parameters", parameters_of(shape)},
        {"context", grouped(shape.context_tokens) + " tokens"},
        {"weights", weights_of(needs)},
        {"KV", kv_of(needs)},
        {"not used", unused_of(needs.unused_tensors)}};
    if (memory) { lines.emplace_back("fits", fits_of(needs, *memory)); }
    return lines;
}

std::string summarize_needs(const engine::EngineNeeds& needs, std::uint64_t pool_tokens) {
    const std::uint32_t context = needs.shape.context_tokens;
    const std::string longest = pool_tokens >= context ? grouped(context) + " tokens"
                                                       : fmt::format("{} of {} tokens (engine.kv_pool_bytes)",
                                                                     grouped(pool_tokens), grouped(context));
    return fmt::format("{}, {} parameters; weights {}; KV {}; longest context {}; not used: {}",
                       needs.shape.architecture, parameters_of(needs.shape), weights_of(needs), kv_of(needs), longest,
                       unused_of(needs.unused_tensors));
}

}  // namespace cli::model
