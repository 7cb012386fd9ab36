#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/host_memory.h"
#include "engine/host_fit.h"

namespace cli::model {

/// What a model is and needs, for people: a word and what there is to say about it, line by line. With `memory` also
/// the longest context that fits beside the weights.
std::vector<std::pair<std::string, std::string>> describe_needs(const engine::EngineNeeds& needs,
                                                                const std::optional<base::HostMemory>& memory);

/// The same as one line, for a banner, of an engine whose KV pool has room for `pool_tokens` tokens.
std::string summarize_needs(const engine::EngineNeeds& needs, std::uint64_t pool_tokens);

}  // namespace cli::model
