#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>

#include "gateway/request/ports.h"

namespace gateway {

/// Endings that the scheduler has not been told yet. Bounded: the oldest are forgotten first, since the scheduler only
/// predicts with them and forgets placements by itself. Every operation costs what it moves. Not thread-safe.
class Releases {
public:
    using Ended = proto::ReleaseRequest::Ended;

    /// Both > 0.
    Releases(std::size_t waiting_max, std::size_t batch_max);

    void add(Ended ended);
    /// Moves the oldest, at most `batch_max`, to `request`. False when there is nothing to tell.
    [[nodiscard]] bool take_batch(proto::ReleaseRequest& request);
    /// A batch was not delivered: it waits again, before what came since, as far as there is room.
    void give_back(const proto::ReleaseRequest& request);

    std::size_t waiting() const { return waiting_.size(); }
    std::uint64_t forgotten() const { return forgotten_; }

private:
    const std::size_t waiting_max_;
    const std::size_t batch_max_;
    std::deque<Ended> waiting_;  // oldest first
    std::uint64_t forgotten_ = 0;
};

}  // namespace gateway
