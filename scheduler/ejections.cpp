#include "scheduler/ejections.h"

#include <algorithm>

namespace scheduler {

bool Ejections::failed(base::Incarnation life, base::RequestId request, base::TimePoint now) {
    if (options_.after == 0) { return false; }
    Failing& failing = failing_[life];
    if (now < failing.until && failing.tried_by != request) { return false; }
    if (failing.in_a_row > 0 &&
        std::find(failing.requests.begin(), failing.requests.end(), request) != failing.requests.end()) {
        return false;
    }
    failing.requests[failing.next] = request;
    failing.next = (failing.next + 1) % kRequestsKnown;
    ++failing.in_a_row;
    return failing.in_a_row >= options_.after;
}

base::Duration Ejections::eject(base::Incarnation life, base::TimePoint now) {
    constexpr std::uint32_t kDoubledMost = 16;
    Failing& failing = failing_[life];
    const base::Duration time =
        std::min(options_.time_max, options_.time * (1u << std::min(failing.ejections, kDoubledMost)));
    ++failing.ejections;
    failing.until = now + time;
    failing.tried_by.reset();
    return time;
}

void Ejections::placed(base::Incarnation life, base::RequestId request, base::TimePoint now) {
    const auto at = failing_.find(life);
    if (at == failing_.end() || at->second.ejections == 0 || now < at->second.until) { return; }
    at->second.until = now + options_.time;
    at->second.tried_by = request;
}

bool Ejections::is_out(base::Incarnation life, base::TimePoint now) const {
    const auto at = failing_.find(life);
    return at != failing_.end() && now < at->second.until;
}

bool Ejections::may_be_out(std::size_t out, std::size_t all) const {
    return out < std::max<std::size_t>(1, all * options_.percent_max / 100);
}

}  // namespace scheduler
