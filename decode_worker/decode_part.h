#pragma once

#include <array>
#include <cstddef>
#include <deque>
#include <optional>
#include <unordered_map>

#include "base/ids.h"
#include "decode_worker/ports.h"
#include "kv_cache/kv_cache.h"
#include "kv_transfer/receiver.h"
#include "worker/options.h"
#include "worker/role_part.h"

namespace decode_worker {

/// The decode role: grants room for KV under a lease, waits for the KV and for the gateway's Continue, and computes
/// again what does not come in time (design 4.3, steps 3 to 6). Where the wire is what the KV waits for it computes the
/// first tokens itself meanwhile, piece by piece as the wire goes, and takes the rest (kv_transfer/rate/both_ends.h,
/// front.h). From then on the sequence is like any other in the step loop.
///
/// Step thread, except on_event (any thread).
class DecodePart final : public worker::RolePart {
public:
    /// All references must outlive this.
    DecodePart(const worker::WorkerOptions& options, base::Incarnation incarnation, worker::StepControl& control,
               KvReceiverPort& receiver, base::Metrics& metrics);

    /// What the receiver says: moves the event to the step thread.
    void on_event(kv_transfer::ReceiverEvent event);

    void started(worker::Sequence& sequence) override;
    void room_granted(worker::Sequence& sequence) override;
    void front_computed(worker::Sequence& sequence) override;
    void room_delayed(worker::Sequence& sequence) override;
    void continued(worker::Sequence& sequence) override;
    void closing(worker::Sequence& sequence) override;
    void tick() override;
    std::optional<base::TimePoint> next_tick() const override;
    bool busy() const override { return !incoming_.empty() || !stranded_.empty(); }

private:
    /// What prefill expects: of all KV, over the wire (0: not known); until it is computed there; what computing it
    /// from the first token on takes there (0: not known).
    struct Expected {
        base::Duration sending{};
        base::Duration computing{};
        base::Duration computing_whole{};
    };
    /// What is known of the KV of a sequence that waits for it.
    enum class KvState {
        expected,  // no request for room yet
        asked,     // it was asked for; the pool has none for it so far
        granted,   // frames may be landing
        complete,  // all there, checked
        missing,   // will not come: compute it here
    };
    /// Why it will not come: label `cause` of sluice_kv_fallbacks_total.
    enum class Loss { timeout, peer_lost, checksum_mismatch, cancelled, wrong_request, not_asked };
    static constexpr std::size_t kLosses = 6;
    struct Incoming {
        kv_transfer::HandoffKey key;
        std::uint32_t kv_tokens = 0;
        std::uint32_t have_tokens = 0;   // prefix hit at the grant
        std::uint32_t front_tokens = 0;  // behind it: computed here while the rest comes
        bool moves = false;              // prefill heeds more of them later
        bool allow_lossy = false;        // as granted
        std::uint32_t piece_tokens = 0;  // of them, the last that were taken,
        base::TimePoint piece_at;        // and when
        Expected expected;
        KvState state = KvState::expected;
        Loss loss = Loss::not_asked;                       // missing
        bool was_delayed = false;                          // prefill has been told that there is no room yet
        bool was_requested = false;                        // the receiver knows the key: released will come
        bool is_released = false;                          // nobody writes the blocks any more
        bool is_lossy = false;                             // complete: not what prefill has, bit for bit
        std::string codec;                                 // complete: how it came
        kv_cache::BlockHold hold;                          // while granted and not released
        base::TimePoint give_up = base::TimePoint::max();  // then KV that is not there counts as missing
        bool is_continued = false;                         // the first token is known
        std::optional<base::TimePoint> lacked_since;       // it is, and there is room: only the KV is lacking
        std::uint32_t others = 0;                          // of which that was so then
    };
    /// A request for room that overtook its Start.
    struct PendingRoom {
        kv_transfer::HandoffKey key;
        std::uint32_t kv_tokens = 0;
        base::TimePoint give_up{};
        Expected expected;
        bool moves = false;
    };

    void apply(const kv_transfer::ReceiverEvent& event);
    void room_requested(const kv_transfer::ReceiverEvent& event);
    static Loss loss_of(const std::optional<base::Error>& error);
    /// Says why the KV of a hand-off is computed here, if it is.
    void log_failed(const kv_transfer::ReceiverEvent& event) const;
    std::uint32_t front_tokens(const Incoming& incoming, const worker::Sequence& sequence) const;
    void take_front(Incoming& incoming, worker::Sequence& sequence, std::uint32_t begin, std::uint32_t end);
    /// Tells the receiver what computing (more of) the front would take here, where it is known and may be of use.
    void offer_front(const Incoming& incoming, const worker::Sequence& sequence);
    static std::optional<base::TimePoint> kv_due(const worker::Sequence& sequence);
    /// Notes when nothing but KV is lacking.
    void await_only_kv(Incoming& incoming, worker::Sequence& sequence);
    static bool may_give_up(const Incoming& incoming);
    void give_up(Incoming& incoming, const char* why);
    /// Runs the sequence when everything it waits for is there; forgets `incoming` then.
    void proceed(worker::RequestKey request);
    kv_transfer::HandoffKey key_of(const worker::Sequence& sequence) const;

    const worker::WorkerOptions options_;
    const base::Incarnation incarnation_;
    worker::StepControl& control_;
    KvReceiverPort& receiver_;
    std::unordered_map<worker::RequestKey, Incoming> incoming_;
    std::uint32_t lack_only_kv_ = 0;   // of them
    std::deque<PendingRoom> pending_;  // at most options_.queue_requests_max
    std::vector<std::pair<kv_transfer::HandoffKey, kv_cache::BlockHold>> stranded_;  // closed before their release
    std::array<prometheus::Counter*, kLosses> recomputes_{};
    prometheus::Counter& front_tokens_;
};

}  // namespace decode_worker
