#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "base/reasoning.h"
#include "base/result.h"
#include "gateway/explain/timeline.h"
#include "gateway/request/ports.h"
#include "gateway/request/prompt_hashes.h"
#include "gateway/request/session_hints.h"
#include "gateway/request/slo_targets.h"
#include "gateway/request/text_stream.h"

namespace gateway {

struct CacheAsk;
struct RoutedAsk;

/// What one sequence shall be: a prompt, how tokens are chosen and where it ends; or a text whose vector is wanted.
struct GenerationRequest {
    /// A vector of `prompt` is the answer: model, tenant and deadline count, what is about tokens does not.
    bool encodes = false;
    std::size_t model = 0;          // of the gateway's Models
    std::string tenant;             // whom it is counted for
    std::string session = {};       // the client's name of its conversation for a capture; empty: none
    SessionHints hints = {};        // for placement
    RequestSlo slo;                 // what is promised
    base::TimePoint received_at{};  // from when its TTFT counts
    std::shared_ptr<const std::vector<base::TokenId>> prompt;  // not empty; choices of one prompt share it
    std::shared_ptr<const PromptHashes> hashes;                // of `prompt`, likewise; empty: no prefix can be reused
    proto::Sampling sampling;                                  // seed and choice set
    std::vector<base::TokenId> stop_tokens;                    // the client's, then EOS ids (unless ignored)
    std::size_t stop_tokens_asked = 0;                         // so many of them are the client's
    std::uint32_t new_tokens_max = 0;                          // > 0
    std::uint32_t new_tokens_min = 0;                          // <= new_tokens_max
    TextStream::Options text;
    bool skip_special = true;
    std::string cache_scope;
    std::shared_ptr<const proto::Grammar> grammar = {};  // that the tokens keep to; null: none
    std::optional<base::ReasoningRule> reasoning = {};   // where the model reasons; `grammar` is about what follows it
    std::optional<base::TimePoint> deadline;
    std::string traceparent = {};  // of its request's span; empty: not traced
    /// What may stand in front of the model; null: nothing. A new field above on which tokens depend belongs into the
    /// name of the request, too (gateway/cache/cache_request.cpp).
    std::shared_ptr<CacheAsk> cache = {};
    std::shared_ptr<RoutedAsk> routed = {};  // where two models answer to the name that was asked for
};

/// Why a sequence ended.
enum class EndReason { stop, length, failed, cancelled };

/// The one final answer about a sequence.
struct GenerationEnd {
    EndReason reason = EndReason::failed;
    std::optional<std::string> stop_string = {};   // reason stop: by this string
    std::optional<base::TokenId> stop_token = {};  // reason stop: by this token
    std::optional<base::Error> error = {};         // reason failed
    std::uint32_t retry_after_ms = 0;              // reason failed: 0 means that a repeat cannot succeed soon
    std::uint32_t prompt_tokens = 0;
    std::uint32_t cached_tokens = 0;      // of the prompt, found in a prefix cache by the first placement
    std::uint32_t completion_tokens = 0;  // the stop token counted
    std::uint32_t reasoning_tokens = 0;   // of them
    std::optional<base::TimePoint> first_token_at = {};
    base::Duration tpot{};  // mean gap of the tokens after the first; 0 without any
    /// How its KV came from another worker: "raw", "exact", the lossiest codec and level ("sluice/3"), "pushed" (by a
    /// worker that does not say how), "recomputed"; empty: it never had to.
    std::string kv = {};
    std::shared_ptr<const SequenceTimeline> timeline = nullptr;  // where they are kept
};

/// Whether GenerationEnd::kv names something lossy.
inline bool is_lossy_label(std::string_view kv) {
    return kv.find('/') != std::string_view::npos;
}

/// Who asked for one sequence. Called on the source's thread; may cancel sequences from inside a call. Must outlive the
/// sequence's end.
class GenerationSink {
public:
    virtual ~GenerationSink() = default;
    /// Once, first: from here on refusals are no longer possible, only failures.
    virtual void on_placed() = 0;
    /// Once, before the first piece, when prompt logprobs were asked for: one record per prompt token from the second
    /// on.
    virtual void on_prompt(std::vector<TokenRecord> records) = 0;
    /// What one generated token let out; the piece may be empty. `generated_tokens` counts it. `path`: local, disagg,
    /// prefix_hit.
    virtual void on_piece(Piece piece, std::uint32_t generated_tokens, std::string_view path) = 0;
    /// Once, where a vector was asked for; then its end, with EndReason::stop.
    virtual void on_vector(std::vector<float> /*vector*/) {}
    /// Exactly once, last.
    virtual void on_end(const GenerationEnd& end) = 0;
};

/// Where sequences come from: the model (RequestTable), or whoever already has the answer. One thread.
class SequenceSource {
public:
    virtual ~SequenceSource() = default;
    /// True when `count` more sequences may be opened.
    virtual bool has_room(std::size_t count) const = 0;
    /// Opens a sequence; there must be room. `sink` may hear of it from inside this call already, up to its end.
    virtual base::RequestId open(GenerationRequest request, GenerationSink& sink) = 0;
    /// Ends a sequence with reason cancelled, told from inside this call; no effect when it has ended.
    virtual void cancel(base::RequestId id, std::string_view cause) = 0;
};

}  // namespace gateway
