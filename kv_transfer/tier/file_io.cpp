#include "kv_transfer/tier/file_io.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <liburing.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <optional>
#include <system_error>
#include <vector>

#include "base/check.h"

namespace kv_transfer {

namespace fs = std::filesystem;

namespace {

constexpr std::size_t kPageBytes = 4096;  // enough for every disk and file system that does not say what it wants

std::string text_of(int error) {
    return std::generic_category().message(error);
}

class PageCacheIo final : public FileIo {
public:
    explicit PageCacheIo(int file) : file_(file) {}

    std::string_view way() const override { return "page_cache"; }
    std::uint32_t depth() const override { return 1; }
    std::size_t alignment() const override { return 1; }
    int descriptor() const override { return file_; }

    void begin_read(std::uint32_t index, std::span<std::byte> bytes, std::uint64_t offset) override {
        CHECK(index == 0 && !ended_);
        ended_ = read_all(file_, bytes, offset);
    }
    void begin_write(std::uint32_t index, std::span<const std::byte> bytes, std::uint64_t offset) override {
        CHECK(index == 0 && !ended_);
        ended_ = write_all(file_, bytes, offset);
    }
    int finish(std::uint32_t index) override {
        CHECK(index == 0 && ended_);
        const int error = *ended_;
        ended_.reset();
        return error;
    }

private:
    const int file_;
    std::optional<int> ended_;  // how the piece did that was begun
};

class DirectIo final : public FileIo {
public:
    /// Takes over `direct`, `ring`. `file`: as make_direct_io's.
    DirectIo(int file, int direct, const io_uring& ring, std::uint32_t depth, std::size_t alignment)
        : file_(file), direct_(direct), ring_(ring), pieces_(depth), alignment_(alignment) {}
    DirectIo(const DirectIo&) = delete;
    DirectIo& operator=(const DirectIo&) = delete;
    ~DirectIo() override {
        for (std::uint32_t index = 0; index < pieces_.size(); ++index) {
            CHECK(!pieces_[index].begun, "piece " << index << " is on its way");
        }
        ::io_uring_queue_exit(&ring_);
        ::close(direct_);
    }

    std::string_view way() const override { return "direct"; }
    std::uint32_t depth() const override { return static_cast<std::uint32_t>(pieces_.size()); }
    std::size_t alignment() const override { return alignment_; }
    int descriptor() const override { return direct_; }

    void begin_read(std::uint32_t index, std::span<std::byte> bytes, std::uint64_t offset) override {
        io_uring_sqe* entry = begin(index, {.is_write = false, .bytes = bytes, .offset = offset});
        ::io_uring_prep_read(entry, direct_, bytes.data(), static_cast<unsigned>(bytes.size()), offset);
        submit(entry, index);
    }
    void begin_write(std::uint32_t index, std::span<const std::byte> bytes, std::uint64_t offset) override {
        // Only a read writes into them.
        const std::span<std::byte> kept(const_cast<std::byte*>(bytes.data()), bytes.size());
        io_uring_sqe* entry = begin(index, {.is_write = true, .bytes = kept, .offset = offset});
        ::io_uring_prep_write(entry, direct_, bytes.data(), static_cast<unsigned>(bytes.size()), offset);
        submit(entry, index);
    }

    int finish(std::uint32_t index) override {
        CHECK(index < pieces_.size() && pieces_[index].begun);
        while (!pieces_[index].result) {
            enter(1);
            io_uring_cqe* ended = nullptr;
            while (::io_uring_peek_cqe(&ring_, &ended) == 0) {
                pieces_[ended->user_data].result = ended->res;
                ::io_uring_cqe_seen(&ring_, ended);
            }
        }
        const Piece piece = pieces_[index];
        pieces_[index] = {};
        const auto moved = static_cast<std::size_t>(std::max(*piece.result, 0));
        if (moved == piece.bytes.size()) { return 0; }
        // A part of it, an interruption, a file system that knows no direct I/O after all: the rest by the other way,
        // whose error counts.
        const std::span<std::byte> rest = piece.bytes.subspan(moved);
        return piece.is_write ? write_all(file_, rest, piece.offset + moved)
                              : read_all(file_, rest, piece.offset + moved);
    }

private:
    struct Piece {
        bool begun = false;
        bool is_write = false;
        std::span<std::byte> bytes{};
        std::uint64_t offset = 0;
        std::optional<int> result = std::nullopt;  // bytes, or -errno
    };

    io_uring_sqe* begin(std::uint32_t index, Piece piece) {
        CHECK(index < pieces_.size() && !pieces_[index].begun);
        CHECK(piece.offset % alignment_ == 0 && piece.bytes.size() % alignment_ == 0 &&
                  reinterpret_cast<std::uintptr_t>(piece.bytes.data()) % alignment_ == 0,
              piece.bytes.size() << " bytes at " << piece.offset << ", not multiples of " << alignment_);
        piece.begun = true;
        pieces_[index] = piece;
        io_uring_sqe* entry = ::io_uring_get_sqe(&ring_);
        CHECK(entry != nullptr);  // as many entries as pieces
        return entry;
    }
    void submit(io_uring_sqe* entry, std::uint32_t index) {
        entry->user_data = index;
        enter(0);
    }

