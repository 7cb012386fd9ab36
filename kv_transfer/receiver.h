#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>

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

/// What the receiver tells the decode worker's step thread about one hand-off. In this order: exactly one
/// room_requested, then at most one front for each offer_front, then exactly one of completed / failed, then exactly
/// one released. (An ended key that comes again is answered by the receiver itself.) A hand-off counts as open
/// (handoffs_max) until its released is dealt with, so at most kPerHandoff * handoffs_max events wait. One that `fetch`
/// began has no room_requested, and counts by itself (fetches_max, kPerFetch).
struct ReceiverEvent {
    enum class Kind {
        room_requested,  // answer with grant, later or refuse; may overtake the gateway's Start: hold it till then
        front,           // tokens [front_begin, front_end) are this worker's to compute now, all before them are there
        completed,       // the KV of [have_tokens, kv_tokens) is in the granted blocks, checked; of a fetch: of the
                         // first kv_tokens (whole blocks), as many as the other worker has
        failed,          // see error; what the granted blocks hold is undefined
        released,        // nobody writes to blocks granted for this key any more, now or later
    };
    Kind kind{};
    HandoffKey key;
    std::uint32_t kv_tokens = 0;    // room_requested; completed: what is there now
    std::uint32_t front_begin = 0;  // front: multiples of block_tokens
    std::uint32_t front_end = 0;
    bool moves = false;                // room_requested: offer_front can come to something
    base::TimePoint deadline{};        // room_requested: the prefill worker gives up then
    base::Duration sending{};          // room_requested: what the wire is expected to take for all of it; 0: not known
    base::Duration computing{};        // room_requested: until prefill has computed all of it, as it expects
    base::Duration computing_whole{};  // room_requested: had it nothing of it; 0: not known
    std::uint64_t payload_bytes = 0;   // completed
    base::Duration duration{};         // completed: from grant to the last frame
    bool is_lossy = false;  // completed: some of the KV is not what prefill computed, so it must not be published
    KvMode mode{};          // completed: the lossiest of its frames (lossier())
    std::optional<base::Error> error = std::nullopt;  // failed
    Slots::Slot slot = nullptr;                       // released: the hand-off counts as open until this is dropped

    static constexpr std::size_t kPerHandoff = 4;
    static constexpr std::size_t kPerFetch = 2;
};

/// Called on the receiver's thread. Must only push to a queue and return; must not call the receiver.
using ReceiverEvents = std::function<void(ReceiverEvent)>;

/// Room for one hand-off.
struct GrantRoom {
    HandoffKey key;
    std::uint32_t kv_tokens = 0;            // what decode expects; another number than was asked for fails the hand-off
    std::uint32_t have_tokens = 0;          // multiple of block_tokens, <= kv_tokens: KV that is here already
    std::span<const base::BlockId> blocks;  // copied; whole sequence in order, [0, kv_tokens); those below have_tokens
                                            // are never written
    base::Duration lease{};                 // > 0: without a sign of life from prefill for so long the hand-off fails
    base::TimePoint deadline{};             // the hand-off fails then in any case
    bool allow_lossy = false;               // a lossy mode that prefill proposes is granted; else raw is
    bool from_end = false;  // the tokens before have_tokens are being computed here: the last come first
};

/// This worker could compute tokens at the front of a granted hand-off while the rest comes. An offer stands until its
/// `front` has come, another one replaces it, or the hand-off ends.
struct FrontOffer {
    HandoffKey key;
    double tokens_per_s = 0;             // > 0: that it would compute
    std::optional<base::TimePoint> due;  // all KV should be there; empty: as soon as possible
};

/// KV that another worker is asked for. Exact KV only: raw, or by a codec without loss.
struct FetchKv {
    HandoffKey key;                           // decode: this worker's life; prefill: the other's; run > 0
    std::string kv_address;                   // of the other worker's transport
    std::span<const base::BlockHash> hashes;  // copied; 1 to kFetchBlocksMax blocks, in sequence order
    std::span<const base::BlockId> blocks;    // copied; as many: where their KV goes
    base::Duration answer_timeout{};  // > 0: no answer for so long, and it fails (also: too old to know fetches)
    base::Duration lease{};           // > 0: without a sign of life after that for so long it fails
    base::TimePoint deadline{};       // it fails then in any case
};

