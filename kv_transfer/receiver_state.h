#pragma once

// The inside of KvReceiver: receiver.cpp has the calls from other threads, receiver_loop.cpp what the own thread does.

#include <atomic>
#include <deque>
#include <map>
#include <mutex>
#include <variant>
#include <vector>

#include "kv_cache/kv_access.h"
#include "kv_cache/kv_layout.h"
#include "kv_cache/kv_store.h"
#include "kv_transfer/command_thread.h"
#include "kv_transfer/coverage.h"
#include "kv_transfer/frames.h"
#include "kv_transfer/receiver.h"
#include "kv_transfer/staging.h"
#include "kv_transfer/transfer_metrics.h"

namespace kv_transfer {

struct KvReceiver::State {
    // Commands of the step thread.
    struct Grant {
        HandoffKey key;
        std::uint32_t kv_tokens;
        std::uint32_t have_tokens;
        std::vector<base::BlockId> blocks;
        base::Duration lease;
        base::TimePoint deadline;
        bool allow_lossy;
        bool from_end;
    };
    struct Offer {
        FrontOffer offer;
    };
    struct Later {
        HandoffKey key;
    };
    struct End {
        HandoffKey key;
        base::Error error;
        bool from_prefill;
    };
    struct Fetch {
        HandoffKey key;
        std::string kv_address;
        std::string hashes;  // as on the wire
        std::vector<base::BlockId> blocks;
        base::Duration answer_timeout;
        base::Duration lease;
        base::TimePoint deadline;
        Slots::Slot slot;
    };
    // Messages.
    struct Asked {
        net::PeerId from;
        HandoffKey key;
        std::uint32_t kv_tokens;
        base::TimePoint deadline;
        proto::KvMode kv_mode;
        std::vector<proto::KvMode> kv_modes;  // Codecs::kModesMax at most
        base::Duration sending{};             // expected; 0: not known
        base::Duration computing{};
        base::Duration computing_whole{};
        bool moves = false;
    };
    struct Landed {
        net::PeerId from;
        FrameInfo info;
        StagingPool::Buffer buffer;
        base::TimePoint at{};
    };
    struct Refused {
        net::PeerId from;
        HandoffKey key;
        std::uint32_t number;
        std::optional<base::Error> error;  // empty: the key is not granted, the own thread knows why
    };
    struct PeerLost {
        net::PeerId peer;
        base::Error why;
    };
    using Command = std::variant<Grant, Offer, Later, End, Fetch, Asked, Landed, Refused, PeerLost>;

    /// What is computed here of a granted hand-off, and what is known of what comes.
    struct Front {
        std::uint32_t end = 0;  // frames of tokens before it are dropped; have_tokens at first
        bool is_taken = false;  // some of it is computed here: the last tokens come first
        bool moves = false;     // prefill knows of this
        std::optional<FrontOffer> offer;
        base::TimePoint look_at;   // again, while an offer stands
        base::TimePoint ready_at;  // prefill has computed all then, as it expected
        // As the last frame said, or the request for room: bytes of KV a second; 0: not known.
        double kv_rate = 0;
        double kv_rate_low = 0;
        bool more = false;             // another frame follows at once
        base::TimePoint landed_at;     // the last frame
        std::size_t landed_bytes = 0;  // of KV, of it
    };

    struct Handoff {
        enum class Phase {
            fetching,  // began here; the other worker has not answered yet
            asked,
            later,
            granted,
        };

        Phase phase = Phase::asked;
        net::PeerId peer{};
        std::uint32_t kv_tokens = 0;
        base::TimePoint deadline;
        base::TimePoint heard_at;
        proto::KvMode proposed;
        std::vector<proto::KvMode> proposed_modes;
        Slots::Slot slot;
        // While fetching:
        std::string hashes;
        base::Duration answer_timeout{};
        base::TimePoint ask_again_at;
        // Since the grant, `blocks` and `lease` of a fetch from its beginning:
        std::vector<KvMode> modes;  // besides raw; the first answers `proposed`, if any does
        bool has_first = false;     // it does
        KvMode mode;                // the lossiest of the frames that came
        std::uint32_t have_tokens = 0;
        std::vector<base::BlockId> blocks;
        base::Duration lease{};
        base::TimePoint granted_at;
        Coverage received;  // or computed here: all before front_end counts
        std::uint64_t payload_bytes = 0;
        Front front;
    };
    using Handoffs = std::map<HandoffKey, Handoff>;

