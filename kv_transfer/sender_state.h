#pragma once

// The inside of KvSender: sender.cpp has the calls from other threads, sender_loop.cpp what the own thread does.

#include <atomic>
#include <deque>
#include <list>
#include <map>
#include <mutex>
#include <set>
#include <span>
#include <utility>
#include <variant>
#include <vector>

#include "kv_cache/kv_access.h"
#include "kv_cache/kv_layout.h"
#include "kv_cache/kv_store.h"
#include "kv_transfer/chunk_grid.h"
#include "kv_transfer/codec/codec.h"
#include "kv_transfer/command_thread.h"
#include "kv_transfer/coverage.h"
#include "kv_transfer/frames.h"
#include "kv_transfer/rate/bandwidth.h"
#include "kv_transfer/rate/rate_controller.h"
#include "kv_transfer/sender.h"
#include "kv_transfer/staging.h"
#include "kv_transfer/transfer_metrics.h"

namespace kv_transfer {

struct KvSender::State {
    // Commands, by whoever sends them.
    struct Open {
        HandoffKey key;
        std::string kv_address;
        std::uint32_t kv_tokens;
        std::vector<base::BlockId> blocks;
        base::TimePoint deadline;
        std::vector<KvMode> modes;  // proposed, besides raw; one unless they are chosen frame by frame
        bool choose_mode;
        std::optional<base::TimePoint> due;
        base::Duration computing;
        base::Duration computing_whole;
        Slots::Slot slot;
    };
    struct Ready {
        HandoffKey key;
        kv_cache::KvRange range;
    };
    struct Abort {  // of decode
        HandoffKey key;
        base::Error error;
    };
    struct Reply {
        net::PeerId from;
        HandoffKey key;
        sluice::proto::RoomReply::Answer answer;
        std::uint32_t have_tokens;
        base::Error error;
        proto::KvMode kv_mode;
        std::vector<proto::KvMode> kv_modes;
        bool from_end;
    };
    struct Ack {
        net::PeerId from;
        HandoffKey key;
        std::uint32_t number;
        std::optional<base::Error> error;
        bool complete;
        base::Duration landed_ago;  // 0: not told
        base::Duration decoded_in;
    };
    struct PeerLost {
        net::PeerId peer;
        base::Error why;
    };
    struct Fetch {  // another worker asks
        net::PeerId from;
        HandoffKey key;
        std::vector<base::BlockHash> hashes;
        base::TimePoint deadline;
    };
    struct RefuseFetch {
        HandoffKey key;
        base::Error error;
        Slots::Slot slot;  // bounds how many of these wait
    };
    using Command = std::variant<Open, Ready, Abort, Reply, Ack, PeerLost, Fetch, RefuseFetch>;

    /// One frame that is packed and not acknowledged.
    struct Frame {
        FrameInfo info;
        StagingPool::Buffer buffer;
        std::span<const std::byte> payload;  // in buffer
        base::TimePoint sent_at;
        std::optional<base::TimePoint> retry_at;  // asked for; else after the acknowledgement's timeout
        std::uint32_t failures = 0;
    };

    struct Handoff {
        enum class Phase { asking, later, granted };

        Open open;
        base::TimePoint due;  // what is due first is sent first
        Phase phase = Phase::asking;
        net::PeerId peer{};
        std::uint32_t granted_from = 0;  // have_tokens of the grant
        std::uint32_t have_tokens = 0;   // grows where decode computes from the front
        bool from_end = false;           // it does: the last tokens go first
        std::vector<KvMode> modes;       // granted, besides raw
        KvMode mode_sent;                // the lossiest so far
        ChunkGrid grid;                  // since the grant, where modes is not empty
        std::uint64_t bytes_left = 0;    // of KV since the grant, not packed
        std::deque<kv_cache::KvRange> ready;
        Coverage packed;  // since the grant
        std::map<std::uint32_t, Frame> unacknowledged;
        std::uint32_t frames = 0;
        std::uint64_t payload_bytes = 0;
        base::TimePoint granted_at;
        base::TimePoint heard_at;
        base::TimePoint acknowledged_at;
        base::TimePoint ask_again_at;
    };
    using Handoffs = std::list<Handoff>;  // by when they are due, then in order of opening

    /// A fetch that the step thread has not answered yet.
    struct AskedFetch {
        net::PeerId peer{};
        base::TimePoint deadline;
        Slots::Slot slot;
    };

    State(Options options_in, Identity identity_in, const kv_cache::KvLayout& layout_in, kv_cache::KvStore& store_in,
          net::Transport& transport_in, const base::Clock& clock_in, base::Metrics* metrics_in, SenderEvents events_in);

    // The own thread.
    bool proceed(base::TimePoint now);
    std::optional<base::TimePoint> next_due() const;
    void fail_all(const base::Error& error);

