#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <list>
#include <map>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "scheduler/backlog.h"
#include "scheduler/class_aims.h"
#include "scheduler/cluster_view.h"
#include "scheduler/tenants.h"

namespace scheduler {

/// One life of a gateway, as it names itself; none: one that does not (protocol minor versions below 4).
enum class GatewayLife : std::uint64_t { none = 0 };

/// What a placement promised and what it will load its workers with.
struct PlacedRequest {
    base::RequestId request{};
    base::Epoch epoch{};
    TenantId tenant{};
    GatewayLife gateway{};
    std::uint32_t prefill_slot = 0;
    std::uint32_t decode_slot = 0;
    std::uint32_t uncached_tokens = 0;
    std::uint32_t prompt_tokens = 0;
    std::uint64_t decode_blocks = 0;                                       // for prompt and answer
    double ttft_seconds = 0;                                               // predicted
    double tpot_seconds = 0;                                               // predicted
    double ttft_seconds_left = std::numeric_limits<double>::infinity();    // of what was promised, when it was placed
    double tpot_seconds_target = std::numeric_limits<double>::infinity();  // promised
    std::uint32_t answer_tokens_max = 0;
    double answer_tokens = 0;  // that the tenant was charged for
    bool is_probe = false;     // as Placement's
    AimedClass slo_class{};
};

/// The scheduler's own placements, as load that the workers' reports cannot show yet: without it a burst between two
/// heartbeats would go to one worker (AIBrix' pending-decode counter, Dynamo's predict-on-route). Not thread-safe.
///
/// The prefill part counts until the worker's second heartbeat after the placement (the first may have left before the
/// request arrived), or until the first token. The decode part counts from the placement on, because decode learns of
/// the request but has none of its KV, until the decode worker's second heartbeat after the first token. Both end with
/// the request (Release), with a placement of a later epoch, with the worker's life, and at the latest after
/// max(pending_min, 4 * predicted TTFT).
/// A placement belongs to the gateway that asked for it: nobody else releases it, and all of a gateway's end when
/// nothing was heard of it for `gateway_lease`, because one that died releases nothing. The placement itself is
/// remembered for predicted-versus-actual until its release or `remembered` long. Where there are `placements_max`,
/// whoever has most gives up his oldest: one gateway cannot take the room of the others.
class InFlight {
public:
    struct Options {
        std::size_t placements_max = 65'536;
        base::Duration pending_min = std::chrono::seconds(30);
        base::Duration remembered = std::chrono::hours(1);
        base::Duration gateway_lease = std::chrono::seconds(10);
        std::size_t gateways_max = 1024;  // with placements; beyond it the one that was silent longest loses its own
    };
    explicit InFlight(Options options);

    /// Replaces what is known of the request. Slots must be in use.
    void add(const PlacedRequest& placed, base::TimePoint now);
    /// The newest placement of a request, while it is remembered. Valid until the next call that is not const.
    const PlacedRequest* placed(base::RequestId request) const;
    /// The gateway is alive.
    void heard(GatewayLife gateway, base::TimePoint now);
    /// The first token was seen. Empty when this epoch of the request is unknown, another gateway's, or was told
    /// before.
    std::optional<PlacedRequest> first_token(base::RequestId request, base::Epoch epoch, base::TimePoint now,
                                             GatewayLife gateway = {});
    /// The request is over. Empty when this epoch of the request is unknown or another gateway's.
    struct Ended {
        PlacedRequest placed;
        bool first_token_told = false;
        base::Duration decoded{};  // since the first token
    };
    std::optional<Ended> ended(base::RequestId request, base::Epoch epoch, base::TimePoint now,
                               GatewayLife gateway = {});

    /// A fresh report of the worker in `slot` was taken in.
    void heartbeat(std::uint32_t slot, const ReportedLoad& load, base::TimePoint now);
    /// The life in `slot` has ended; whatever was sent to it counts no more.
    void worker_gone(std::uint32_t slot);
    /// Drops placements that are too old to be remembered, or whose gateway is gone.
    void expire(base::TimePoint now);

    PendingLoad pending(std::uint32_t slot) const;
    ExpectedLoad expected(std::uint32_t slot, base::TimePoint now) const { return backlog_.expect(slot, now); }
    void expected(std::uint32_t slot, base::TimePoint now, ExpectedLoad& load) const {
        backlog_.expect(slot, now, load);
    }
    /// Asks the processor to have ready what pending() and expected() will read.
    void fetch(std::uint32_t slot) const;
    /// Slots of which pending() or expected(), but for what time does to it, may have changed since the last call, each
    /// once. Valid until the next call.
    std::span<const std::uint32_t> take_changed();
    std::size_t placements() const { return records_.size(); }
    /// Of one tenant, among placements().
    std::uint32_t placements_of(TenantId tenant) const;

private:
    struct Part {
        std::uint32_t slot = 0;
        std::uint64_t life = 0;
        bool counted = false;
        int heartbeats = 0;  // since it could have been seen by the worker
    };
    struct Record {
        PlacedRequest placed;
        std::uint64_t number = 0;  // of the placement; tells placements of one request apart
        Part prefill;
        Part decode;
        bool first_token_told = false;
        base::TimePoint began{};  // first token
        base::TimePoint counted_until;
        base::TimePoint forgotten_at;
        std::list<base::RequestId>::iterator age;
    };
    struct Watched {
        base::RequestId request{};
        std::uint64_t number = 0;
    };
    struct Slot {
        std::uint64_t life = 0;
        PendingLoad pending;
        std::vector<Watched> watched;  // placements with a counted part here; ended ones until the next heartbeat
        bool changed = false;
    };
    struct Gateway {
        std::list<base::RequestId> ages;  // its placements, oldest first; never empty
        base::TimePoint heard_at;
    };
    using Records = std::unordered_map<base::RequestId, Record>;

    Slot& slot_at(std::uint32_t slot);
    void change(std::uint32_t slot);
    void change(const Record& record);
    void count_prefill(Record& record, bool add);
    void count_decode(Record& record, bool add);
    void drop(Records::iterator record, base::TimePoint now);
    void drop_all(GatewayLife gateway, base::TimePoint now);
    void make_room(GatewayLife newcomer, base::TimePoint now);
    Records::iterator find(base::RequestId request, base::Epoch epoch, GatewayLife gateway);

    Options options_;
    Records records_;
    std::map<GatewayLife, Gateway> gateways_;  // that have placements
    std::vector<Slot> slots_;
    std::vector<std::uint32_t> changed_;
    std::vector<std::uint32_t> taken_;  // what take_changed() gave out last
    Backlog backlog_;
    std::vector<std::uint32_t> of_tenants_;  // records, by TenantId
    std::uint64_t next_number_ = 0;
};

}  // namespace scheduler
