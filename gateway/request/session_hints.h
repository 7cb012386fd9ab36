#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/block_hash.h"

namespace gateway {

/// What a client says of where its request belongs: header fields x-session-id, x-parent-id and x-session-final, and of
/// the body session_id, which stands for the first of them where that is missing, and prompt_cache_key. Hints where to
/// place it and what to keep, never more. Empty: not said.
struct SessionHints {
    static constexpr std::size_t kNameBytesMax = 256;  // that count of the name of a conversation

    std::string session = {};       // its conversation
    std::string parent = {};        // the conversation that this one came out of, as a sub-agent's does
    std::string prompt_group = {};  // prompts that begin alike
    bool ends = false;              // nothing of its conversation follows
};

enum class HintKind : char { session = 's', prompt_group = 'g' };

/// What stands for a client's name outside of the gateway: nobody without the cluster's key can tell the name from it,
/// and no tenant can name what is another's. 0: an empty name.
std::uint64_t hint_name(const base::HashKey& key, HintKind kind, std::string_view tenant, std::string_view name);

}  // namespace gateway
