#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/block_hash.h"
#include "kv_cache/kv_layout.h"
#include "kv_transfer/tier/tier.h"
#include "kv_transfer/tier/tier_record.h"

namespace kv_transfer {

/// A level in two files of a folder: `blocks`, slot after slot, and `names`, a header and a record for each slot with
/// the name of its block and the CRC-32C of its bytes. It outlives the process, however that ends: a record is taken
/// back before its slot is written and comes back when that is done, and a block whose bytes are not those that were
/// saved is never given out. One process at a time has it (a lock on `names`).
///
/// Files of another format, block size, model, or key are begun anew: they can hold nothing that could be found.
class FileTier final : public TierBytes {
public:
    struct Options {
        std::filesystem::path folder;  // made where there is none, for its owner only
        std::uint64_t bytes = 0;       // of both files together, at most
        std::size_t block_bytes = 0;
        std::uint64_t numerics_id = 0;
        std::string layout;           // KvFormat::name()
        base::HashKey hash_key = {};  // under which blocks are named
    };
    /// A block that an earlier life has left.
    struct Found {
        std::uint32_t slot = 0;
        base::BlockHash hash;
        std::optional<base::BlockHash> parent;
    };

    /// Error: invalid_argument (no room for a block), failed_precondition (another process has it), permission_denied,
    /// resource_exhausted; each names the file.
    static base::Result<std::unique_ptr<FileTier>> open(const Options& options);
    ~FileTier() override;

    /// What is there, the longest unused first. Before the first save.
    std::vector<Found> found() const;

    std::uint32_t slots_total() const override { return static_cast<std::uint32_t>(records_.size()); }
    base::Result<void> save(kv_cache::KvAccess& pool, const TierPiece& piece, std::span<const base::BlockHash> hashes,
                            std::optional<base::BlockHash> parent) override;
    base::Result<std::uint32_t> load(kv_cache::KvAccess& pool, const TierPiece& piece,
                                     std::span<const base::BlockHash> hashes) override;
    base::Result<void> clear() override;

private:
    FileTier(std::filesystem::path folder, std::size_t block_bytes) : folder_(folder), block_bytes_(block_bytes) {}
    /// Reads `names`, or begins both files anew. Error: as open().
    base::Result<void> read_names(const TierHeader& expected, std::uint32_t slots);
    base::Result<void> begin_anew(const TierHeader& header, std::uint32_t slots);
    base::Result<void> write_records(std::uint32_t first, std::uint32_t count);

    std::filesystem::path folder_;
    std::size_t block_bytes_;
    int names_ = -1;  // descriptors
    int blocks_ = -1;
    std::vector<TierRecord> records_;  // by slot, as in the file
    std::uint64_t uses_ = 0;           // the largest of the records
    std::vector<std::byte> buffer_;    // what is on its way, for a pool that is not in host memory
};

}  // namespace kv_transfer
