#include "gateway/cluster/leader_view.h"

#include "base/check.h"

namespace gateway {

LeaderView::LeaderView(std::size_t schedulers) : schedulers_(schedulers) {
    CHECK(schedulers > 0);
}

bool LeaderView::answered(std::size_t index, std::uint64_t epoch) {
    CHECK(index < schedulers_);
    if (epoch != 0 && epoch < epoch_) {
        failed(index);
        return false;
    }
    if (epoch != 0) { epoch_ = epoch; }
    leader_ = index;
    return true;
}

void LeaderView::failed(std::size_t index) {
    if (leader_ != index) { return; }
    leader_.reset();
    turn_ = (index + 1) % schedulers_;
}

std::size_t LeaderView::next() {
    if (leader_) { return *leader_; }
    const std::size_t next = turn_;
    turn_ = (turn_ + 1) % schedulers_;
    return next;
}

}  // namespace gateway
