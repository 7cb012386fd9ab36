#include "kv_transfer/tier/file_tier.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <string_view>
#include <system_error>
#include <thread>
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

constexpr std::size_t kPageBytes = 4096;  // what the places of pieces in memory of ours begin at multiples of
constexpr int kFlags = O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW;
constexpr auto kLockPoll = std::chrono::milliseconds(5);
constexpr std::string_view kKeyMark = "sluice kv level 1";
constexpr const char* kSetting = "engine.kv_disk.bytes";

tl::unexpected<base::Error> failed(std::string_view what, const fs::path& file, int error) {
    return tl::unexpected(file_error(what, file, error));
}

std::uint64_t record_offset(std::uint32_t slot) {
    return kTierHeaderBytes + std::uint64_t{slot} * kTierRecordBytes;
}

TierHeader header_of(const FileTier::Options& options, std::uint32_t slots) {
    TierHeader header{.block_bytes = options.block_bytes, .numerics_id = options.numerics_id, .slots = slots};
    header.coding = options.coding;
    const base::Mac mark = base::make_mac(options.hash_key, kKeyMark, {});
    std::copy_n(reinterpret_cast<const std::byte*>(mark.data()), header.key_mark.size(), header.key_mark.begin());
    CHECK(options.layout.size() <= header.layout.size(), options.layout);
    std::copy(options.layout.begin(), options.layout.end(), header.layout.begin());
    return header;
}

}  // namespace

FileTier::FileTier(const Options& options, std::unique_ptr<BlockCoder> coder)
    : folder_(options.folder),
      block_bytes_(options.block_bytes),
      coding_(options.coding),
      coder_(std::move(coder)),
      slot_bytes_(coding_ == TierCoding::exact ? coder_->slot_bytes() : block_bytes_),
      device_(*options.device) {}

Result<std::unique_ptr<FileTier>> FileTier::open(const Options& options) {
    std::unique_ptr<BlockCoder> coder;
    if (options.coding != TierCoding::raw) {
        CHECK(options.pool && options.pool->block_bytes() == options.block_bytes);
        auto made = BlockCoder::make(*options.pool, options.numerics_id, *options.device);
        if (!made) { return base::pass_on(made, "engine.kv_disk.codec"); }
        coder = std::move(*made);
    }
    std::unique_ptr<FileTier> tier(new FileTier(options, std::move(coder)));
    const std::uint64_t for_slots = options.bytes - std::min<std::uint64_t>(options.bytes, kTierHeaderBytes);
    const auto slots = tier_slots(for_slots, tier->slot_bytes_ + kTierRecordBytes, kSetting);
    if (!slots) { return base::pass_on(slots); }
    std::error_code error;
    const bool is_new = fs::create_directories(options.folder, error);
    if (error) { return failed("make the folder", options.folder, error.value()); }
    if (is_new) { fs::permissions(options.folder, fs::perms::owner_all, error); }

    const fs::path names = options.folder / "names";
    tier->names_ = ::open(names.c_str(), kFlags, 0600);
    if (tier->names_ < 0) { return failed("open", names, errno); }
    if (::flock(tier->names_, LOCK_EX | LOCK_NB) != 0) {
        return base::fail(ErrorCode::failed_precondition,
                          names.string() + " is in use by another process: give each worker a folder of its own");
    }
    if (auto opened = tier->open_blocks(options); !opened) { return base::pass_on(opened); }
    if (auto read = tier->read_names(header_of(options, *slots), *slots); !read) { return base::pass_on(read); }
    tier->choose_io(options);
    if (options.read_rate) {
        tier->rate_.begin(*options.read_rate);
    } else {
        tier->find_rate();
    }
    return tier;
}

Result<void> FileTier::open_blocks(const Options& options) {
    const fs::path blocks = folder_ / "blocks";
    blocks_ = ::open(blocks.c_str(), kFlags, 0600);
    if (blocks_ < 0) { return failed("open", blocks, errno); }
    // `names` is ours, so nobody uses `blocks`. But what a killed process had handed to the kernel may still be
    // written, and the lock lasts as long as that.
    const auto until = std::chrono::steady_clock::now() + options.earlier_wait;
    while (::flock(blocks_, LOCK_EX | LOCK_NB) != 0) {
        if (std::chrono::steady_clock::now() >= until) {
            return base::fail(ErrorCode::failed_precondition,
                              blocks.string() +
                                  " is still written by a process that has ended: the disk does not "
                                  "answer, or something else holds a lock on the file");
        }
        std::this_thread::sleep_for(kLockPoll);
    }
    return {};
}

void FileTier::choose_io(const Options& options) {
    io_ = make_page_cache_io(blocks_);
    if (options.page_cache) { return; }
    auto direct = make_direct_io(blocks_, folder_ / "blocks", slot_bytes_, options.depth, why_not_direct_);
    if (direct == nullptr) { return; }
    // The lock goes to what the kernel keeps open while it writes; `names` keeps others out meanwhile.
    if (::flock(blocks_, LOCK_UN) != 0 || ::flock(direct->descriptor(), LOCK_EX | LOCK_NB) != 0) {
        why_not_direct_ = file_error("lock", folder_ / "blocks", errno).message;
        return;
    }
    io_ = std::move(direct);
}