/// Decode side of the hand-offs. Frames land in a bounded set of staging buffers, are checked against this worker's own
/// layout and the grant (header before the payload is taken, CRC32C before it is unpacked), and are unpacked into
/// granted, unpublished blocks on the receiver's own thread. Repeated, overlapping and reordered frames are harmless.
///
/// Threads: `grant`, `offer_front`, `later`, `refuse`, `fetch`, `abort` may be called from any thread and do not wait;
/// a few times for each hand-off, until its `released` (kCallsPerHandoff may wait). A call for a key that has ended
/// meanwhile has no effect: its `released` is then already on its way, and holds for blocks granted too late as well.
/// Implements net::Handler for the kinds that go to decode; KvRouter connects it.
class KvReceiver final : public net::Handler {
public:
    struct Options {
        std::size_t frame_bytes_max = std::size_t{4} << 20;  // a longer payload is refused
        std::size_t staging_buffers = 8;                     // of frame_bytes_max each; touched only when used
        std::size_t handoffs_max = 1024;  // until their released is dealt with; beyond: answered LATER
        std::size_t fetches_max = 64;     // that this worker begins, beside those, until their released is dealt with
        std::size_t ended_max = 4096;     // keys remembered after their end
        base::Duration fetch_interval = std::chrono::milliseconds(100);  // a fetch is repeated until it is answered
        base::Duration peer_timeout = std::chrono::seconds(5);           // silent for so long before a grant: fails
        base::Duration payload_timeout = std::chrono::seconds(3);        // of one payload under way, then force-close;
                                                                         // slow_wire_time() (rate/bandwidth.h) is added
        base::Duration send_timeout = std::chrono::seconds(3);           // of one reply inside the transport
        Codecs codecs = {};                                              // besides raw
        bool own_thread = true;                                          // false: `tick()` does the work (tests)
    };
    static constexpr std::size_t kCallsPerHandoff = 8;

    /// All references must outlive the receiver. `metrics` may be null.
    KvReceiver(Options options, Identity identity, const kv_cache::KvLayout& layout, kv_cache::KvStore& store,
               net::Transport& transport, const base::Clock& clock, base::Metrics* metrics, ReceiverEvents events);
    ~KvReceiver() override;
    KvReceiver(const KvReceiver&) = delete;
    KvReceiver& operator=(const KvReceiver&) = delete;

    /// Gives room. With have_tokens == kv_tokens the hand-off completes at once. Bad numbers are bugs (CHECK).
    void grant(const GrantRoom& room);

    /// Computing may be worth it, now or when the wire gets slower: then `front` says from where to where, prefill is
    /// told to leave those tokens and to send the last ones first, and whatever comes of them is dropped, so steps may
    /// write them. When (rate/front.h): by what prefill says of the wire with each frame, and by what does not come.
    /// Without effect for a hand-off that is not granted, may have loss, or whose prefill is too old for it.
    void offer_front(const FrontOffer& offer);

    /// Begins a hand-off from here: asks another worker for blocks. completed or failed and then released follow. Its
    /// failures are: not_found (it has not even the first block), unavailable (no answer, or lost), deadline_exceeded,
    /// or what the other worker says.
    /// Error (no event follows): resource_exhausted (too many under way), unavailable (stopped). A key that is open,
    /// bad numbers: bugs (CHECK).
    [[nodiscard]] base::Result<void> fetch(const FetchKv& wanted);

    /// No room now: prefill keeps the KV and asks again; a grant, refuse or abort follows.
    void later(const HandoffKey& key);

    /// No: failed(error) and released follow; prefill is told.
    void refuse(const HandoffKey& key, base::Error error);

    /// Ends a hand-off in any state: failed(error) and released follow; prefill is told.
    void abort(const HandoffKey& key, base::Error error);

    /// Fails what is open with `unavailable` (with its events), joins the thread. Idempotent. Call before
    /// Transport::stop(); the receiver must not be destroyed before the transport has stopped.
    void stop();

    /// With own_thread = false: does what is to be done now; true when it did anything.
    bool tick();

    /// Asked for, waiting or granted.
    std::size_t handoffs_open() const;
    std::size_t staging_buffers_free() const;

    base::Result<net::Target> on_header(net::PeerId from, net::MessageKind kind, std::span<const std::byte> header,
                                        std::size_t payload_bytes) override;
    void on_payload(net::ReceiveToken token, base::Result<void> outcome) override;
    void on_peer_lost(net::PeerId peer, const base::Error& why) override;

private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace kv_transfer
