#pragma once

#include <chrono>
#include <memory>
#include <optional>

#include "base/result.h"
#include "scheduler/leader_lease.h"

namespace cli {

/// One record that schedulers of several machines share, with versions: it is replaced by who knows its latest one, or
/// not at all. Used by one thread.
class TermStore {
public:
    virtual ~TermStore() = default;

    /// The record as it stands, whose version is known from now on; LeaderTerm() where there is none, or nobody leads
    /// by it yet. Errors: unavailable (it cannot be reached), invalid_argument (it is somebody else's); the version
    /// known before stays known.
    virtual base::Result<scheduler::LeaderTerm> read() = 0;
    /// Puts `term` in the place of the version known, or makes the record where that is none; the new version is known
    /// then. False: there is another version. Error: unavailable; it may have been written all the same.
    virtual base::Result<bool> write(const scheduler::LeaderTerm& term) = 0;
    /// The term of the version known, as read() would tell it; empty where it would tell an error. At first: of no
    /// record.
    virtual std::optional<scheduler::LeaderTerm> known() const = 0;
    /// Whether the version known is of a record, and not of none.
    virtual bool is_there() const = 0;
};

/// A lease that is such a record, whatever keeps it. A renewal whose answer was lost is found again by serial and
/// holder; so is one over which somebody without a term has written (a label), or whose record was taken away.
class RecordLease final : public scheduler::LeaderLease {
public:
    explicit RecordLease(std::unique_ptr<TermStore> store);
    ~RecordLease() override;  // resigns
    RecordLease(const RecordLease&) = delete;
    RecordLease& operator=(const RecordLease&) = delete;

    base::Result<scheduler::LeaderTerm> look() override;
    base::Result<bool> begin(const scheduler::LeaderTerm& seen, const scheduler::LeaderTerm& ours) override;
    base::Result<bool> renew(const scheduler::LeaderTerm& ours) override;
    void resign() override;
    /// Slower than in a folder: each renewal is a write of a whole cluster's store.
    std::chrono::milliseconds pause(std::chrono::milliseconds lease) const override;

    /// What one request to a store may take of a lease that lasts so long.
    static std::chrono::milliseconds request_time(std::chrono::milliseconds lease);

private:
    const std::unique_ptr<TermStore> store_;
    scheduler::LeaderTerm ours_;  // our term, while is_ours_
    bool is_ours_ = false;
};

}  // namespace cli
