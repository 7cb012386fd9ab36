#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/block_hash.h"
#include "base/clock.h"
#include "device/buffer.h"
#include "device/device.h"
#include "kv_cache/kv_layout.h"
#include "kv_transfer/tier/block_coder.h"
#include "kv_transfer/tier/disk_rate.h"
#include "kv_transfer/tier/file_io.h"
#include "kv_transfer/tier/tier.h"
#include "kv_transfer/tier/tier_record.h"

namespace kv_transfer {

/// A level in two files of a folder: `blocks`, slot after slot, and `names`, a header and a record for each slot with
/// the name of its block and the CRC-32C of its bytes. It outlives the process, however that ends: a record is taken
/// back before its slot is written and comes back when that is done, and a block whose bytes are not those that were
/// saved is never given out. One process at a time has it (a lock on `names`), and only when nothing of an earlier one
/// is on its way to the disk any more (a lock on `blocks`, which the kernel keeps until then).
///
/// Blocks move around the page cache, several at once, where kernel, container and file system allow it, else through
/// it (file_io.h); the files are the same.
///
/// Blocks may lie there coded (Options::coding), each in a slot of its own. A load decodes them while the next ones are
/// read. What the disk gives is measured by a few small reads when the files are opened, then by each load, and kept
/// beside the header.
///
/// Files of another format, coding, block size, model, or key are begun anew: they can hold nothing that could be
/// found. But raw ones are gone on with where blocks may be coded or not (TierCoding::automatic).
class FileTier final : public TierBytes {
public:
    struct Options {
        std::filesystem::path folder;  // made where there is none, for its owner only
        std::uint64_t bytes = 0;       // of both files together, at most
        std::size_t block_bytes = 0;
        std::uint64_t numerics_id = 0;
        std::string layout;           // KvFormat::name()
        base::HashKey hash_key = {};  // under which blocks are named
        bool page_cache = false;      // not around it, whatever is allowed
        TierCoding coding = TierCoding::raw;
        std::optional<kv_cache::KvLayout> pool = std::nullopt;   // whose blocks they are, where that is not raw
        std::optional<double> read_rate = std::nullopt;          // of the disk, bytes a second; empty: it is measured
        std::uint32_t depth = 8;                                 // pieces on their way at once, 1 to kDirectDepthMax
        base::Duration earlier_wait = std::chrono::seconds(10);  // for what a killed process has on its way
        device::Device* device = &device::host_device();         // of the pool; must outlive the tier
    };
    /// A block that an earlier life has left.
    struct Found {
        std::uint32_t slot = 0;
        base::BlockHash hash;
        std::optional<base::BlockHash> parent;
    };

    /// Error: invalid_argument (no room for a block), failed_precondition (another process has it, or left something
    /// on its way for too long), permission_denied, resource_exhausted; each names the file.
    static base::Result<std::unique_ptr<FileTier>> open(const Options& options);
    ~FileTier() override;

    /// What is there, the longest unused first. Before the first save.
    std::vector<Found> found() const;

    /// "direct", "page_cache".
    std::string_view way() const { return io_->way(); }
    /// Why it is not direct; empty where it is, or was not asked for.
    const std::string& why_not_direct() const { return why_not_direct_; }
    /// What loading a block is expected to take; empty while nothing is known. Before the first save or load: what is
    /// known at start.
    std::optional<base::Duration> load_time() const;

    std::uint32_t slots_total() const override { return static_cast<std::uint32_t>(records_.size()); }
    base::Result<void> save(kv_cache::KvAccess& pool, std::span<const TierPiece> pieces,
                            std::span<const base::BlockHash> hashes, std::optional<base::BlockHash> parent) override;
    void save_in_turn(kv_cache::KvAccess& pool, const std::function<std::optional<TierSave>()>& next,
                      const std::function<void(base::Result<void>)>& ended) override;
    base::Result<std::uint32_t> load(kv_cache::KvAccess& pool, std::span<const TierPiece> pieces,
                                     std::span<const base::BlockHash> hashes) override;
    base::Result<void> clear() override;

