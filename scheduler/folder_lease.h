#pragma once

#include <memory>
#include <string>

#include "scheduler/leader_lease.h"

namespace scheduler {

/// A lease for the schedulers of one machine: a folder with a file for each term, of which only the latest counts.
///
/// Its leader holds a lock (flock) on its file for as long as it lives, so a leader that died is noticed at once; one
/// that is stopped keeps its lock, and is noticed by a record that does not change. A term begins with the hard link
/// that gives its file, whole and locked, its name: no two can begin the same one, and there is no step in which a
/// process that is stopped holds up the others. The file of a term is written by its leader alone.
class FolderLease final : public LeaderLease {
public:
    /// Makes the folder (mode 0700) where it is not there. Errors: unavailable (it cannot be made or written),
    /// permission_denied (others may write there), invalid_argument (not a folder).
    static base::Result<std::unique_ptr<FolderLease>> open(std::string folder);
    ~FolderLease() override;
    FolderLease(const FolderLease&) = delete;
    FolderLease& operator=(const FolderLease&) = delete;

    base::Result<LeaderTerm> look() override;
    base::Result<bool> begin(const LeaderTerm& seen, const LeaderTerm& ours) override;
    base::Result<bool> renew(const LeaderTerm& ours) override;
    void resign() override;

private:
    explicit FolderLease(std::string folder);
    std::string path_of(std::uint64_t serial) const;
    base::Result<std::uint64_t> latest() const;
    base::Result<LeaderTerm> read(std::uint64_t serial) const;
    void remove_before(std::uint64_t serial) const;

    const std::string folder_;
    int ours_ = -1;             // descriptor of the file of our term
    std::uint64_t serial_ = 0;  // of our term
};

}  // namespace scheduler
