#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/block_hash.h"
#include "base/ids.h"
#include "caching/semantic/question.h"
#include "gateway/http/exchange.h"
#include "gateway/http/gate.h"
#include "gateway/openai/errors.h"

namespace gateway {

/// What the texts of a request say that its tokens do not: read before they become tokens.
struct CacheTexts {
    std::string_view refused = {};                // why it must not be kept; empty: nothing is against it
    std::vector<caching::Message> messages = {};  // of a chat, where similar questions are looked for
    std::string beside = {};                      // JSON: what else the chat template gets
};

/// A question's text in the tokens of a sentence encoder.
struct EncodedQuestion {
    base::BlockHash name{};  // of its tenant, the encoder's weights, and the tokens
    std::shared_ptr<const std::vector<base::TokenId>> tokens = {};
};

/// What became of a request at the cache.
enum class CacheOutcome { none, hit, miss, bypass, stale, coalesced };

/// One request's way through the cache: what its client allows, what it is called there, what came of it. Written by
/// one thread after the other: at the door, on a text thread, then on the I/O thread.
struct CacheAsk {
    // Cache-Control and x-cache-tags of the request.
    bool no_cache = false;
    bool no_store = false;
    bool only_if_cached = false;
    bool is_private = false;  // its answer is no other tenant's, and it takes none of theirs
    std::optional<std::int64_t> max_age_s = {};
    std::optional<std::int64_t> stale_if_error_s = {};
    std::vector<std::string> tags = {};

    // Of the prepared request.
    std::string_view refused = "unprepared";     // why it passes the cache by; empty: it does not
    base::BlockHash key{};                       // its name; equal names mean equal answers
    std::optional<base::BlockHash> common = {};  // its name whoever asks; none: its answer is its tenant's alone
    std::string tenant = {};
    std::string model = {};
    std::string revision = {};
    std::shared_ptr<const caching::Question> question = {};  // where similar ones may answer it
    std::optional<EncodedQuestion> encoded = {};             // and an encoder of the cluster makes its vector

    // What came of it.
    CacheOutcome outcome = CacheOutcome::none;
    std::string_view kind = {};  // exact, semantic, common
    std::string entry = {};
    std::optional<std::int64_t> age_s = {};
    std::optional<double> similarity = {};
    std::uint64_t saved_prompt_tokens = 0;
    std::uint64_t saved_completion_tokens = 0;

    bool is_served() const {
        return outcome == CacheOutcome::hit || outcome == CacheOutcome::stale || outcome == CacheOutcome::coalesced;
    }
    /// x-cache, x-cache-kind, age and so on, of the answer. Empty as long as nothing came of it.
    HttpFields fields() const;
    /// In one word for logs: HIT, MISS, BYPASS, STALE, COALESCED; empty.
    std::string_view word() const;
};

/// Reads the request's Cache-Control and x-cache-tags. Unknown directives are passed over, as RFC 9111 has it.
/// Errors: 400 for a number of seconds that is none, or for tags that are more than 16, or longer than 64 characters,
/// or of others than A-Z a-z 0-9 . _ : - /
ApiResult<std::shared_ptr<CacheAsk>> read_cache_ask(const RequestHead& head);

}  // namespace gateway
