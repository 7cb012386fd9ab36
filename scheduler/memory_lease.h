#pragma once

#include <cstdint>

#include "base/result.h"
#include "scheduler/leader_lease.h"

namespace scheduler {

/// The record that all leases of a simulated cluster share. What is done to it is what a disk or a network does.
struct MemoryRecord {
    LeaderTerm term;
    bool is_down = false;
};

/// One scheduler's way to the record: a compare-and-swap, as a store of a cluster would do it. For simulators and
/// tests: it outlives no process.
class MemoryLease final : public LeaderLease {
public:
    /// Borrows the record.
    explicit MemoryLease(MemoryRecord& record) : record_(record) {}

    base::Result<LeaderTerm> look() override {
        if (record_.is_down) { return down(); }
        return record_.term;
    }
    base::Result<bool> begin(const LeaderTerm& seen, const LeaderTerm& ours) override {
        if (record_.is_down) { return down(); }
        if (record_.term != seen) { return false; }
        record_.term = ours;
        serial_ = ours.serial;
        return true;
    }
    base::Result<bool> renew(const LeaderTerm& ours) override {
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

    MemoryRecord& record_;
    std::uint64_t serial_ = 0;
};

}  // namespace scheduler
