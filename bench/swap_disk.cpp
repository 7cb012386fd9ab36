#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include "base/check.h"
#include "bench/swap_parts.h"
#include "kv_transfer/tier/file_io.h"
#include "kv_transfer/tier/file_tier.h"

namespace bench {

namespace fs = std::filesystem;
using base::ErrorCode;
using base::Result;

namespace {

/// A file as the disk has it, where that is asked for: a sync after writing, nothing in the page cache before reading.
class OnDisk {
public:
    OnDisk(const SwapOptions& options, const fs::path& path)
        : file_(options.synced ? ::open(path.c_str(), O_RDWR | O_CLOEXEC) : -1) {}
    OnDisk(const OnDisk&) = delete;
    OnDisk& operator=(const OnDisk&) = delete;
    ~OnDisk() {
        if (file_ >= 0) { ::close(file_); }
    }
    void sync() const {
        if (file_ >= 0) { ::fdatasync(file_); }
    }
    void forget() const {
        if (file_ >= 0) {
            ::fdatasync(file_);
            ::posix_fadvise(file_, 0, 0, POSIX_FADV_DONTNEED);
        }
    }

private:
    int file_;
};

/// A plain file, written over and read in the pieces that FileTier moves at most, one after the other: the limit. Gone
/// afterwards.
class PlainFile {
public:
    /// `block_bytes`: what pieces of a tier would be multiples of. Null where it cannot be had; direct: or not this
    /// way.
    static std::unique_ptr<PlainFile> make(const SwapOptions& options, const fs::path& path,
                                           std::span<std::byte> memory, std::size_t block_bytes, bool direct) {
        std::unique_ptr<PlainFile> plain(new PlainFile(path, memory));
        plain->file_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        if (plain->file_ < 0 || ::ftruncate(plain->file_, static_cast<off_t>(memory.size())) != 0) { return nullptr; }
        std::string reason;
        plain->io_ = direct ? kv_transfer::make_direct_io(plain->file_, path, block_bytes, options.queue_depth, reason)
                            : kv_transfer::make_page_cache_io(plain->file_);
        if (plain->io_ == nullptr) { return nullptr; }
        return plain;
    }
    PlainFile(const PlainFile&) = delete;
    PlainFile& operator=(const PlainFile&) = delete;
    ~PlainFile() {
        io_.reset();
        if (file_ >= 0) { ::close(file_); }
        std::error_code ignored;
        fs::remove(path_, ignored);
    }

    void write() { move(true); }
    void read() { move(false); }
    const fs::path& path() const { return path_; }
    bool is_good() const { return error_ == 0; }

private:
    PlainFile(fs::path path, std::span<std::byte> memory) : path_(std::move(path)), memory_(memory) {}

    void move(bool is_write) {
        const std::size_t piece = is_write ? kv_transfer::FileTier::kWriteBytes : kv_transfer::FileTier::kReadBytes;
        const std::size_t pieces = (memory_.size() + piece - 1) / piece;
        for (std::size_t begun = 0, finished = 0; finished < pieces;) {
            if (begun < pieces && begun - finished < io_->depth()) {
                const std::size_t at = begun * piece;
                const auto bytes = memory_.subspan(at, std::min(piece, memory_.size() - at));
                const auto index = static_cast<std::uint32_t>(begun % io_->depth());
                if (is_write) {
                    io_->begin_write(index, bytes, at);
                } else {
                    io_->begin_read(index, bytes, at);
                }
                ++begun;
                continue;
            }
            if (const int error = io_->finish(static_cast<std::uint32_t>(finished % io_->depth())); error != 0) {
                error_ = error;
            }
            ++finished;
        }
    }

