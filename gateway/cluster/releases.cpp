#include "gateway/cluster/releases.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/check.h"

namespace gateway {

Releases::Releases(std::size_t waiting_max, std::size_t batch_max) : waiting_max_(waiting_max), batch_max_(batch_max) {
    CHECK(waiting_max > 0 && batch_max > 0);
}

void Releases::add(Ended ended) {
    if (waiting_.size() >= waiting_max_) {
        waiting_.pop_front();
        ++forgotten_;
    }
    waiting_.push_back(std::move(ended));
}

bool Releases::take_batch(proto::ReleaseRequest& request) {
    for (std::size_t left = std::min(batch_max_, waiting_.size()); left > 0; --left) {
        *request.add_ended() = std::move(waiting_.front());
        waiting_.pop_front();
    }
    return request.ended_size() > 0;
}

void Releases::give_back(const proto::ReleaseRequest& request) {
    for (auto ended = request.ended().rbegin(); ended != request.ended().rend(); ++ended) {  // newest first
        if (waiting_.size() >= waiting_max_) {
            forgotten_ += static_cast<std::uint64_t>(std::distance(ended, request.ended().rend()));
            return;
        }
        waiting_.push_front(*ended);
    }
}

}  // namespace gateway
