#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/block_hash.h"
#include "base/clock.h"
#include "base/ids.h"
#include "base/metrics.h"
#include "base/result.h"
#include "kv_transfer/codec/codec.h"
#include "kv_transfer/handoff.h"
#include "kv_transfer/slots.h"
#include "net/transport.h"

namespace kv_cache {
class KvLayout;
class KvStore;
}  // namespace kv_cache

namespace kv_transfer {

/// What the sender tells the worker's step thread about one hand-off that `open` took. In this order:
/// at most one later, at most one granted, then exactly one of completed / failed, then exactly one released. A
/// hand-off counts as open (handoffs_max) until its released is dealt with, so at most kPerHandoff * handoffs_max
/// events wait.
///
/// Another worker that fetches KV (its key says so) comes before that, as fetch_requested: the step thread answers by
/// open or refuse_fetch, and hands the event's slot on with it. A fetch counts (fetches_max) until its slot is gone, so
/// at most kPerFetch * fetches_max events of fetches wait.
struct SenderEvent {
    enum class Kind {
        fetch_requested,  // has it the KV of these blocks?
        granted,          // decode takes the KV; it holds `have_tokens` already; frames go as layers get ready
        later,            // decode has no room now: the KV stays here under the lease, sending begins with a granted
        completed,        // decode has all of it, checked and unpacked
        failed,           // see error: decode recomputes what it lacks, or the request has ended
        released,         // no block of this hand-off is read any more
    };
    Kind kind{};
    HandoffKey key;
    std::uint32_t have_tokens = 0;                    // granted
    std::uint64_t payload_bytes = 0;                  // completed: bytes of frames, resends counted
    base::Duration duration{};                        // completed: from the grant to the last acknowledgement
    KvMode mode{};                                    // completed: the lossiest of its frames (lossier())
    std::optional<base::Error> error = std::nullopt;  // failed
    Slots::Slot slot = nullptr;  // released, fetch_requested: it counts as open until this is dropped

    std::vector<base::BlockHash> hashes = {};  // fetch_requested: 1 to kFetchBlocksMax, a run of a chain
    base::TimePoint deadline{};                // fetch_requested: the other worker gives up then

    static constexpr std::size_t kPerHandoff = 4;  // at most: granted, later, an end, released
    static constexpr std::size_t kPerFetch = kPerHandoff + 1;
};

/// Called on the sender's thread. Must only push to a queue and return; must not call the sender.
using SenderEvents = std::function<void(SenderEvent)>;

/// One hand-off as the prefill worker begins it, or answers a fetch: with the key and the slot of its event, for the
/// first blocks of those that were asked for.
struct OpenHandoff {
    HandoffKey key;
    std::string kv_address;                 // of the decode worker's transport; unused for a fetch
    std::uint32_t kv_tokens = 0;            // > 0: tokens of KV that decode shall get
    std::span<const base::BlockId> blocks;  // copied; hold tokens [0, kv_tokens) in sequence order
    base::TimePoint deadline{};             // the hand-off fails then
    proto::KvMode kv_mode = {};             // as the placement says; raw where it is not known here, or not on decode
    Slots::Slot fetch_slot = nullptr;       // of a fetch, and only then
    /// Each frame goes as the wire, the coders and `due` make best (rate/rate_controller.h), by any codec that both
    /// sides have, lossy ones only with `allow_lossy`; kv_mode is not looked at.
    bool choose_mode = false;
    bool allow_lossy = false;
    /// All KV should be there by then, and what is due first is sent first; empty: as soon as possible, after what is
    /// due within ten seconds.
    std::optional<base::TimePoint> due = std::nullopt;
    /// What this worker is expected to compute: until all of it can be sent; for all of it, had it nothing (0: not
    /// known). Told to decode, which may compute some, too.
    base::Duration computing{};
    base::Duration computing_whole{};
};

/// Prefill side of the hand-offs: asks decode for room, and pushes layer groups as soon as they are both computed and
/// granted; hears of workers that fetch KV from here. Packs into a bounded set of staging buffers, so that blocks are
/// read only while `released` is outstanding and never by the network. Frames that are lost or damaged go again, a
/// bounded number of times. Every hand-off ends, whatever the other side does.
///
/// Threads: `open`, `ready`, `abort` may be called from any thread and do not wait; packing, checksums, timers and
/// events run on a thread of its own. Implements net::Handler for the kinds that go to prefill; KvRouter connects it.
class KvSender final : public net::Handler {
public:
    struct Options {
        std::size_t frame_bytes_max = std::size_t{4} << 20;      // of payload; at most the transport's limit
        std::size_t staging_buffers = 8;                         // of frame_bytes_max each; touched only when used
        std::size_t inflight_bytes_max = std::size_t{32} << 20;  // packed and not acknowledged, all hand-offs together
        std::size_t handoffs_max = 1024;                         // until their released is dealt with
        std::size_t fetches_max = 64;                            // of other workers, beside those; 0: all are refused
        std::uint32_t frame_retries = 4;  // resends of one frame for damage or a lost acknowledgement
        // To this and send_timeout slow_wire_time() (rate/bandwidth.h) of what is under way is added.
        base::Duration ack_timeout = std::chrono::seconds(2);           // then the frame goes again
        base::Duration refused_delay = std::chrono::milliseconds(2);    // receiver's staging full: again after this
        base::Duration room_interval = std::chrono::milliseconds(250);  // the request for room is repeated: asks,
                                                                        // renews the lease, shows that we live
        base::Duration peer_timeout = std::chrono::seconds(5);  // nothing heard for so long: the peer counts as lost
        base::Duration send_timeout = std::chrono::seconds(3);  // of one message inside the transport
        Codecs codecs = {};                                     // besides raw
        bool own_thread = true;                                 // false: `tick()` does the work (tests)
    };

