#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>

#include "base/clock.h"
#include "base/result.h"
#include "kv_cache/kv_cache.h"
#include "kv_transfer/handoff.h"
#include "worker/sequence.h"

namespace worker {

/// Tokens [token_begin, token_end) that a step computes of a sequence whose KV is handed over.
struct LaunchedChunk {
    kv_transfer::HandoffKey handoff;
    std::uint32_t token_begin = 0;
    std::uint32_t token_end = 0;
};

/// What a worker for decode knows of a hand-off when its KV is there.
struct MeasuredHandoff {
    std::uint32_t tokens = 0;  // of KV that came
    base::Duration waited{};   // when the first token was known and there was room for it
    std::uint32_t others = 0;  // that were waited for just so when this one began to be
    /// What is told at least: shorter waits are all alike, and far apart as ratios.
    static constexpr std::int64_t kToldMinUs = 100;
};

/// What a role part may do to the step loop. All calls on the step thread, except post().
class StepControl {
public:
    virtual ~StepControl() = default;
    /// The live sequence of this key, or null. Valid until the call returns to the loop.
    virtual Sequence* find(RequestKey key) = 0;
    /// Ends the sequence with its one final output; `sequence` is gone afterwards.
    virtual void finish(Sequence& sequence, Finish finish, std::optional<base::Error> error) = 0;
    /// KV memory and tokens are there: the next step may include it.
    virtual void make_running(Sequence& sequence) = 0;
    /// Gives up its KV memory (if any): it is admitted like a new sequence and computes what no prefix hit covers. The
    /// running step must not include it.
    virtual void make_waiting(Sequence& sequence) = 0;
    /// Makes `kv` findable up to its full, computed blocks.
    virtual void publish(Sequence& sequence) = 0;
    /// Asks for KV memory for `kv_tokens` tokens that another worker computes, and for the one after them, for a
    /// sequence that awaits them. RolePart::room_granted follows, at once or later; make_waiting and `room.reset()`
    /// take the wish back.
    virtual void want_room(Sequence& sequence, std::uint32_t kv_tokens) = 0;
    /// Something loads KV into the memory of a sequence that has just been admitted: it keeps the memory and does not
    /// run until loaded(). Who loads holds the blocks (KvCache::hold) as long as they are written.
    virtual void make_loading(Sequence& sequence) = 0;
    /// Something puts KV into the end of its memory while steps compute what comes before: of a running sequence, or of
    /// one that awaits KV and has room for it. May be called again as often as the bounds move; `until` must not lie
    /// before what a running step computes. front_computed() follows whenever computing has come to `until`. Whoever
    /// calls ends it by loaded(), or resets Sequence::from_end where its state changes with it. Until then the sequence
    /// gives way to nobody.
    virtual void load_from_end(Sequence& sequence, const KvFromEnd& range) = 0;
    /// Loading has ended: KV of the first `kv_tokens` (fewer than it has) is there, or, with an error, what no prefix
    /// hit covers is computed. RolePart::loaded follows from inside. Without effect when the sequence has ended
    /// meanwhile. After load_from_end: all before it is computed, and no step runs that computes it; or, with an error,
    /// it computes on from where it stands.
    virtual void loaded(RequestKey key, base::Result<std::uint32_t> kv_tokens) = 0;
    /// What computing the KV of `tokens` tokens behind `computed_tokens` is expected to take here, without what it
    /// would wait for; empty while too little is known.
    virtual std::optional<base::Duration> predict_prefill(std::uint32_t computed_tokens,
                                                          std::uint32_t tokens) const = 0;
    virtual kv_cache::KvCache& cache() = 0;
    virtual const base::Clock& clock() const = 0;
    /// Any thread: runs `task` on the step thread soon. For events of which each hand-off has a bounded number: there
    /// is room for all of them. False after the loop has ended.
    [[nodiscard]] virtual bool post(std::function<void()> task) = 0;
    /// One hand-off to this worker, for the scheduler's predictor.
    virtual void add_transfer_sample(const MeasuredHandoff& handoff) = 0;
    /// What loading the KV of a token from the `level`-th level below the pool (0: the nearest) takes now, for the
    /// scheduler.
    virtual void tell_load_price(std::size_t level, double seconds_per_token) = 0;
};

/// What a role adds to the step loop: prefill_worker::PrefillPart hands KV over, decode_worker::DecodePart takes it.
/// Called on the step thread unless said otherwise, also while a step runs. A helper (StepLoop::add_helper) is for the
/// sequences of all parts: it hears of admitted, closing, tick, next_tick, busy and ending, and, as nobody else,
/// of published, leaving, dropped, blocks_returning, blocks_to_save and what is loaded ahead.
class RolePart {
public:
    virtual ~RolePart() = default;

