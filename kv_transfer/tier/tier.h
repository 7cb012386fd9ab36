#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "base/block_hash.h"
#include "base/clock.h"
#include "base/result.h"
#include "kv_cache/block_pool.h"
#include "kv_cache/kv_access.h"

// A level below a worker's KV pool: host memory, a disk. A level has slots of the size of a block; which block lies in
// which slot is its owner's affair (worker::KvTiers keeps a kv_cache::KvCache of its slots), here only bytes are moved.
namespace kv_transfer {

/// Neighbours in the pool and neighbours in the level: one copy.
struct TierPiece {
    kv_cache::BlockRun blocks;
    kv_cache::BlockRun slots;  // as many
    bool operator==(const TierPiece&) const = default;
};

/// Blocks of one job that saves, at most: loads of the same level, which go first, wait for no more than this, and for
/// what is on its way of the jobs before it.
inline constexpr std::uint32_t kTierSaveBlocksMax = 64;

/// Maximal pieces of the pairs (blocks[i], slots[i]), in their order; both have the same size.
std::vector<TierPiece> tier_pieces(std::span<const kv_cache::BlockId> blocks, std::span<const kv_cache::BlockId> slots);

/// What is to be moved. Whoever asks holds blocks and slots until the job's event.
struct TierJob {
    enum class Kind : std::uint8_t {
        save,   // from the pool to the level
        load,   // back
        clear,  // nothing that was saved before this job may be found in a later life of the level
    };
    std::uint64_t id = 0;
    Kind kind = Kind::save;
    std::vector<TierPiece> pieces;          // in sequence order; of a save at most kTierSaveBlocksMax blocks
    std::vector<base::BlockHash> hashes;    // of their blocks, one chain
    std::optional<base::BlockHash> parent;  // the name before the first; empty: it begins the chain
    /// Of a load: what has not come by then is not loaded any more. Empty: it takes as long as it takes.
    std::optional<base::TimePoint> until = std::nullopt;
};

/// The end of a job; exactly one for each that was taken.
struct TierEvent {
    std::uint64_t id = 0;
    std::uint32_t blocks_done = 0;  // of a load: so many from the first on are there; of a save: all or 0
    std::optional<base::Error> error = std::nullopt;
    base::Duration duration{};  // of the move alone, without what it waited
    bool given_up = false;      // of a load: it took too long; what did not come is still there
    std::uint64_t moved = 0;    // bytes as they lie in the level: fewer than the blocks' where they are coded
};

/// Takes jobs of one level and moves bytes beside the step. Live: TierCopier.
class TierMover {
public:
    virtual ~TierMover() = default;
    /// Step thread; does not wait. False: too many wait, no event will come.
    [[nodiscard]] virtual bool submit(TierJob job) = 0;
    /// Blocks of loads that were taken and have not ended.
    virtual std::uint32_t blocks_loading() const = 0;
};

/// What one job saves: blocks of one chain, `parent` the name before the first.
struct TierSave {
    std::span<const TierPiece> pieces;
    std::span<const base::BlockHash> hashes;  // of their blocks
    std::optional<base::BlockHash> parent = std::nullopt;
};

/// The bytes of a level. One thread at a time.
class TierBytes {
public:
    virtual ~TierBytes() = default;
    virtual std::uint32_t slots_total() const = 0;
    /// The blocks of `pieces`, one chain in their order, which have these names (`parent`: of the block before the
    /// first). Error: the slots hold nothing then.
    virtual base::Result<void> save(kv_cache::KvAccess& pool, std::span<const TierPiece> pieces,
                                    std::span<const base::BlockHash> hashes, std::optional<base::BlockHash> parent) = 0;
    /// Several saves, so that a level has something to do from one to the next: `next` is asked when there is room to
    /// begin another (empty: not now; what it gave stays alive until its end), and `ended` is told once of each, in
    /// their order, as save() would give it. Returns when all that were given have ended and `next` has no more.
    virtual void save_in_turn(kv_cache::KvAccess& pool, const std::function<std::optional<TierSave>()>& next,
                              const std::function<void(base::Result<void>)>& ended);
    /// The number of blocks that came, from the first on; fewer than asked for: the next one is not what was saved
    /// (data_loss would be its error). Error: none came.
    virtual base::Result<std::uint32_t> load(kv_cache::KvAccess& pool, std::span<const TierPiece> pieces,
                                             std::span<const base::BlockHash> hashes) = 0;
    /// As TierJob::Kind::clear.
    virtual base::Result<void> clear() = 0;

    /// For later loads: once it says no, a level that may be slow begins no more of a load's blocks and gives those
    /// that have come (cancelled: none has).
    void load_while(std::function<bool()> goes_on) { goes_on_ = std::move(goes_on); }
    /// Bytes as they lie in the level that came or went since the last call.
    std::uint64_t take_moved() { return std::exchange(moved_, 0); }

protected:
    bool may_go_on() const { return !goes_on_ || goes_on_(); }
    void note_moved(std::uint64_t bytes) { moved_ += bytes; }

private:
    std::function<bool()> goes_on_;
    std::uint64_t moved_ = 0;
};

}  // namespace kv_transfer
