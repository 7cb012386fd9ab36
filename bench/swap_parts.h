#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <random>
#include <span>
#include <vector>

#include "base/block_hash.h"
#include "base/result.h"
#include "bench/swap.h"
#include "kv_cache/kv_access.h"
#include "kv_cache/kv_cache.h"
#include "kv_cache/kv_store.h"
#include "kv_transfer/tier/tier.h"

// What the levels of `sluice bench swap` are measured with. Internal to it.
namespace bench {

/// A pool, or a tier, of which a share is in use in scattered pieces, and the sequences of a sample in the rest.
struct Fragmented {
    Fragmented(const SwapOptions& options, double used_share, std::uint32_t blocks_total, std::mt19937& random);
    kv_cache::KvCache cache;
    std::vector<kv_cache::SequenceKv> others;
    std::vector<kv_cache::SequenceKv> sequences;
};

/// Blocks of a pool, and of a tier, in which a sample's sequences find room.
std::uint32_t blocks_total_of(const SwapOptions& options);

/// What is to be moved, by sequence.
struct SwapPlan {
    std::vector<std::vector<kv_transfer::TierPiece>> pieces;
    std::vector<std::vector<base::BlockHash>> names;
    std::size_t copies = 0;
};
SwapPlan plan_of(const SwapOptions& options, const Fragmented& pool, const Fragmented& tier);

/// Every block of the sequences with bytes that follow from `with` and its place; and whether they have them.
void fill(kv_cache::KvStore& store, const Fragmented& pool, unsigned with);
bool holds(const kv_cache::KvStore& store, const Fragmented& pool, unsigned what);

/// The sequences of a plan on their way to a tier, as a worker's saves that wait are, and back. What it is given must
/// outlive it.
class SwapMover {
public:
    SwapMover(const SwapPlan& plan, kv_transfer::TierBytes& bytes, kv_cache::KvAccess& access)
        : plan_(plan), bytes_(bytes), access_(access) {}
    void save();
    void load();
    /// The last of all calls.
    const std::optional<base::Error>& error() const { return error_; }

private:
    const SwapPlan& plan_;
    kv_transfer::TierBytes& bytes_;
    kv_cache::KvAccess& access_;
    std::optional<base::Error> error_;
};

/// One way to move the same bytes; what is done before and after it is not counted.
struct SwapTrial {
    std::function<void()> move;
    std::function<void()> prepare = [] {};
    std::function<void()> check = [] {};
};
/// Bytes a second of each trial in each sample, [trials][samples]; they go in turns, after one that does not count.
std::vector<std::vector<double>> rates_of(const SwapOptions& options, std::size_t bytes,
                                          std::span<const SwapTrial> trials);
double median(std::vector<double> values);
/// The trial with the highest median among the first `limits`, and of each trial the median of its share of that one in
/// the same turn.
std::vector<double> shares_of(const std::vector<std::vector<double>>& rates, std::size_t limits);

/// A plain file and the groups, each through the page cache and, where that can be, around it. Error: as
/// measure_swaps().
base::Result<std::vector<SwapFigure>> measure_disk(const SwapOptions& options, const SwapPlan& plan,
                                                   kv_cache::KvStore& store, const Fragmented& pool);

}  // namespace bench