    /// A sequence of this part was accepted; it has no KV memory yet.
    virtual void started(Sequence&) {}
    /// It has KV memory now; sequence.computed_tokens of it are a prefix hit. Must not end a sequence, like the next
    /// two.
    virtual void admitted(Sequence&) {}
    /// What was loading is there: KV of [tokens_before, sequence.computed_tokens), perhaps none.
    virtual void loaded(Sequence&, std::uint32_t /*tokens_before*/) {}
    /// Computing has come to where KV from elsewhere begins, or may begin (Sequence::from_end). Told helpers, too.
    virtual void front_computed(Sequence&) {}
    /// It has the memory that it asked for with want_room; sequence.computed_tokens of it are a prefix hit.
    virtual void room_granted(Sequence&) {}
    /// There is no room for it now; it keeps its place. May come many times.
    virtual void room_delayed(Sequence&) {}
    /// Its token was sampled; all KV before that token is computed.
    virtual void sampled(Sequence&) {}
    /// The gateway's Continue was applied to sequence.tokens.
    virtual void continued(Sequence&) {}
    /// It is about to end, for whatever reason (also the gateway's wish).
    virtual void closing(Sequence&) {}
    /// More of its blocks are full and findable (Sequence::kv->blocks_published()).
    virtual void published(Sequence&) {}
    /// It gives up its KV memory now, with what it computed published: for good, or to wait for memory again.
    virtual void leaving(Sequence&, bool /*for_good*/) {}
    /// No later sequence may find what was computed until now (KvCache::drop_prefixes was called).
    virtual void dropped() {}
    /// KV blocks of sequences that have left, which this helper gives back within a step.
    virtual std::uint32_t blocks_returning() const { return 0; }
    /// Blocks that would have to be copied out first if this sequence gave way now.
    virtual std::uint32_t blocks_to_save(const Sequence&) const { return 0; }
    /// Whether it can begin now to load KV for somebody who waits for memory.
    virtual bool may_load_ahead() const { return false; }
    /// While it may: how many leading blocks of the tokens of a sequence that waits it has.
    virtual std::uint32_t blocks_ahead(const Sequence&) const { return 0; }
    /// Loads at most `blocks` (> 0) blocks behind `prefix`, what the pool has of a sequence that waits, and publishes
    /// them: from then on they are there for whoever needs them, or their room. Only while may_load_ahead(), and no
    /// more than blocks_ahead() has; there is room for them. `kept`: blocks of the prefix that only it uses.
    virtual void load_ahead(const Sequence&, kv_cache::PrefixMatch /*prefix*/, std::uint32_t /*kept*/,
                            std::uint32_t /*blocks*/) {}
    /// Its KV memory is about to be taken away (preemption).
    virtual bool may_preempt(const Sequence&) const { return true; }
    /// Often, between commands: timers, room for those who wait.
    virtual void tick() {}
    /// When tick() wants to run again at the latest.
    virtual std::optional<base::TimePoint> next_tick() const { return std::nullopt; }
    /// The loop ends: no sequence is left and none comes. Whatever is done for others ends, too.
    virtual void ending() {}
    /// Transfers still touch blocks: the loop may not end yet.
    virtual bool busy() const { return false; }
    /// The hand-off that wants to hear of the layers of this sequence (layers_done), if any.
    virtual std::optional<kv_transfer::HandoffKey> handoff_of(const Sequence&) const { return std::nullopt; }
    /// Engine's compute thread, while any other call may run on the step thread: layers [layer_begin, layer_end) of
    /// these chunks are in the blocks. Must only hand it on. A hand-off may have ended since its chunk was launched.
    virtual void layers_done(std::span<const LaunchedChunk>, std::uint32_t /*layer_begin*/,
                             std::uint32_t /*layer_end*/) {}
};

}  // namespace worker