    /// All references must outlive the sender. `metrics` may be null.
    KvSender(Options options, Identity identity, const kv_cache::KvLayout& layout, kv_cache::KvStore& store,
             net::Transport& transport, const base::Clock& clock, base::Metrics* metrics, SenderEvents events);
    ~KvSender() override;
    KvSender(const KvSender&) = delete;
    KvSender& operator=(const KvSender&) = delete;

    /// Begins a hand-off: asks decode for room at once; `ready` may follow before the answer. The blocks must stay as
    /// they are (and not be reused) until `released`.
    /// Error (no event follows): resource_exhausted (too many open), failed_precondition (key is open already),
    /// invalid_argument (blocks and tokens do not fit), unavailable (stopped).
    [[nodiscard]] base::Result<void> open(const OpenHandoff& handoff);

    /// The other answer to a fetch_requested: tells the worker that asked. No event follows.
    void refuse_fetch(const HandoffKey& key, base::Error error, Slots::Slot fetch_slot);

    /// The KV of these layers of these tokens is computed and will not change. Called from the engine's compute thread;
    /// a few hundred nanoseconds. Ranges are half open, in any order, may overlap; tokens that decode holds are
    /// skipped. An unknown key (the hand-off has ended) has no effect.
    void ready(const HandoffKey& key, std::uint32_t layer_begin, std::uint32_t layer_end, std::uint32_t token_begin,
               std::uint32_t token_end);

    /// Ends the hand-off with failed(error) and released; tells decode. An unknown key has no effect.
    void abort(const HandoffKey& key, base::Error error);

    /// Fails what is open with `unavailable` (with its events), joins the thread. Idempotent. Call before
    /// Transport::stop(); the sender must not be destroyed before the transport has stopped.
    void stop();

    /// With own_thread = false: does what is to be done now; true when it did anything.
    bool tick();

    /// Not yet released.
    std::size_t handoffs_open() const;
    /// Packed and not yet acknowledged.
    std::size_t inflight_bytes() const;

    base::Result<net::Target> on_header(net::PeerId from, net::MessageKind kind, std::span<const std::byte> header,
                                        std::size_t payload_bytes) override;
    void on_payload(net::ReceiveToken token, base::Result<void> outcome) override;
    void on_peer_lost(net::PeerId peer, const base::Error& why) override;

private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace kv_transfer
