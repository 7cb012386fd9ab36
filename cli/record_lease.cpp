#include "cli/record_lease.h"

#include <algorithm>
#include <utility>

namespace cli {

using scheduler::LeaderTerm;

namespace {
constexpr int kRequestsPerLease = 5;
constexpr int kLooksPerLease = 4;
constexpr std::chrono::milliseconds kPauseMin{5};
constexpr std::chrono::milliseconds kPauseMax{2000};
}  // namespace

RecordLease::RecordLease(std::unique_ptr<TermStore> store) : store_(std::move(store)) {}

RecordLease::~RecordLease() {
    resign();
}

std::chrono::milliseconds RecordLease::pause(std::chrono::milliseconds lease) const {
    return std::clamp(lease / kLooksPerLease, kPauseMin, kPauseMax);
}

std::chrono::milliseconds RecordLease::request_time(std::chrono::milliseconds lease) {
    return lease / kRequestsPerLease;
}

base::Result<LeaderTerm> RecordLease::look() {
    return store_->read();
}

base::Result<bool> RecordLease::begin(const LeaderTerm& seen, const LeaderTerm& ours) {
    is_ours_ = false;
    if (store_->known() != seen) { return false; }
    auto begun = store_->write(ours);
    if (begun && *begun) {
        ours_ = ours;
        is_ours_ = true;
    }
    return begun;
}

base::Result<bool> RecordLease::renew(const LeaderTerm& ours) {
    if (!is_ours_) { return false; }
    auto renewed = store_->write(ours);
    if (renewed && !*renewed) {
        // Another leader has begun; or somebody put a label on the record, or took it away; or it was our own renewal,
        // whose answer was lost.
        const auto found = store_->read();
        if (!found) { return base::pass_on(found); }
        if (!store_->is_there() || (found->serial == ours_.serial && found->holder == ours_.holder && !found->over)) {
            renewed = store_->write(ours);
        }
    }
    if (!renewed) { return renewed; }
    if (*renewed) {
        ours_ = ours;
    } else {
        is_ours_ = false;
    }
    return renewed;
}

void RecordLease::resign() {
    if (!std::exchange(is_ours_, false)) { return; }
    LeaderTerm last = ours_;
    last.over = true;
    // Where it cannot be written, others wait until the lease is over.
    static_cast<void>(store_->write(last));
}

}  // namespace cli
