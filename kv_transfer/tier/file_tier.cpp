#include "kv_transfer/tier/file_tier.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <system_error>
#include <utility>

#include "base/check.h"
#include "base/crc32c.h"
#include "base/log.h"
#include "base/seal.h"
#include "kv_transfer/tier/host_tier.h"

namespace kv_transfer {

namespace fs = std::filesystem;
using base::ErrorCode;
using base::Result;

namespace {

constexpr std::size_t kPieceBytes = 512u << 10;  // at once: what a checksum has read is still near when it is written
constexpr std::string_view kKeyMark = "sluice kv level 1";
constexpr const char* kSetting = "engine.kv_disk.bytes";

base::Error system_error(std::string_view what, const fs::path& file, int error) {
    ErrorCode code = ErrorCode::unavailable;
    if (error == EACCES || error == EPERM || error == EROFS) { code = ErrorCode::permission_denied; }
    if (error == ENOSPC || error == EDQUOT || error == EFBIG) { code = ErrorCode::resource_exhausted; }
    return {code, fmt::format("cannot {} {}: {}", what, file.string(), std::generic_category().message(error))};
}

tl::unexpected<base::Error> failed(std::string_view what, const fs::path& file, int error) {
    return tl::unexpected(system_error(what, file, error));
}

/// All of it. Error: errno; a file that ends too early is EIO.
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

std::uint64_t record_offset(std::uint32_t slot) {
    return kTierHeaderBytes + std::uint64_t{slot} * kTierRecordBytes;
}

TierHeader header_of(const FileTier::Options& options, std::uint32_t slots) {
    TierHeader header{.block_bytes = options.block_bytes, .numerics_id = options.numerics_id, .slots = slots};
    const base::Mac mark = base::make_mac(options.hash_key, kKeyMark, {});
    std::copy_n(reinterpret_cast<const std::byte*>(mark.data()), header.key_mark.size(), header.key_mark.begin());
    CHECK(options.layout.size() <= header.layout.size(), options.layout);
    std::copy(options.layout.begin(), options.layout.end(), header.layout.begin());
    return header;
}

}  // namespace

Result<std::unique_ptr<FileTier>> FileTier::open(const Options& options) {
    const std::uint64_t for_slots = options.bytes - std::min<std::uint64_t>(options.bytes, kTierHeaderBytes);
    const auto slots = tier_slots(for_slots, options.block_bytes + kTierRecordBytes, kSetting);
    if (!slots) { return base::pass_on(slots); }
    std::error_code error;
    const bool is_new = fs::create_directories(options.folder, error);
    if (error) { return failed("make the folder", options.folder, error.value()); }
    if (is_new) { fs::permissions(options.folder, fs::perms::owner_all, error); }

    std::unique_ptr<FileTier> tier(new FileTier(options.folder, options.block_bytes));
    constexpr int kFlags = O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW;
    const fs::path names = options.folder / "names";
    const fs::path blocks = options.folder / "blocks";
    tier->names_ = ::open(names.c_str(), kFlags, 0600);
    if (tier->names_ < 0) { return failed("open", names, errno); }
    if (::flock(tier->names_, LOCK_EX | LOCK_NB) != 0) {
        return base::fail(ErrorCode::failed_precondition,
                          names.string() + " is in use by another process: give each worker a folder of its own");
    }
    tier->blocks_ = ::open(blocks.c_str(), kFlags, 0600);
    if (tier->blocks_ < 0) { return failed("open", blocks, errno); }
    if (auto read = tier->read_names(header_of(options, *slots), *slots); !read) { return base::pass_on(read); }
    return tier;
}

FileTier::~FileTier() {
    if (blocks_ >= 0) { ::close(blocks_); }
    if (names_ >= 0) { ::close(names_); }  // and the lock with it
}

Result<void> FileTier::read_names(const TierHeader& expected, std::uint32_t slots) {
    struct ::stat status{};
    if (::fstat(names_, &status) != 0) { return failed("read", folder_ / "names", errno); }
    const auto size = static_cast<std::uint64_t>(status.st_size);
    std::array<std::byte, kTierHeaderBytes> head{};
    std::optional<TierHeader> header;
    if (size >= head.size() && read_all(names_, head, 0) == 0) { header = decode_header(head); }
    if (header) { header->slots = expected.slots; }  // another budget: what still has a place stays
    if (!header || *header != expected) {
        if (size > 0) {
            spdlog::info("{} holds KV of another model, key or version, or none: it is begun anew", folder_.string());
        }
        return begin_anew(expected, slots);
    }
    const auto known =
        static_cast<std::uint32_t>(std::min<std::uint64_t>((size - head.size()) / kTierRecordBytes, slots));
    std::vector<std::byte> bytes(std::size_t{known} * kTierRecordBytes);
    if (const int error = read_all(names_, bytes, head.size()); error != 0) {
        return failed("read", folder_ / "names", error);
    }
    records_.resize(slots);
    for (std::uint32_t slot = 0; slot < known; ++slot) {
        records_[slot] =
            decode_record(std::span(bytes).subspan(std::size_t{slot} * kTierRecordBytes, kTierRecordBytes));
        if (records_[slot].block) { uses_ = std::max(uses_, records_[slot].block->used); }
    }
    if (::ftruncate(blocks_, static_cast<off_t>(slots * block_bytes_)) != 0) {
        return failed("size", folder_ / "blocks", errno);
    }
    if (::ftruncate(names_, static_cast<off_t>(record_offset(slots))) != 0) {
        return failed("size", folder_ / "names", errno);
    }
    return {};
}

Result<void> FileTier::begin_anew(const TierHeader& header, std::uint32_t slots) {
    for (const auto& [file, name, bytes] : {std::tuple(names_, "names", record_offset(slots)),
                                            std::tuple(blocks_, "blocks", std::uint64_t{slots} * block_bytes_)}) {
        if (::ftruncate(file, 0) != 0 || ::ftruncate(file, static_cast<off_t>(bytes)) != 0) {
            return failed("size", folder_ / name, errno);
        }
    }
    if (const int error = write_all(names_, encode(header), 0); error != 0) {
        return failed("write", folder_ / "names", error);
    }
    records_.assign(slots, {});
    return {};
}

std::vector<FileTier::Found> FileTier::found() const {
    std::vector<std::pair<std::uint64_t, std::uint32_t>> order;  // (used, slot)
    for (std::uint32_t slot = 0; slot < records_.size(); ++slot) {
        if (records_[slot].block) { order.emplace_back(records_[slot].block->used, slot); }
    }
    std::sort(order.begin(), order.end());
    std::vector<Found> found;
    found.reserve(order.size());
    for (const auto& [used, slot] : order) {
        found.push_back({slot, records_[slot].block->hash, records_[slot].block->parent});
    }
    return found;
}

Result<void> FileTier::write_records(std::uint32_t first, std::uint32_t count) {
    std::vector<std::byte> bytes;
    bytes.reserve(std::size_t{count} * kTierRecordBytes);
    for (std::uint32_t slot = first; slot < first + count; ++slot) {
        const auto record = encode(records_[slot]);
        bytes.insert(bytes.end(), record.begin(), record.end());
    }
    if (const int error = write_all(names_, bytes, record_offset(first)); error != 0) {
        return failed("write", folder_ / "names", error);
    }
    return {};
}

Result<void> FileTier::save(kv_cache::KvAccess& pool, const TierPiece& piece, std::span<const base::BlockHash> hashes,
                            std::optional<base::BlockHash> parent) {
    const std::uint32_t first = base::raw(piece.slots.first);
    const std::uint32_t count = piece.slots.count;
    CHECK(count == hashes.size() && count <= records_.size() && first <= records_.size() - count);
    for (std::uint32_t i = 0; i < count; ++i) {
        records_[first + i].block.reset();
    }
    if (auto taken_back = write_records(first, count); !taken_back) { return taken_back; }

    const auto at_once = static_cast<std::uint32_t>(std::max<std::size_t>(1, kPieceBytes / block_bytes_));
    std::vector<std::uint32_t> crcs;
    for (std::uint32_t done = 0; done < count;) {
        const std::uint32_t part = std::min(at_once, count - done);
        const kv_cache::BlockRun run{kv_cache::BlockId{base::raw(piece.blocks.first) + done}, part};
        std::span<std::byte> bytes = pool.in_place(run);
        if (bytes.empty()) {
            buffer_.resize(part * block_bytes_);
            bytes = buffer_;
            if (auto saved = pool.save(std::array{run}, bytes); !saved) { return base::pass_on(saved); }
        }
        for (std::uint32_t i = 0; i < part; ++i) {
            crcs.push_back(base::crc32c(bytes.subspan(i * block_bytes_, block_bytes_)));
        }
        const int error = write_all(blocks_, bytes, std::uint64_t{first + done} * block_bytes_);
        if (error != 0) { return failed("write", folder_ / "blocks", error); }
        done += part;
    }
    for (std::uint32_t i = 0; i < count; ++i) {
        records_[first + i].block =
            TierRecord::Block{hashes[i], i == 0 ? parent : std::optional(hashes[i - 1]), crcs[i], ++uses_};
    }
    auto named = write_records(first, count);
    if (!named) {
        for (std::uint32_t i = 0; i < count; ++i) {
            records_[first + i].block.reset();
        }
    }
    return named;
}

Result<std::uint32_t> FileTier::load(kv_cache::KvAccess& pool, const TierPiece& piece,
                                     std::span<const base::BlockHash> hashes) {
    const std::uint32_t first = base::raw(piece.slots.first);
    const std::uint32_t count = piece.slots.count;
    CHECK(count == hashes.size() && count <= records_.size() && first <= records_.size() - count);
    const auto at_once = static_cast<std::uint32_t>(std::max<std::size_t>(1, kPieceBytes / block_bytes_));
    std::uint32_t done = 0;
    bool is_damaged = false;
    while (done < count && !is_damaged) {
        const std::uint32_t part = std::min(at_once, count - done);
        const kv_cache::BlockRun run{kv_cache::BlockId{base::raw(piece.blocks.first) + done}, part};
        std::span<std::byte> bytes = pool.in_place(run);  // nobody reads what turns out to be damaged there
        const bool is_in_place = !bytes.empty();
        if (!is_in_place) {
            buffer_.resize(part * block_bytes_);
            bytes = buffer_;
        }
        const int error = read_all(blocks_, bytes, std::uint64_t{first + done} * block_bytes_);
        if (error != 0) {
            if (done > 0) { break; }
            return failed("read", folder_ / "blocks", error);
        }
        std::uint32_t good = 0;
        for (; good < part; ++good) {
            const std::optional<TierRecord::Block>& block = records_[first + done + good].block;
            const std::uint32_t crc = base::crc32c(bytes.subspan(good * block_bytes_, block_bytes_));
            if (!block || block->hash != hashes[done + good] || block->crc != crc) { break; }
        }
        is_damaged = good < part;
        if (good > 0 && !is_in_place) {
            const kv_cache::BlockRun came{run.first, good};
            auto restored = pool.restore(std::array{came}, bytes.first(good * block_bytes_));
            if (!restored) { return base::pass_on(restored); }
        }
        done += good;
    }
    // The order in which blocks are given up after a new start. The damaged one is named no more.
    for (std::uint32_t i = 0; i < done; ++i) {
        records_[first + i].block->used = ++uses_;
    }
    if (is_damaged) { records_[first + done].block.reset(); }
    if (auto noted = write_records(first, done + (is_damaged ? 1 : 0)); !noted) {
        spdlog::debug("{}", noted.error().message);
    }
    return done;
}

Result<void> FileTier::clear() {
    for (TierRecord& record : records_) {
        record.block.reset();
    }
    // Shortened and made long again: zeros, in one call each.
    const auto size = static_cast<off_t>(record_offset(slots_total()));
    if (::ftruncate(names_, static_cast<off_t>(kTierHeaderBytes)) != 0 || ::ftruncate(names_, size) != 0) {
        return failed("clear", folder_ / "names", errno);
    }
    return {};
}

}  // namespace kv_transfer