    /// What on_header may let in.
    struct Expected {
        std::uint32_t have_tokens;
        std::uint32_t kv_tokens;
        std::vector<KvMode> modes;  // besides raw
    };

    State(Options options_in, Identity identity_in, const kv_cache::KvLayout& layout_in, kv_cache::KvStore& store_in,
          net::Transport& transport_in, const base::Clock& clock_in, base::Metrics* metrics_in,
          ReceiverEvents events_in);

    // The transport's thread.
    base::Result<net::Target> frame_begins(net::PeerId from, std::span<const std::byte> header,
                                           std::size_t payload_bytes);
    base::Result<net::Target> refuse_frame(net::PeerId from, const HandoffKey& key, std::uint32_t number,
                                           Outcome outcome, base::Error error);

    void answer_later(Refused refused);

    // The own thread.
    bool proceed(base::TimePoint now);
    std::optional<base::TimePoint> next_due() const;
    void fail_all(const base::Error& error);

    void apply(Grant& command);
    void apply(Offer& command);
    void apply(Later& command);
    void apply(End& command);
    void apply(Fetch& command);
    void apply(Asked& command);
    void apply(Landed& command);
    void apply(Refused& command);
    void apply(PeerLost& command);

    // receiver_fetches.cpp
    void ask_for_blocks(const HandoffKey& key, Handoff& handoff, base::TimePoint now);
    void take_answer(Handoffs::iterator fetch, Asked& answer);

    // receiver_front.cpp
    bool look_at_front(Handoffs::iterator found, base::TimePoint now);
    void take_front(Handoffs::iterator found, std::uint32_t begin, std::uint32_t end);

    void begin_receiving(Handoffs::iterator handoff, base::TimePoint now);
    base::TimePoint silent_until(const Handoff& handoff) const;
    void agree(Handoff& handoff, const proto::KvMode& proposed, std::span<const proto::KvMode> modes,
               bool allow_lossy) const;
    bool refuse_by_history(const Asked& asked);
    base::Result<void> unpack(Handoff& handoff, const Landed& landed, const kv_cache::KvRange& range,
                              base::Duration& decoded_in);
    void answer_unknown(net::PeerId from, const HandoffKey& key, std::uint32_t number);
    void complete(Handoffs::iterator handoff);
    void fail(Handoffs::iterator handoff, base::Error error, bool tell_prefill);
    void end(Handoffs::iterator handoff, std::optional<base::Error> error);

    void post(net::PeerId peer, net::MessageKind kind, const google::protobuf::MessageLite& message);
    void reply_granted(const HandoffKey& key, const Handoff& handoff);
    void reply_later(net::PeerId peer, const HandoffKey& key);
    void reply_refused(net::PeerId peer, const HandoffKey& key, const base::Error& error);
    void acknowledge(net::PeerId peer, const HandoffKey& key, std::uint32_t number,
                     const std::optional<base::Error>& error, bool complete, base::Duration landed_ago = {},
                     base::Duration decoded_in = {});

    const Options options;
    const Identity identity;
    const kv_cache::KvLayout& layout;
    const kv_cache::KvStore& store;
    base::Result<kv_cache::KvAccess> access;  // of the own thread
    net::Transport& transport;
    const base::Clock& clock;
    const ReceiverEvents events;
    TransferMetrics metrics;
    Slots slots;
    Slots fetch_slots;
    StagingPool staging;
    StagingPool::Buffer workspace;  // what codecs decode; null without codecs

    mutable std::mutex mutex;                       // also of taking from fetch_slots
    std::map<HandoffKey, Expected> expected;        // guarded by mutex: granted
    std::map<net::ReceiveToken, Landed> under_way;  // guarded by mutex: payloads that the transport writes
    std::uint64_t tokens_minted = 0;                // guarded by mutex
    bool is_stopped = false;                        // guarded by mutex
    std::atomic<std::size_t> handoffs_open{0};

    // Of the own thread.
    Handoffs handoffs;
    std::map<HandoffKey, std::optional<base::Error>> ended;  // empty: completed
    std::deque<HandoffKey> ended_order;                      // oldest first

    CommandThread<Command> thread;  // all above outlive it
};

}  // namespace kv_transfer
