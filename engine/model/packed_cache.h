#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"

namespace engine {

/// What all packed files of a folder may take together, where nothing else is set: two models of eight billion weights.
inline constexpr std::uint64_t kPackedBytesMax = std::uint64_t{32} << 30;

/// Says to other processes that a packed file is in use; taken back when it dies, also with the process.
class PackedLock {
public:
    PackedLock() = default;
    PackedLock(PackedLock&& other) noexcept : file_(std::exchange(other.file_, -1)) {}
    PackedLock& operator=(PackedLock&& other) noexcept {
        std::swap(file_, other.file_);
        return *this;
    }
    ~PackedLock();

    /// For a file that is used now, which is also noted as its last use. Error: not_found when it is not there, or has
    /// just been removed.
    static base::Result<PackedLock> in_use(const std::filesystem::path& file);
    /// For nobody else to use meanwhile. Error: unavailable when somebody does.
    static base::Result<PackedLock> alone(const std::filesystem::path& file);

    /// Of the locked file, whatever its name means by now. False when the system does not say.
    bool status(struct ::stat& status) const;

private:
    explicit PackedLock(int file) : file_(file) {}
    int file_ = -1;
};

/// A packed file of the cache.
struct PackedEntry {
    std::filesystem::path path;
    std::uint64_t bytes = 0;
    std::int64_t used_unix_s = 0;  // when an engine last opened it
    bool is_in_use = false;
};

/// The packed files of a folder, least recently used first. Error: as the system says.
base::Result<std::vector<PackedEntry>> list_packed(const std::string& packed_dir);

/// What prune_packed() did.
struct PrunedPacked {
    std::vector<PackedEntry> removed;
    std::uint64_t bytes_left = 0;
};

/// Removes packed files, least recently used first and never one that is in use, until all that are left take at most
/// `bytes_max`; also what interrupted packers have left, and what was remembered of contents that are gone. Safe while
/// engines start: who opens a file that goes away packs it again. Error: as the system says.
base::Result<PrunedPacked> prune_packed(const std::string& packed_dir, std::uint64_t bytes_max);

}  // namespace engine
