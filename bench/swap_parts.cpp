#include "bench/swap_parts.h"

#include <time.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"

namespace bench {

using kv_cache::SequenceKv;
using kv_transfer::TierPiece;

namespace {

constexpr std::uint32_t kBlockTokens = 16;
constexpr std::uint32_t kPieceBlocks = 32;  // the largest of those that fragment a pool
constexpr std::uint32_t kGrowBlocks = 4;    // that a sequence gets in turn with the others

double now_seconds(bool processor_time) {
    timespec time{};
    ::clock_gettime(processor_time ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &time);
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

}  // namespace

Fragmented::Fragmented(const SwapOptions& options, double used_share, std::uint32_t blocks_total, std::mt19937& random)
    : cache({.blocks_total = blocks_total, .block_tokens = kBlockTokens}) {
    std::vector<SequenceKv> pieces;
    std::uniform_int_distribution<std::uint32_t> size(1, kPieceBlocks);
    while (cache.pool().blocks_free() > 0) {
        const std::uint32_t blocks = std::min(size(random), cache.pool().blocks_free());
        pieces.push_back(std::move(*cache.open({}, blocks * kBlockTokens)));
    }
    std::shuffle(pieces.begin(), pieces.end(), random);
    const auto wanted = static_cast<std::uint32_t>((1 - used_share) * blocks_total);
    while (!pieces.empty() && cache.pool().blocks_free() < wanted) {
        pieces.pop_back();
    }
    others = std::move(pieces);
    // They grow in turns, as sequences of one batch do.
    const std::uint32_t blocks = cache.blocks_for(options.tokens);
    for (std::uint32_t have = 0; have < blocks;) {
        have = std::min(have + (have == 0 ? blocks / 2 + 1 : kGrowBlocks), blocks);
        for (std::uint32_t i = 0; i < options.sequences; ++i) {
            if (i == sequences.size()) {
                sequences.push_back(std::move(*cache.open({}, have * kBlockTokens)));
            } else {
                CHECK(sequences[i].reserve(have * kBlockTokens));
            }
        }
    }
}

std::uint32_t blocks_total_of(const SwapOptions& options) {
    const std::uint32_t blocks = (options.tokens + kBlockTokens - 1) / kBlockTokens * options.sequences;
    return static_cast<std::uint32_t>(blocks / (1 - std::max(options.used_share, options.tier_used_share)) * 1.25);
}

double median(std::vector<double> values) {
    const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
    std::nth_element(values.begin(), middle, values.end());
    return *middle;
}

std::vector<std::vector<double>> rates_of(const SwapOptions& options, std::size_t bytes,
                                          std::span<const SwapTrial> trials) {
    std::vector<std::vector<double>> rates(trials.size());
    for (const SwapTrial& trial : trials) {
        trial.move();
    }
    for (std::uint32_t sample = 0; sample < options.samples; ++sample) {
        for (std::size_t i = 0; i < trials.size(); ++i) {
            trials[i].prepare();
            const double begin = now_seconds(options.processor_time);
            trials[i].move();
            rates[i].push_back(static_cast<double>(bytes) / (now_seconds(options.processor_time) - begin));
            trials[i].check();
        }
    }
    return rates;
}

std::vector<double> shares_of(const std::vector<std::vector<double>>& rates, std::size_t limits) {
    std::size_t best = 0;
    for (std::size_t i = 1; i < limits; ++i) {
        if (median(rates[i]) > median(rates[best])) { best = i; }
    }
    std::vector<double> shares;
    for (const std::vector<double>& of_trial : rates) {
        std::vector<double> in_turn;
        for (std::size_t sample = 0; sample < of_trial.size(); ++sample) {
            in_turn.push_back(of_trial[sample] / rates[best][sample]);
        }
        shares.push_back(median(std::move(in_turn)));
    }
    return shares;
}

SwapPlan plan_of(const SwapOptions& options, const Fragmented& pool, const Fragmented& tier) {
    SwapPlan plan;
    for (std::uint32_t i = 0; i < options.sequences; ++i) {
        plan.pieces.push_back(kv_transfer::tier_pieces(pool.sequences[i].blocks(), tier.sequences[i].blocks()));
        plan.copies += plan.pieces.back().size();
        std::vector<base::BlockHash> names;
        for (std::uint64_t block = 0; block < pool.sequences[i].blocks().size(); ++block) {
            names.push_back({i + 1, block + 1});
        }
        plan.names.push_back(std::move(names));
    }
    return plan;
}

void fill(kv_cache::KvStore& store, const Fragmented& pool, unsigned with) {
    for (const SequenceKv& sequence : pool.sequences) {
        unsigned number = with;
        for (const base::BlockId id : sequence.blocks()) {
            std::memset(store.block(id), static_cast<int>(number++ % 251), store.layout().block_bytes());
        }
    }
}

bool holds(const kv_cache::KvStore& store, const Fragmented& pool, unsigned what) {
    for (const SequenceKv& sequence : pool.sequences) {
        unsigned number = what;
        for (const base::BlockId id : sequence.blocks()) {
            const auto expected = static_cast<std::byte>(number++ % 251);
            if (store.block(id)[0] != expected || store.block(id)[store.layout().block_bytes() - 1] != expected) {
                return false;
            }
        }
    }
    return true;
}

void SwapMover::save() {
    std::size_t given = 0;
    const auto next = [&]() -> std::optional<kv_transfer::TierSave> {
        if (given == plan_.pieces.size()) { return std::nullopt; }
        const std::size_t i = given++;
        return kv_transfer::TierSave{plan_.pieces[i], plan_.names[i]};
    };
    bytes_.save_in_turn(access_, next, [this](base::Result<void> saved) {
        if (!saved) { error_ = saved.error(); }
    });
}

void SwapMover::load() {
    for (std::size_t i = 0; i < plan_.pieces.size(); ++i) {
        if (auto loaded = bytes_.load(access_, plan_.pieces[i], plan_.names[i]); !loaded) { error_ = loaded.error(); }
    }
}

}  // namespace bench
