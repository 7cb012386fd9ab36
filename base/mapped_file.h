#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

#include "base/result.h"

namespace base {

/// A whole file mapped read-only and shared: all processes that map it use the same physical pages. Movable; the bytes
/// stay where they are and may be read by any thread. The file must not be shortened while it is mapped (the reader
/// would get SIGBUS): writers of such files rename a finished file into place.
class MappedFile {
public:
    MappedFile() = default;  // no bytes
    /// Error: not_found, permission_denied, invalid_argument (no regular file), resource_exhausted. An empty file gives
    /// no bytes.
    static Result<MappedFile> open(const std::filesystem::path& path);
    MappedFile(MappedFile&& other) noexcept;
    MappedFile& operator=(MappedFile&& other) noexcept;
    ~MappedFile();

    /// Valid as long as this object (or the one it is moved to) lives; aligned to a page.
    std::span<const std::byte> bytes() const { return bytes_; }

    /// Says that `part` of bytes() will not be read soon: its pages no longer count as this process's memory (the
    /// system may keep them in its cache). They come back when they are read.
    void let_go(std::span<const std::byte> part) const;

private:
    explicit MappedFile(std::span<const std::byte> bytes) : bytes_(bytes) {}

    std::span<const std::byte> bytes_;
};

}  // namespace base
