#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"

// How the bytes of a level's file move.
namespace kv_transfer {

/// Moves pieces of one file. Two ways: `direct`, around the page cache (O_DIRECT) with several pieces on their way at
/// once (io_uring); `page_cache`, pread and pwrite, one after the other. One thread at a time.
class FileIo {
public:
    virtual ~FileIo() = default;

    /// "direct", "page_cache".
    virtual std::string_view way() const = 0;
    /// Pieces that may be on their way at once, each under an index of its own below this.
    virtual std::uint32_t depth() const = 0;
    /// What offsets, lengths and addresses of pieces have to be multiples of; a power of 2.
    virtual std::size_t alignment() const = 0;
    /// What the lock that keeps a later process out until the last piece has ended has to be on.
    virtual int descriptor() const = 0;

    /// Begins a piece. `bytes` stay as they are, and alive, until finish(index).
    virtual void begin_read(std::uint32_t index, std::span<std::byte> bytes, std::uint64_t offset) = 0;
    virtual void begin_write(std::uint32_t index, std::span<const std::byte> bytes, std::uint64_t offset) = 0;
    /// Waits for the piece that was begun under this index; once for each. 0: all of it has moved; else errno (a file
    /// that ends too early is EIO).
    virtual int finish(std::uint32_t index) = 0;
};

/// Through the page cache. `file`: open for reading and writing, must outlive it.
std::unique_ptr<FileIo> make_page_cache_io(int file);

/// Around it. `path` is the file that `file` is open for; every piece is a multiple of `piece_bytes`, of which the
/// file holds one at least. `depth`: 1 to kDirectDepthMax. Null where kernel, container or file system do not have it
/// or the pieces do not fit; `reason` says which then.
std::unique_ptr<FileIo> make_direct_io(int file, const std::filesystem::path& path, std::size_t piece_bytes,
                                       std::uint32_t depth, std::string& reason);
inline constexpr std::uint32_t kDirectDepthMax = 64;

/// Empty: this process may use io_uring. Else why it may not.
std::string io_uring_problem();

/// What is told of a call on `file` that failed with this errno: "cannot {what} {file}: ...".
base::Error file_error(std::string_view what, const std::filesystem::path& file, int error);

/// All of it, by pread and pwrite. 0, or errno; a file that ends too early is EIO.
int read_all(int file, std::span<std::byte> out, std::uint64_t offset);
int write_all(int file, std::span<const std::byte> bytes, std::uint64_t offset);

}  // namespace kv_transfer