    /// Hands over what was prepared and waits for so many ends. What the kernel has no memory for now stays prepared
    /// until a later call: finish() comes back until the piece has ended.
    void enter(unsigned ends) {
        const int entered = ::io_uring_submit_and_wait(&ring_, ends);
        if (entered == -EAGAIN || entered == -EBUSY) { ::usleep(1000); }
        CHECK(entered >= 0 || entered == -EINTR || entered == -EAGAIN || entered == -EBUSY, text_of(-entered));
    }

    const int file_;    // the page cache's
    const int direct_;  // owned
    io_uring ring_;
    std::vector<Piece> pieces_;  // by index
    const std::size_t alignment_;
};

/// 0: direct I/O is not for this file.
std::size_t alignment_of(int file, const fs::path& path) {
    struct ::statfs system{};
    if (::fstatfs(file, &system) == 0 && system.f_type == TMPFS_MAGIC) { return 0; }  // takes O_DIRECT, is a page cache
#ifdef STATX_DIOALIGN
    struct ::statx status{};
    const int asked = ::statx(AT_FDCWD, path.c_str(), AT_SYMLINK_NOFOLLOW, STATX_DIOALIGN, &status);
    if (asked == 0 && (status.stx_mask & STATX_DIOALIGN) != 0) {
        return std::max(status.stx_dio_mem_align, status.stx_dio_offset_align);
    }
#endif
    return kPageBytes;
}

}  // namespace

base::Error file_error(std::string_view what, const fs::path& file, int error) {
    using base::ErrorCode;
    ErrorCode code = ErrorCode::unavailable;
    if (error == EACCES || error == EPERM || error == EROFS) { code = ErrorCode::permission_denied; }
    if (error == ENOSPC || error == EDQUOT || error == EFBIG) { code = ErrorCode::resource_exhausted; }
    return {code, fmt::format("cannot {} {}: {}", what, file.string(), text_of(error))};
}

int read_all(int file, std::span<std::byte> out, std::uint64_t offset) {
    while (!out.empty()) {
        const ssize_t got = ::pread(file, out.data(), out.size(), static_cast<off_t>(offset));
        if (got < 0 && errno == EINTR) { continue; }
        if (got <= 0) { return got < 0 ? errno : EIO; }
        out = out.subspan(static_cast<std::size_t>(got));
        offset += static_cast<std::uint64_t>(got);
    }
    return 0;
}

int write_all(int file, std::span<const std::byte> bytes, std::uint64_t offset) {
    while (!bytes.empty()) {
        const ssize_t put = ::pwrite(file, bytes.data(), bytes.size(), static_cast<off_t>(offset));
        if (put < 0 && errno == EINTR) { continue; }
        if (put <= 0) { return put < 0 ? errno : EIO; }
        bytes = bytes.subspan(static_cast<std::size_t>(put));
        offset += static_cast<std::uint64_t>(put);
    }
    return 0;
}

std::unique_ptr<FileIo> make_page_cache_io(int file) {
    return std::make_unique<PageCacheIo>(file);
}

std::string io_uring_problem() {
    io_uring ring;
    const int made = ::io_uring_queue_init(1, &ring, 0);
    if (made == 0) {
        ::io_uring_queue_exit(&ring);
        return {};
    }
    if (made == -ENOSYS) { return "the kernel has no io_uring, or a seccomp profile hides it"; }
    if (made == -EPERM) { return "io_uring is forbidden (a seccomp profile, or kernel.io_uring_disabled)"; }
    if (made == -ENOMEM) { return "the limit of locked memory (ulimit -l) leaves none for io_uring"; }
    return "io_uring cannot be set up: " + text_of(-made);
}

std::unique_ptr<FileIo> make_direct_io(int file, const fs::path& path, std::size_t piece_bytes, std::uint32_t depth,
                                       std::string& reason) {
    CHECK(depth > 0 && depth <= kDirectDepthMax, depth);
    reason = io_uring_problem();
    if (!reason.empty()) { return nullptr; }
    const std::size_t alignment = alignment_of(file, path);
    const int direct = ::open(path.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC | O_NOFOLLOW);
    if (direct < 0 || alignment == 0) {
        reason = fmt::format("the file system of {} has no direct I/O", path.string());
        if (direct >= 0) { ::close(direct); }
        return nullptr;
    }
    if (piece_bytes % alignment != 0) {
        reason = fmt::format("blocks of {} bytes are no multiple of the {} that direct I/O on {} asks for", piece_bytes,
                             alignment, path.string());
        ::close(direct);
        return nullptr;
    }
    io_uring ring;
    if (const int made = ::io_uring_queue_init(depth, &ring, 0); made != 0) {
        reason = "io_uring cannot be set up: " + text_of(-made);
        ::close(direct);
        return nullptr;
    }
    auto io = std::make_unique<DirectIo>(file, direct, ring, depth, alignment);
    // Some file systems open the file and refuse the first piece.
    const std::size_t bytes = std::max(alignment, kPageBytes);
    const std::unique_ptr<void, decltype(&std::free)> page(std::aligned_alloc(bytes, bytes), &std::free);
    const ssize_t got = page ? ::pread(direct, page.get(), alignment, 0) : -1;
    if (got != static_cast<ssize_t>(alignment)) {
        reason = fmt::format("direct I/O on {} fails: {}", path.string(), got < 0 ? text_of(errno) : "a short read");
        return nullptr;
    }
    return io;
}

}  // namespace kv_transfer
