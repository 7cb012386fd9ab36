#pragma once

#include <optional>
#include <string>

#include "scheduler/leader_lease.h"

namespace scheduler_test {

/// The record that all leases of a test share. What the test does to it is what a disk or a network does.
struct SharedRecord {
    scheduler::LeaderTerm term;
    bool is_down = false;
};

/// One scheduler's way to the record: a compare-and-swap, as a store of a cluster would do it.
class MemoryLease final : public scheduler::LeaderLease {
public:
    explicit MemoryLease(SharedRecord& record) : record_(record) {}

    base::Result<scheduler::LeaderTerm> look() override {
        if (record_.is_down) { return down(); }
        return record_.term;
    }
    base::Result<bool> begin(const scheduler::LeaderTerm& seen, const scheduler::LeaderTerm& ours) override {
        if (record_.is_down) { return down(); }
        if (record_.term != seen) { return false; }
        record_.term = ours;
        serial_ = ours.serial;
        return true;
    }
    base::Result<bool> renew(const scheduler::LeaderTerm& ours) override {
        if (record_.is_down) { return down(); }
        if (record_.term.serial != serial_ || record_.term.over) { return false; }
        record_.term = ours;
        return true;
    }
    void resign() override {
        if (serial_ != 0 && record_.term.serial == serial_ && !record_.is_down) { record_.term.over = true; }
        serial_ = 0;
    }

private:
    static tl::unexpected<base::Error> down() { return base::fail(base::ErrorCode::unavailable, "the store is down"); }

    SharedRecord& record_;
    std::uint64_t serial_ = 0;
};

}  // namespace scheduler_test