FileTier::~FileTier() {
    io_.reset();
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
    bool is_changed = false;
    if (header) {
        header->slots = expected.slots;  // another budget: what still has a place stays
        // Raw blocks are where others may be coded, too; the other way round is not so.
        is_changed = header->coding == TierCoding::raw && expected.coding == TierCoding::automatic;
        if (is_changed) { header->coding = TierCoding::automatic; }
    }
    if (!header || *header != expected) {
        if (size > 0) {
            spdlog::info("{} holds KV of another model, key, coding or version, or none: it is begun anew",
                         folder_.string());
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
        std::optional<TierRecord::Block>& block = records_[slot].block;
        const bool may_be = block && block->coded_bytes <= slot_bytes_ &&
                            (coding_ == TierCoding::automatic || (block->coded_bytes > 0) == (coder_ != nullptr));
        if (!may_be) { block.reset(); }
        if (block) { uses_ = std::max(uses_, block->used); }
    }
    if (::ftruncate(blocks_, static_cast<off_t>(slots * slot_bytes_)) != 0) {
        return failed("size", folder_ / "blocks", errno);
    }
    if (::ftruncate(names_, static_cast<off_t>(record_offset(slots))) != 0) {
        return failed("size", folder_ / "names", errno);
    }
    if (!is_changed) { return {}; }
    const auto changed = encode(expected);
    const int error = write_all(names_, std::span(changed).first(kTierRateAt), 0);
    return error == 0 ? Result<void>{} : failed("write", folder_ / "names", error);
}

Result<void> FileTier::begin_anew(const TierHeader& header, std::uint32_t slots) {
    for (const auto& [file, name, bytes] : {std::tuple(names_, "names", record_offset(slots)),
                                            std::tuple(blocks_, "blocks", std::uint64_t{slots} * slot_bytes_)}) {
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
    if (count == 0) { return {}; }
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

Result<void> FileTier::forget(std::span<const TierPiece> pieces) {
    for (const TierPiece& piece : pieces) {
        const std::uint32_t first = base::raw(piece.slots.first);
        CHECK(piece.slots.count <= records_.size() && first <= records_.size() - piece.slots.count);
        for (std::uint32_t slot = first; slot < first + piece.slots.count; ++slot) {
            records_[slot].block.reset();
        }
        if (auto written = write_records(first, piece.slots.count); !written) { return written; }
    }
    return {};
}

std::vector<FileTier::Part> FileTier::parts_of(std::span<const TierPiece> pieces, std::size_t bytes_at_once,
                                               std::optional<bool> all_coded) const {
    const auto at_once = static_cast<std::uint32_t>(std::max<std::size_t>(1, bytes_at_once / block_bytes_));
    std::vector<Part> parts;
    std::uint32_t first = 0;
    for (const TierPiece& piece : pieces) {
        const std::uint32_t slots = base::raw(piece.slots.first);
        CHECK(piece.blocks.count == piece.slots.count && piece.slots.count <= records_.size() &&
              slots <= records_.size() - piece.slots.count);
        bool may_join = false;  // the one before
        for (std::uint32_t i = 0; i < piece.blocks.count; ++i, ++first) {
            const bool is_one = all_coded.value_or(is_coded(slots + i));
            if (may_join && !is_one && parts.back().blocks.count < at_once) {
                ++parts.back().blocks.count;
                continue;
            }
            const kv_cache::BlockId block{base::raw(piece.blocks.first) + i};
            parts.push_back({.blocks = {block, 1}, .slot = slots + i, .first = first, .is_coded = is_one});
            may_join = !is_one;
        }
    }
    return parts;
}

Result<std::span<std::byte>> FileTier::staging(std::uint32_t index) {
    const std::size_t coded_bytes = coder_ ? coder_->coded_bytes_max() : 0;
    const std::size_t place_bytes = std::max({kWriteBytes, block_bytes_, coded_bytes});
    const std::size_t unit = std::max(kPageBytes, io_->alignment());
    const std::size_t stride = (place_bytes + unit - 1) / unit * unit;
    if (staging_.size() == 0) {
        auto memory = device_.allocate_host(io_->depth() * stride);
        if (!memory) { return base::pass_on(memory, "engine.kv_disk.queue_depth"); }
        staging_ = std::move(*memory);
    }
    return std::span<std::byte>{staging_.data() + index * stride, stride};
}

Result<FileTier::Place> FileTier::place_of(kv_cache::KvAccess& pool, const Part& part, std::uint32_t index) {
    const std::span<std::byte> there = pool.in_place(part.blocks);
    if (!there.empty() && reinterpret_cast<std::uintptr_t>(there.data()) % io_->alignment() == 0) {
        return Place{there, true};
    }
    const auto memory = staging(index);
    if (!memory) { return base::pass_on(memory); }
    return Place{memory->first(part.blocks.count * block_bytes_), false};
}

template <class Begin, class Finish>
Result<void> FileTier::each_part(std::span<const Part> parts, const Begin& begin, const Finish& finish) {
    Result<void> result;
    std::size_t begun = 0;
    for (std::size_t finished = 0; finished < parts.size();) {
        const bool has_room = begun < parts.size() && begun - finished < io_->depth();
        if (has_room && result) {
            result = begin(parts[begun], static_cast<std::uint32_t>(begun % io_->depth()));
            begun += result ? 1 : 0;
            continue;
        }
        if (finished == begun) { break; }
        auto ended = finish(parts[finished], static_cast<std::uint32_t>(finished % io_->depth()));
        if (result) { result = std::move(ended); }
        ++finished;
    }
    return result;
}

Result<std::uint32_t> FileTier::load(kv_cache::KvAccess& pool, std::span<const TierPiece> pieces,
                                     std::span<const base::BlockHash> hashes) {
    const std::vector<Part> parts = parts_of(pieces, kReadBytes, std::nullopt);
    CHECK(hashes.size() == (parts.empty() ? 0 : parts.back().first + parts.back().blocks.count));
    std::vector<Place> places(io_->depth());  // of those that are on their way; nobody reads a pool's before the end
    std::uint32_t done = 0;
    bool is_damaged = false;
    const auto now = [] { return std::chrono::steady_clock::now(); };
    const auto first_begin = now();
    base::Duration waited{};
    std::uint64_t read_bytes = 0;
    const auto begin = [&](const Part& part, std::uint32_t index) -> Result<void> {
        if (!may_go_on()) { return base::fail(ErrorCode::cancelled, "nobody waits for it any more"); }
        if (part.is_coded) {
            const auto memory = staging(index);
            if (!memory) { return base::pass_on(memory); }
            places[index] = {memory->first(padded(bytes_in(part.slot))), false};
        } else {
            auto place = place_of(pool, part, index);
            if (!place) { return base::pass_on(place); }
            places[index] = *place;
        }
        const auto before = now();
        io_->begin_read(index, places[index].bytes, std::uint64_t{part.slot} * slot_bytes_);
        waited += now() - before;
        return {};
    };
    /// How many blocks of the part are what was saved, and in the pool.
    const auto take = [&](const Part& part, const Place& place) -> Result<std::uint32_t> {
        const std::optional<TierRecord::Block>& block = records_[part.slot].block;
        if (part.is_coded) {
            const std::span<const std::byte> coded = place.bytes.first(block->coded_bytes);
            if (block->hash != hashes[part.first] || block->crc != base::crc32c(coded)) { return 0u; }
            auto decoded = coder_->decode(pool, part.blocks.first, coded);
            if (!decoded && decoded.error().code != ErrorCode::data_loss) { return base::pass_on(decoded); }
            return decoded ? 1u : 0u;
        }
        std::uint32_t good = 0;
        for (; good < part.blocks.count; ++good) {
            const std::optional<TierRecord::Block>& each = records_[part.slot + good].block;
            const std::uint32_t crc = base::crc32c(place.bytes.subspan(good * block_bytes_, block_bytes_));
            if (!each || each->hash != hashes[part.first + good] || each->crc != crc) { break; }
        }
        if (good > 0 && !place.in_pool) {
            const kv_cache::BlockRun came{part.blocks.first, good};
            auto restored = pool.restore(std::array{came}, place.bytes.first(good * block_bytes_));
            if (!restored) { return base::pass_on(restored); }
        }
        return good;
    };
    const auto finish = [&](const Part& part, std::uint32_t index) -> Result<void> {
        const auto before = now();
        const int error = io_->finish(index);
        waited += now() - before;
        if (error == 0) { read_bytes += places[index].bytes.size(); }
        if (done < part.first) { return {}; }  // something before it did not come
        if (error != 0) { return failed("read", folder_ / "blocks", error); }
        const auto good = take(part, places[index]);
        if (!good) { return base::pass_on(good); }
        done += *good;
        if (*good == part.blocks.count) { return {}; }
        is_damaged = true;
        return base::fail(ErrorCode::data_loss, "a block is not what was saved");
    };
    const auto moved = each_part(parts, begin, finish);
    note_moved(read_bytes);
    rate_.add(read_bytes, now() - first_begin, waited, io_->depth() > 1);
    keep_rate();
    if (!moved && !is_damaged && done == 0) { return base::pass_on(moved); }

    // The order in which blocks are given up after a new start. The damaged one is named no more.
    const std::uint32_t end = done + (is_damaged ? 1 : 0);
    std::uint32_t first = 0;
    for (const TierPiece& piece : pieces) {
        const std::uint32_t changed = std::min(piece.slots.count, end - std::min(end, first));
        const std::uint32_t slot = base::raw(piece.slots.first);
        for (std::uint32_t i = 0; i < changed; ++i) {
            if (first + i < done) {
                records_[slot + i].block->used = ++uses_;
            } else {
                records_[slot + i].block.reset();
            }
        }
        if (auto noted = write_records(slot, changed); !noted) { spdlog::debug("{}", noted.error().message); }
        first += piece.slots.count;
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
