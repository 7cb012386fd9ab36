#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/block_hash.h"
#include "base/clock.h"
#include "base/ids.h"
#include "base/reasoning.h"
#include "base/trace.h"
#include "engine/grammars.h"
#include "engine/sampling.h"
#include "kv_cache/kv_cache.h"
#include "proto/common.pb.h"
#include "proto/version.h"
#include "worker/sequence_trace.h"

namespace worker {

/// A gateway's stream of commands as this worker numbers it. Outputs go back to where the command came from.
enum class GatewayId : std::uint64_t {};

/// One attempt at one request. An output, a command or a frame of an older epoch never matches.
struct RequestKey {
    base::RequestId request{};
    base::Epoch epoch{};
    auto operator<=>(const RequestKey&) const = default;
};

/// Which phases of a request this worker runs.
enum class Part { prefill, decode, whole, encode };
inline constexpr std::size_t kParts = 4;

/// When a sequence ends. Counted from the end of the client's prompt, also when earlier tokens were generated
/// elsewhere.
struct StopRules {
    std::vector<base::TokenId> stop_tokens;  // after new_tokens_min
    std::uint32_t new_tokens_max = 0;        // > 0
    std::uint32_t new_tokens_min = 0;
};

/// The other worker of a split request.
struct Peer {
    base::WorkerId worker{};
    base::Incarnation incarnation{};
    std::string kv_address;  // net::Transport::address()
};

/// A worker that may hold KV of the first tokens (proto KvSource): asked for what is not here.
struct KvSource {
    Peer worker;
    std::uint32_t kv_tokens = 0;             // at most
    std::optional<base::TimePoint> give_up;  // later than that computing is better; empty: the worker's own limit
};

/// What was promised for a request; nothing, by default.
struct SloTargets {
    std::optional<base::TimePoint> first_token;  // its first token is due then
    base::Duration tpot{};                       // mean gap of the later ones; 0: none
};

/// What a gateway asks for (proto Start, checked).
struct StartRequest {
    RequestKey key;
    GatewayId gateway{};
    Part part = Part::whole;
    std::vector<base::TokenId> prompt;
    std::vector<base::TokenId> generated;  // tokens the client already has
    engine::SamplingParams sampling;
    StopRules stop;
    std::string cache_scope;
    std::string tenant = "default";  // whom it is counted for
    double tenant_tokens = 0;        // virtual tokens that this one has had beyond the least (VTC)
    std::int32_t priority = 0;       // of its class; higher goes first where KV memory is short
    std::optional<base::TimePoint> deadline;
    SloTargets slo;
    Peer peer;                                                       // prefill and decode parts
    proto::KvMode kv_mode = {};                                      // of the hand-off, as the placement says
    bool allow_lossy_kv = false;                                     // its hand-off may lose a little
    std::optional<KvSource> kv_source = std::nullopt;                // until it was asked
    std::uint64_t session = 0;                                       // stands for its conversation; 0: none
    bool session_ends = false;                                       // nothing of it follows
    bool explain = false;                                            // tell where the time went
    std::optional<engine::GrammarSpec> grammar = std::nullopt;       // what the generated tokens keep to
    std::optional<base::ReasoningRule> reasoning = std::nullopt;     // `grammar` is about what follows it
    std::optional<base::TraceContext> trace_context = std::nullopt;  // under which a span of this part is told
};

/// Why a sequence ended here.
enum class Finish { none, stop, length, handed_over, error, cancelled };

/// What one step gave for one sequence (proto SequenceOutput).
struct SequenceOutput {
    RequestKey key;
    std::vector<engine::SampledToken> tokens;
    std::vector<engine::SampledToken> prompt_scores;
    Finish finish = Finish::none;
    std::optional<base::Error> error;
    std::uint32_t cached_tokens = 0;
    std::string kv_path;
    std::string kv_codec = {};       // how its KV came: kv_transfer::KvMode::label
    std::vector<float> vector = {};  // encode part
    std::optional<PartTimes> times = std::nullopt;
};

/// Where a sequence stands. A step may include it only as `running`.
enum class SequenceState {
    waiting,       // accepted; has no KV memory yet
    awaiting_kv,   // decode part: KV or the first token is still to come
    loading,       // has KV memory, into which something (a tier) loads: runs when that has ended, well or not
    running,       // has KV memory (encode part: needs none); tokens are left to compute
    handing_over,  // prefill part: sampled; the KV is still on its way
    ended,         // its final output is out; only the step that was running then still knows it
};

/// KV memory that a decode part has asked for (StepControl::want_room).
struct RoomWish {
    std::uint32_t kv_tokens = 0;  // that another worker computes
    std::uint64_t turn = 0;       // first come, first served
};

/// KV of its tokens [begin, end) that something else puts into its memory, or has, while steps compute those before.
/// No step computes beyond `until`, which is at most `begin`: what lies between is nobody's yet.
struct KvFromEnd {
    std::uint32_t until = 0;  // token; a multiple of the block size, like `begin`
    std::uint32_t begin = 0;
    std::uint32_t end = 0;
};

/// From when on tokens are due, one each TPOT target: a stream that gave more than that is ahead of its schedule.
struct TokenSchedule {
    base::TimePoint begin;
    std::uint32_t generated = 0;  // tokens that were there then
};

/// One stream of tokens inside one worker. Owned by the step thread.
struct Sequence {
    base::SequenceId id{};
    StartRequest request;
    SequenceState state = SequenceState::waiting;
    base::TimePoint accepted{};
    base::Duration waited{};                     // for KV memory, until it got it last
    std::optional<base::TimePoint> waits_since;  // for KV memory
    std::optional<TokenSchedule> schedule;       // with a TPOT target, from the first token on

