#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <unordered_map>

#include "base/clock.h"
#include "base/ids.h"

namespace scheduler {

/// Who fails what is placed on him, one request after the other, though his reports say that all is well. Such a worker
/// looks idle, so that everything would go to it. After `after` different requests in a row it is put out of service
/// for `time`. Then one request tries it, and nothing else until that has ended or `time` has passed: if it fails, too,
/// the worker is out for twice as long. Anything that shows that it works ends all that. Whether others can do its work
/// meanwhile is for the caller to know. Not thread-safe; time comes in as an argument. Source: Envoy's outlier
/// detection (consecutive failures, times that grow, a share that stays), and the half-open state of circuit breakers.
class Ejections {
public:
    struct Options {
        std::uint32_t after = 5;  // 0: nobody ever
        base::Duration time = std::chrono::seconds(30);
        base::Duration time_max = std::chrono::minutes(10);
        std::uint32_t percent_max = 30;  // of a role that are out at once; one of several always may be
    };
    explicit Ejections(Options options) : options_(options) {}

    /// The life has failed this request. True: these were enough, and eject() may be called. A request counts once:
    /// gateways name those who failed it at each further try. Nothing counts of who is out, but the request that tries.
    bool failed(base::Incarnation life, base::RequestId request, base::TimePoint now);
    /// Nothing new for the life from now on. For how long.
    base::Duration eject(base::Incarnation life, base::TimePoint now);
    /// The request goes to the life. Of who was out this is the one that tries.
    void placed(base::Incarnation life, base::RequestId request, base::TimePoint now);
    /// Out of service, or tried by a request just now.
    bool is_out(base::Incarnation life, base::TimePoint now) const;
    /// The life has done what was asked of it, or has ended.
    void forget(base::Incarnation life) { failing_.erase(life); }
    bool empty() const { return failing_.empty(); }
    /// Whether one more of `all` workers of a role may go where `out` are out.
    bool may_be_out(std::size_t out, std::size_t all) const;

private:
    static constexpr std::size_t kRequestsKnown = 8;  // of the latest that a life has failed
    struct Failing {
        std::array<base::RequestId, kRequestsKnown> requests{};
        std::size_t next = 0;
        std::uint32_t in_a_row = 0;
        std::uint32_t ejections = 0;
        base::TimePoint until = base::TimePoint::min();
        std::optional<base::RequestId> tried_by;
    };

    Options options_;
    std::unordered_map<base::Incarnation, Failing> failing_;
};

}  // namespace scheduler