    const fs::path path_;
    const std::span<std::byte> memory_;
    int file_ = -1;
    std::unique_ptr<kv_transfer::FileIo> io_;
    int error_ = 0;
};

/// A level in a folder of its own, gone afterwards.
struct TierOnDisk {
    TierOnDisk(fs::path at, std::unique_ptr<kv_transfer::FileTier> opened, const SwapPlan& plan,
               kv_cache::KvAccess& access)
        : folder(std::move(at)), tier(std::move(opened)), mover(plan, *tier, access) {}
    TierOnDisk(const TierOnDisk&) = delete;
    TierOnDisk& operator=(const TierOnDisk&) = delete;
    ~TierOnDisk() {
        tier.reset();
        std::error_code ignored;
        fs::remove_all(folder, ignored);
    }
    const fs::path folder;
    std::unique_ptr<kv_transfer::FileTier> tier;
    SwapMover mover;
};

}  // namespace

Result<std::vector<SwapFigure>> measure_disk(const SwapOptions& options, const SwapPlan& plan, kv_cache::KvStore& store,
                                             const Fragmented& pool) {
    auto access = kv_cache::KvAccess::make(store);
    if (!access) { return base::pass_on(access); }
    const std::size_t block_bytes = store.layout().block_bytes();
    const std::size_t total = options.sequences * pool.sequences[0].blocks().size() * block_bytes;
    const fs::path folder(options.disk_folder);
    std::error_code made;
    fs::create_directories(folder, made);

    // As large as what is swapped: no piece stays in a cache of the processor.
    auto memory = device::host_device().allocate(total);
    if (!memory) { return base::pass_on(memory); }
    const std::span<std::byte> bytes(memory->data(), memory->size());
    std::fill(bytes.begin(), bytes.end(), std::byte{5});
    std::vector<std::unique_ptr<PlainFile>> plains;
    std::vector<std::unique_ptr<TierOnDisk>> tiers;
    for (const bool direct : {false, true}) {
        const std::string name = direct ? "bench-swap-direct" : "bench-swap-page-cache";
        auto plain = PlainFile::make(options, folder / (name + ".limit"), bytes, block_bytes, direct);
        if (plain == nullptr && direct) { break; }
        if (plain == nullptr) { return base::fail(ErrorCode::unavailable, "cannot write in " + folder.string()); }
        plains.push_back(std::move(plain));
        kv_transfer::FileTier::Options file;
        file.folder = folder / name;
        file.bytes = std::uint64_t{store.blocks_total() + 1} * (block_bytes + 4096);
        file.block_bytes = block_bytes;
        file.layout = store.layout().format().name();
        file.page_cache = !direct;
        file.depth = options.queue_depth;
        auto tier = kv_transfer::FileTier::open(file);
        if (!tier) { return base::pass_on(tier); }
        tiers.push_back(std::make_unique<TierOnDisk>(file.folder, std::move(*tier), plan, *access));
    }

    std::vector<std::unique_ptr<OnDisk>> disks;
    std::vector<SwapTrial> out;
    std::vector<SwapTrial> in;
    std::vector<SwapFigure> figures;
    const auto add = [&](const fs::path& path, std::string name, double copies, auto* what, auto write, auto read) {
        disks.push_back(std::make_unique<OnDisk>(options, path));
        const OnDisk* disk = disks.back().get();
        out.push_back({.move = [what, disk, write] {
            (what->*write)();
            disk->sync();
        }});
        in.push_back({.move = [what, read] { (what->*read)(); }, .prepare = [disk] { disk->forget(); }});
        figures.push_back({.level = "disk", .name = std::move(name), .copies_per_sequence = copies});
    };
    const double copies = static_cast<double>(plan.copies) / options.sequences;
    const char* ways[] = {"page cache", "direct"};
    for (std::size_t i = 0; i < plains.size(); ++i) {
        add(plains[i]->path(), std::string("limit, ") + ways[i], 1, plains[i].get(), &PlainFile::write,
            &PlainFile::read);
    }
    for (std::size_t i = 0; i < tiers.size(); ++i) {
        add(tiers[i]->folder / "blocks", std::string("groups, ") + ways[i], copies, &tiers[i]->mover, &SwapMover::save,
            &SwapMover::load);
    }

    fill(store, pool, 3);
    const auto rates_out = rates_of(options, total, out);
    const std::vector<double> shares_out = shares_of(rates_out, plains.size());
    bool is_right = true;
    for (std::size_t i = plains.size(); i < in.size(); ++i) {  // what came must have come by this one
        in[i].prepare = [&store, &pool, forget = in[i].prepare] {
            fill(store, pool, 99);
            forget();
        };
        in[i].check = [&store, &pool, &is_right] { is_right = is_right && holds(store, pool, 3); };
    }
    const auto rates_in = rates_of(options, total, in);
    const std::vector<double> shares_in = shares_of(rates_in, plains.size());
    for (std::size_t i = 0; i < figures.size(); ++i) {
        figures[i].out_bytes_per_s = median(rates_out[i]);
        figures[i].in_bytes_per_s = median(rates_in[i]);
        figures[i].out_of_limit = shares_out[i];
        figures[i].in_of_limit = shares_in[i];
    }
    for (const auto& plain : plains) {
        if (!plain->is_good()) {
            return base::fail(ErrorCode::unavailable, "cannot write and read in " + folder.string());
        }
    }
    for (const auto& tier : tiers) {
        if (tier->mover.error()) { return tl::unexpected(*tier->mover.error()); }
    }
    if (!is_right) { return base::fail(ErrorCode::internal, "what came back is not what went out"); }
    return figures;
}

}  // namespace bench