    std::vector<base::TokenId> tokens;  // prompt, then generated
    std::uint32_t prompt_tokens = 0;
    std::uint32_t computed_tokens = 0;  // KV of tokens [0, computed_tokens) is in the blocks
    std::optional<kv_cache::SequenceKv> kv;
    std::optional<RoomWish> room;       // awaiting_kv, without kv
    std::optional<KvFromEnd> from_end;  // running, or awaiting_kv with kv
    bool lacks_kv_only = false;         // awaiting_kv: its first token is known, and it has room for the KV

    /// Of its last tokens: came with the one before them, since a grammar left no choice.
    std::uint32_t forced_tokens = 0;

    std::uint32_t step_tokens = 0;  // its share of the running step; 0: none
    bool step_samples = false;      // that step chooses its next token

    std::vector<base::BlockHash> chain;  // of the full blocks of `tokens`, extended as they fill
    std::uint32_t published_blocks = 0;
    std::uint32_t cached_believed =
        0;  // while `waiting`: of `tokens`, what pool and tiers held when they were asked last

    /// While `waiting`, of `tokens`: what another one is computing that begins alike, and this one will find; 0:
    /// nothing.
    std::uint32_t awaited_tokens = 0;

    bool output_started = false;      // cached_tokens and kv_path go with the first output only
    std::uint32_t cached_tokens = 0;  // prefix hit at admission, with what was loaded then
    std::string kv_path;
    std::string kv_codec;                              // pushed KV: how it came
    std::vector<engine::SampledToken> prompt_scores;   // collected over chunks when asked for
    SequenceTrace trace;                               // begun where its request asks for it
    std::unique_ptr<engine::GrammarSequence> grammar;  // where its request has one, until it ends
    std::optional<base::ReasoningState> reasoning;  // where its request has a rule; of the tokens up to the last step

    std::uint32_t generated_tokens() const { return static_cast<std::uint32_t>(tokens.size()) - prompt_tokens; }
    /// Tokens whose KV is missing. One: the next step is a decode. More: (part of) a prefill.
    std::uint32_t tokens_left() const { return static_cast<std::uint32_t>(tokens.size()) - computed_tokens; }

    /// Where the running step leaves it, unless that ends it; without one: where it stands.
    std::uint32_t computed_after_step() const { return computed_tokens + step_tokens; }
    std::uint32_t generated_after_step() const { return generated_tokens() + (step_samples ? 1 : 0); }
    std::uint32_t left_after_step() const { return tokens_left() + (step_samples ? 1 : 0) - step_tokens; }
    /// What is left is what its last step gave: a decode, though of several tokens where a grammar has forced some.
    bool decodes() const { return is_decode(tokens_left()); }
    bool decodes_after_step() const { return is_decode(left_after_step()); }
    /// Of those, what steps may compute before something that comes from elsewhere is there.
    std::uint32_t computable_after_step() const {
        if (!from_end) { return left_after_step(); }
        return from_end->until - std::min(from_end->until, computed_after_step());
    }

    /// Here the tokens that it has now begin to count against its TPOT target, unless earlier ones do.
    void begin_schedule(base::TimePoint now) {
        if (request.slo.tpot > base::Duration::zero() && !schedule) { schedule = {now, generated_tokens()}; }
    }
    base::Duration waited_for_memory(base::TimePoint now) const {
        return waits_since ? waited + (now - *waits_since) : waited;
    }
    /// When the token is due that follows the running step, which ends at `step_end`. Empty: nobody waits for it.
    std::optional<base::TimePoint> next_due(base::TimePoint step_end) const;

    /// A text of which a vector is wanted: no KV, and one step computes all of it.
    bool encodes() const { return request.part == Part::encode; }
    /// Its grammar is being compiled: no step may include it yet.
    bool awaits_grammar() const { return grammar != nullptr && !grammar->is_ready(); }
    bool wants_prompt_scores() const { return request.sampling.prompt_logprobs; }
    bool is_decode(std::uint32_t left) const { return left == 1 || (forced_tokens > 0 && left <= forced_tokens + 1); }
};

}  // namespace worker

template <>
struct std::hash<worker::RequestKey> {
    std::size_t operator()(const worker::RequestKey& key) const noexcept {
        return static_cast<std::size_t>(base::raw(key.request) * 0x9e3779b97f4a7c15ull + base::raw(key.epoch));
    }
};