    void apply(Open& command);
    void apply(Ready& command);
    void apply(Abort& command);
    void apply(Reply& command);
    void apply(Ack& command);
    void apply(PeerLost& command);
    void apply(Fetch& command);
    void apply(RefuseFetch& command);

    // sender_fetches.cpp; the first on the transport's thread.
    base::Result<net::Target> fetch_begins(net::PeerId from, std::span<const std::byte> header);
    std::optional<net::PeerId> take_fetch(const HandoffKey& key);
    bool forget_late_fetches(base::TimePoint now);
    void forget_fetches_of(net::PeerId peer);

    bool fail_what_others_ended();
    bool check_timers(base::TimePoint now);
    bool send_one_frame(base::TimePoint now);
    bool resend(Handoffs::iterator handoff, base::TimePoint now);
    bool pack_next(Handoffs::iterator handoff, base::TimePoint now);
    void leave_front(Handoffs::iterator handoff, std::uint32_t have_tokens);
    void encode(Frame& frame, const KvMode& mode);

    // sender_rates.cpp
    base::Result<std::vector<KvMode>> granted_modes(const Handoff& handoff, const Reply& reply) const;
    bool wire_is_full(const Handoff& handoff) const;
    base::Duration time_under_way(net::PeerId peer) const;
    std::vector<std::pair<KvMode, WayToSend>> ways_of(std::span<const KvMode> modes) const;
    RateQuestion question_for(const Handoff& handoff, std::uint64_t bytes_left, std::uint64_t frame_bytes) const;
    base::Duration expected_to_send(const Handoff& handoff) const;
    std::size_t front_bytes_max(const Handoff& handoff) const;
    void tell_rates(const Handoff& handoff, FrameInfo& info) const;
    KvMode choose_mode(const Handoff& handoff, std::size_t frame_bytes, base::TimePoint now) const;
    void note_encoded(const Frame& frame, const KvMode& mode, std::size_t coded_bytes, base::Duration taken);
    void note_landed(const Handoff& handoff, const Frame& frame, const Ack& ack, base::TimePoint now);
    bool post_frame(Handoffs::iterator handoff, Frame& frame, base::TimePoint now);
    void post(net::PeerId peer, net::MessageKind kind, const google::protobuf::MessageLite& message);
    void ask_for_room(Handoff& handoff, base::TimePoint now);
    void tell_abort(net::PeerId peer, const HandoffKey& key, const base::Error& error);
    void drop_frame(Handoff& handoff, std::map<std::uint32_t, Frame>::iterator frame);
    bool complete_if_done(Handoffs::iterator handoff);
    void complete(Handoffs::iterator handoff);
    void fail(Handoffs::iterator handoff, base::Error error, bool tell_decode);
    void release(Handoffs::iterator handoff);
    Handoffs::iterator find(const HandoffKey& key);

    const Options options;
    const Identity identity;
    const kv_cache::KvLayout& layout;
    const kv_cache::KvStore& store;
    base::Result<kv_cache::KvAccess> access;  // of the own thread
    net::Transport& transport;
    const base::Clock& clock;
    const SenderEvents events;
    const std::size_t frame_bytes_max;
    const std::size_t peer_frames_max;  // so that a stalled decode worker does not hold every staging buffer
    TransferMetrics metrics;
    Slots slots;
    Slots fetch_slots;

    mutable std::mutex mutex;
    std::set<HandoffKey> open_keys;                // guarded by mutex: from open() to released
    std::map<HandoffKey, base::Error> ended_keys;  // guarded by mutex: open ones that this worker ends
    bool is_stopped = false;                       // guarded by mutex
    std::atomic<std::size_t> inflight_bytes{0};

    // Of the own thread.
    Handoffs handoffs;
    std::map<HandoffKey, Handoffs::iterator> by_key;
    std::map<HandoffKey, AskedFetch> asked_fetches;
    std::map<net::PeerId, base::TimePoint> peer_heard_at;
    std::map<net::PeerId, std::size_t> peer_frames;  // unacknowledged
    std::map<net::PeerId, std::size_t> peer_bytes;   // the same, of payload
    std::map<net::PeerId, WireMeter> wires;          // to peers that are not lost
    /// What coding takes, as it was lately.
    struct CodedRates {
        KvMode mode;
        Ratio wire_share;   // payload by KV
        Ratio encode_rate;  // bytes of KV a second
        Ratio decode_rate;
    };
    static std::vector<CodedRates> believed_rates(const Codecs& codecs);
    std::vector<CodedRates> rates;

    CommandThread<Command> thread;  // all above outlive it
    StagingPool staging;            // a returned buffer wakes the thread
    StagingPool::Buffer workspace;  // where codecs write: the next frame's buffer, or this one's; null without codecs
};

}  // namespace kv_transfer