    /// What moves at once, or a block where that is more. Writes gain from larger pieces (each costs the disk the
    /// same), reads do not: the checksum of a job's last piece is waited for.
    static constexpr std::size_t kWriteBytes = 1u << 20;
    static constexpr std::size_t kReadBytes = 512u << 10;

private:
    /// Blocks that move at once: neighbours in pool and level, or one that is coded.
    struct Part {
        kv_cache::BlockRun blocks;
        std::uint32_t slot = 0;   // the first
        std::uint32_t first = 0;  // block of the job
        bool is_coded = false;
    };
    struct Saving;

    FileTier(const Options& options, std::unique_ptr<BlockCoder> coder);
    base::Result<void> open_blocks(const Options& options);
    void choose_io(const Options& options);
    /// Reads `names`, or begins both files anew. Error: as open().
    base::Result<void> read_names(const TierHeader& expected, std::uint32_t slots);
    base::Result<void> begin_anew(const TierHeader& header, std::uint32_t slots);
    base::Result<void> write_records(std::uint32_t first, std::uint32_t count);
    /// Takes the names of these slots back, in the file too.
    base::Result<void> forget(std::span<const TierPiece> pieces);

    /// Bytes that a slot uses: of the block itself, coded or not; of one that holds none, what could be read.
    std::size_t bytes_in(std::uint32_t slot) const;
    bool is_coded(std::uint32_t slot) const;
    void find_rate();
    void keep_rate();
    /// Whether a save codes.
    bool codes() const;
    /// The slots' coded blocks, or, of a save, all of them (`all_coded`), alone; the others together, up to
    /// `bytes_at_once`.
    std::vector<Part> parts_of(std::span<const TierPiece> pieces, std::size_t bytes_at_once,
                               std::optional<bool> all_coded) const;
    /// Where the bytes of a part lie while they move, as the index-th of those on their way: in the pool, where that
    /// can be, else in memory of ours. Error: resource_exhausted.
    struct Place {
        std::span<std::byte> bytes;
        bool in_pool = false;
    };
    base::Result<Place> place_of(kv_cache::KvAccess& pool, const Part& part, std::uint32_t index);
    /// Memory of ours for the index-th on its way, as much as any part takes.
    base::Result<std::span<std::byte>> staging(std::uint32_t index);
    std::size_t padded(std::size_t bytes) const;
    base::Result<std::span<const std::byte>> code(kv_cache::KvAccess& pool, const Part& part, std::uint32_t index,
                                                  std::size_t& coded_bytes);
    // file_tier_save.cpp
    Saving open_save(const TierSave& what);
    base::Result<void> begin_part(kv_cache::KvAccess& pool, Saving& saving, std::uint32_t index);
    base::Result<void> close_save(Saving& saving);
    /// Calls begin(part, index) and, in the same order, finish(part, index) for each, with at most depth() of them
    /// begun and not finished; after the first error of either begins no more. What was begun has always ended.
    template <class Begin, class Finish>
    base::Result<void> each_part(std::span<const Part> parts, const Begin& begin, const Finish& finish);

    const std::filesystem::path folder_;
    const std::size_t block_bytes_;
    const TierCoding coding_;
    const std::unique_ptr<BlockCoder> coder_;  // null: raw
    const std::size_t slot_bytes_;
    device::Device& device_;
    int names_ = -1;  // descriptors
    int blocks_ = -1;
    std::unique_ptr<FileIo> io_;  // of `blocks`
    std::string why_not_direct_;
    std::vector<TierRecord> records_;  // by slot, as in the file
    std::uint64_t uses_ = 0;           // the largest of the records
    DiskRate rate_;
    device::Buffer staging_;  // what is on its way, for a pool that is not in host memory; a place for each
};

}  // namespace kv_transfer
