#include <algorithm>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "kv_cache/kv_cache.h"
#include "tests/kv_cache/support.h"
#include "tests/support/seeds.h"

#include "tests/support/catch.h"

using base::BlockHash;
using kv_cache::BlockCounts;
using kv_cache::BlockHold;
using kv_cache::BlockId;
using kv_cache::KvCache;
using kv_cache::PrefixMatch;
using kv_cache::SequenceKv;
using kv_cache_test::make_chain;

namespace {

constexpr std::uint32_t kTokens = 4;  // per block

/// An open sequence as the world sees it.
struct Open {
    SequenceKv kv;
    std::vector<BlockHash> chain;  // of the whole document
    std::uint32_t computed = 0;    // blocks whose content is there
    std::uint32_t published = 0;
};

/// Drives a KvCache with random calls beside plain books: what each block holds, who refers to it, what is published.
class World {
public:
    explicit World(std::uint32_t seed)
        : random_(seed),
          cache_({.blocks_total = draw(4, 48), .block_tokens = kTokens, .group_blocks_initial = draw(1, 9)}),
          content_(cache_.options().blocks_total) {
        const std::uint32_t shared = draw(0, 6);
        for (std::uint32_t document = 1; document <= 5; ++document) {
            chains_.push_back(make_chain(document, 12, shared));
        }
    }

    void step() {
        switch (draw(0, 11)) {
            case 0:
            case 1:
                open();
                break;
            case 2:
            case 3:
                grow();
                break;
            case 4:
                compute_and_publish();
                break;
            case 5:
                close();
                break;
            case 6:
                truncate();
                break;
            case 7:
                take_hold();
                break;
            case 8:
                end_lease();
                break;
            case 9:
                adopt();
                break;
            case 10:
                forget();
                break;
            default:
                take_match();
        }
        learn_events();
        check();
    }

    /// Everything ends; then one sequence must get all blocks in one run.
    void finish() {
        while (!sequences_.empty() || !holds_.empty() || !matches_.empty()) {
            close();
            end_lease();
            learn_events();
            check();
        }
        const std::uint32_t total = cache_.options().blocks_total;
        REQUIRE(cache_.counts().free + cache_.counts().cached == total);
        {
            auto all = cache_.open({}, total * kTokens);
            REQUIRE(all.has_value());
            REQUIRE(cache_.counts() == BlockCounts{.used = total});
            learn_events();
            REQUIRE(named_.empty());
        }
        REQUIRE(cache_.pool().free_runs() == std::map<std::uint32_t, std::uint32_t>{{0, total}});
    }

private:
    std::uint32_t draw(std::uint32_t low, std::uint32_t high) {
        return low + static_cast<std::uint32_t>(random_()) % (high - low + 1);
    }
    template <class T>
    T& any(std::vector<T>& items) {
        return items[draw(0, static_cast<std::uint32_t>(items.size()) - 1)];
    }
    template <class T>
    T take_any(std::vector<T>& items) {
        std::swap(any(items), items.back());
        T taken = std::move(items.back());
        items.pop_back();
        return taken;
    }

    PrefixMatch match(const std::vector<BlockHash>& chain) {
        const std::uint32_t tokens_max = draw(0, 13 * kTokens);
        std::uint32_t expected = 0;
        while (expected < chain.size() && (expected + 1) * kTokens <= tokens_max && named_.contains(chain[expected])) {
            ++expected;
        }
        PrefixMatch match = cache_.match(chain, tokens_max);
        REQUIRE(match.blocks().size() == expected);
        REQUIRE(match.tokens() == expected * kTokens);
        for (std::uint32_t i = 0; i < expected; ++i) {
            REQUIRE(match.blocks()[i] == named_.at(chain[i]));
            REQUIRE(content_[base::raw(match.blocks()[i])] == chain[i]);
        }
        return match;
    }

    void open() {
        const auto& chain = any(chains_);
        PrefixMatch prefix = match(chain);
        const std::uint32_t matched = prefix.tokens();
        const std::uint32_t tokens = std::max(1u, draw(matched, 12 * kTokens));
        const std::uint32_t needed = cache_.blocks_for(tokens) - matched / kTokens;
        const std::uint32_t available = cache_.blocks_available();
        const BlockCounts before = cache_.counts();
        auto opened = cache_.open(std::move(prefix), tokens);
        REQUIRE(opened.has_value() == (needed <= available));
        if (!opened) {
            REQUIRE(opened.error().code == base::ErrorCode::resource_exhausted);
            REQUIRE(prefix.tokens() == matched);
            REQUIRE(cache_.counts() == before);
            if (draw(0, 1) == 0) { matches_.push_back(std::move(prefix)); }
            return;
        }
        REQUIRE(opened->prefix_tokens() == matched);
        REQUIRE(opened->blocks().size() == cache_.blocks_for(tokens));
        forget_content(*opened, matched / kTokens);
        sequences_.push_back({std::move(*opened), chain, matched / kTokens, matched / kTokens});
    }

    void grow() {
        if (sequences_.empty()) { return; }
        Open& sequence = any(sequences_);
        const std::vector<BlockId> before(sequence.kv.blocks().begin(), sequence.kv.blocks().end());
        const std::uint32_t tokens = draw(1, 12 * kTokens);
        const std::uint32_t blocks = cache_.blocks_for(tokens);
        const std::uint32_t needed = blocks - std::min(blocks, static_cast<std::uint32_t>(before.size()));
        const std::uint32_t available = cache_.blocks_available();
        const BlockCounts counts = cache_.counts();
        const bool grown = sequence.kv.reserve(tokens).has_value();
        REQUIRE(grown == (needed <= available));
        const auto now = sequence.kv.blocks();
        REQUIRE(std::equal(before.begin(), before.end(), now.begin()));
        REQUIRE(now.size() == before.size() + (grown ? needed : 0));
        if (!grown) { REQUIRE(cache_.counts() == counts); }
        forget_content(sequence.kv, before.size());
    }

    void compute_and_publish() {
        if (sequences_.empty()) { return; }
        Open& sequence = any(sequences_);
        const auto blocks = sequence.kv.blocks();
        sequence.computed = draw(sequence.computed, static_cast<std::uint32_t>(blocks.size()));
        for (std::uint32_t i = sequence.published; i < sequence.computed; ++i) {
            content_[base::raw(blocks[i])] = sequence.chain[i];
        }
        const std::uint32_t published = draw(0, sequence.computed);
        for (std::uint32_t i = sequence.published; i < published; ++i) {
            named_.try_emplace(sequence.chain[i], blocks[i]);  // a name that is taken stays with its first block
        }
        sequence.kv.publish(std::span(sequence.chain).first(published));
        sequence.published = std::max(sequence.published, published);
    }

    void truncate() {
        if (sequences_.empty()) { return; }
        Open& sequence = any(sequences_);
        std::uint32_t tokens = draw(0, static_cast<std::uint32_t>(sequence.kv.blocks().size()) * kTokens);
        if (tokens < sequence.published * kTokens) { tokens = tokens / kTokens * kTokens; }
        sequence.kv.truncate(tokens);
        REQUIRE(sequence.kv.blocks().size() == cache_.blocks_for(tokens));
        sequence.computed = std::min(sequence.computed, tokens / kTokens);
        sequence.published = std::min(sequence.published, tokens / kTokens);
    }

    void close() {
        if (sequences_.empty()) { return; }
        const Open closed = take_any(sequences_);
    }

    void take_hold() {
        if (sequences_.empty()) { return; }
        const Open& sequence = any(sequences_);
        const auto blocks = static_cast<std::uint32_t>(sequence.kv.blocks().size());
        const std::uint32_t first = draw(0, blocks);
        holds_.push_back(cache_.hold(sequence.kv, first, draw(0, blocks - first)));
    }

    void take_match() { matches_.push_back(match(any(chains_))); }

    void end_lease() {
        if (!holds_.empty()) { take_any(holds_).release(); }
        if (!matches_.empty()) { const PrefixMatch ended = take_any(matches_); }
    }

    /// A block that is free, and a name that nobody has, come together.
    void adopt() {
        const BlockId id{draw(0, cache_.options().blocks_total)};
        const auto& chain = any(chains_);
        const std::uint32_t at = draw(0, static_cast<std::uint32_t>(chain.size()) - 1);
        const auto& free_runs = cache_.pool().free_runs();
        const bool is_free = std::any_of(free_runs.begin(), free_runs.end(), [&](const auto& run) {
            return base::raw(id) >= run.first && base::raw(id) - run.first < run.second;
        });
        const auto parent = at == 0 ? std::nullopt : std::optional(chain[at - 1]);
        REQUIRE(cache_.adopt(id, chain[at], parent) == (is_free && !named_.contains(chain[at])));
        if (is_free && named_.emplace(chain[at], id).second) { content_[base::raw(id)] = chain[at]; }
    }

    void forget() {
        if (matches_.empty()) { return; }
        const PrefixMatch& match = matches_[draw(0, static_cast<std::uint32_t>(matches_.size()) - 1)];
        const std::uint32_t first = draw(0, static_cast<std::uint32_t>(match.blocks().size()));
        cache_.forget(match, first);
        for (const BlockId id : match.blocks().subspan(first)) {
            const auto named = named_.find(*content_[base::raw(id)]);
            if (named == named_.end() || named->second != id) { continue; }
            named_.erase(named);
            nameless_.insert(id);
        }
    }

    /// Blocks from `first` on are new to the sequence: whatever they held is gone.
    void forget_content(const SequenceKv& kv, std::size_t first) {
        for (const BlockId id : kv.blocks().subspan(first)) {
            content_[base::raw(id)].reset();
        }
    }

    std::map<BlockId, int> references() const {
        std::map<BlockId, int> references;
        for (const Open& sequence : sequences_) {
            for (const BlockId id : sequence.kv.blocks()) {
                ++references[id];
            }
        }
        for (const PrefixMatch& match : matches_) {
            for (const BlockId id : match.blocks()) {
                ++references[id];
            }
        }
        return references;
    }

    std::set<BlockId> held() const {
        std::set<BlockId> held;
        for (const BlockHold& hold : holds_) {
            held.insert(hold.blocks().begin(), hold.blocks().end());
        }
        return held;
    }

    /// What the scheduler knows; evictions without a hold are learned only from here.
    void learn_events() {
        if (draw(0, 9) == 0) { cache_.begin_snapshot(draw(1, 40)); }
        auto events = cache_.take_events();
        if (!events) { return; }
        while (cache_.snapshot_unfinished()) {
            ++event_number_;
            const auto part = cache_.take_events();
            REQUIRE(part->number == event_number_ + 1);
            REQUIRE((!part->snapshot && part->removed.empty()));
            events->number = part->number;
            events->stored.insert(events->stored.end(), part->stored.begin(), part->stored.end());
        }
        REQUIRE(events->number == ++event_number_);
        if (events->snapshot) {
            const std::set<BlockHash> all(events->stored.begin(), events->stored.end());
            std::erase_if(named_, [&](const auto& named) {
                if (all.contains(named.first)) { return false; }
                check_evictable(named.second);
                return true;
            });
            seen_ = all;
            return;
        }
        for (const BlockHash& hash : events->removed) {
            REQUIRE(seen_.erase(hash) == 1);
            const auto named = named_.find(hash);
            if (named == named_.end()) { continue; }  // forgotten
            check_evictable(named->second);
            named_.erase(named);
        }
        for (const BlockHash& hash : events->stored) {
            REQUIRE(seen_.insert(hash).second);
        }
    }

    /// Whoever was evicted was nobody's before this step: a reference that is there now is newer, so its content is
    /// too.
    void check_evictable(BlockId id) const {
        REQUIRE_FALSE(held().contains(id));
        for (const Open& sequence : sequences_) {
            const auto blocks = sequence.kv.blocks();
            REQUIRE(std::find(blocks.begin(), blocks.begin() + sequence.computed, id) ==
                    blocks.begin() + sequence.computed);
        }
        for (const PrefixMatch& match : matches_) {
            REQUIRE(std::find(match.blocks().begin(), match.blocks().end(), id) == match.blocks().end());
        }
    }

    void check() const {
        const std::uint32_t total = cache_.options().blocks_total;
        const auto referenced = references();
        const auto in_transfer = held();
        std::set<BlockHash> names;
        std::set<BlockId> named_blocks;
        for (const auto& [hash, block] : named_) {
            names.insert(hash);
            REQUIRE(named_blocks.insert(block).second);
            REQUIRE(content_[base::raw(block)] == hash);
        }
        REQUIRE(names == seen_);  // events replayed give exactly the index

        BlockCounts expected;
        std::set<BlockId> taken;
        for (std::uint32_t i = 0; i < total; ++i) {
            const BlockId id{i};
            const bool is_held = in_transfer.contains(id);
            if (referenced.contains(id)) {
                ++(is_held ? expected.pinned : expected.used);
            } else if (is_held) {
                ++expected.stranded;
            } else if (named_blocks.contains(id)) {
                ++expected.cached;
            } else {
                continue;
            }
            taken.insert(id);
        }
        const BlockCounts counts = cache_.counts();
        REQUIRE(counts.free + counts.used + counts.cached + counts.pinned + counts.stranded == total);
        const std::uint32_t reserved = cache_.blocks_available() - counts.free - counts.cached;
        expected.used += reserved;
        expected.free = total - expected.used - expected.cached - expected.pinned - expected.stranded;
        REQUIRE(counts == expected);

        // Private blocks are in one table only; shared ones are published, or were.
        for (const auto& [id, count] : referenced) {
            if (count > 1) { REQUIRE((named_blocks.contains(id) || nameless_.contains(id))); }
        }
        for (const Open& sequence : sequences_) {
            const auto blocks = sequence.kv.blocks();
            for (std::uint32_t i = 0; i < sequence.computed; ++i) {
                REQUIRE(content_[base::raw(blocks[i])] == sequence.chain[i]);  // nobody else has written there
            }
            std::vector<BlockId> of_runs;
            for (const auto& run : sequence.kv.runs()) {
                REQUIRE((of_runs.empty() || base::raw(of_runs.back()) + 1 != base::raw(run.first)));
                for (std::uint32_t i = 0; i < run.count; ++i) {
                    of_runs.push_back(BlockId{base::raw(run.first) + i});
                }
            }
            REQUIRE(std::equal(of_runs.begin(), of_runs.end(), blocks.begin(), blocks.end()));
        }
        std::uint32_t behind = 0;  // end of the free run before
        bool is_first = true;
        for (const auto& [first, count] : cache_.pool().free_runs()) {
            REQUIRE((is_first || first > behind));  // runs that touch would be one
            is_first = false;
            behind = first + count;
            for (std::uint32_t i = first; i < behind; ++i) {
                REQUIRE_FALSE(taken.contains(BlockId{i}));
            }
        }
    }

    std::mt19937 random_;
    KvCache cache_;
    std::vector<std::optional<BlockHash>> content_;  // by block: what was computed there last
    std::vector<std::vector<BlockHash>> chains_;
    std::vector<Open> sequences_;
    std::vector<BlockHold> holds_;
    std::vector<PrefixMatch> matches_;
    std::set<BlockId> nameless_;          // were forgotten once
    std::map<BlockHash, BlockId> named_;  // what match must find
    std::set<BlockHash> seen_;            // events replayed
    std::uint64_t event_number_ = 0;
};

}  // namespace

TEST_CASE("no block is lost, doubled, evicted in use or found under a wrong name", "[kv_cache][property]") {
    const auto seed = GENERATE(range(0u, test_support::seeds_of(100)));
    CAPTURE(seed);
    World world(seed);
    for (int step = 0; step < 300; ++step) {
        CAPTURE(step);
        world.step();
    }
    world.finish();
}

TEST_CASE("whatever happens between the parts of a snapshot, it tells what can be found at its end, and no more",
          "[kv_cache][property]") {
    const auto seed = GENERATE(range(0u, 100u));
    CAPTURE(seed);
    std::mt19937 random{seed};
    const auto draw = [&random](std::uint32_t low, std::uint32_t high) {
        return std::uniform_int_distribution<std::uint32_t>(low, high)(random);
    };
    KvCache cache({.blocks_total = draw(6, 40), .block_tokens = kTokens, .group_blocks_initial = 1});
    std::set<BlockHash> told;
    std::uint64_t number = 0;
    const auto take = [&] {
        const auto events = cache.take_events();
        if (!events) { return; }
        REQUIRE(events->number == ++number);
        if (events->snapshot) { told.clear(); }
        for (const BlockHash& hash : events->removed) {
            told.erase(hash);
        }
        told.insert(events->stored.begin(), events->stored.end());
    };
    for (int step = 0; step < 200; ++step) {
        if (draw(0, 9) == 0) { cache.begin_snapshot(draw(1, 8)); }
        for (auto sequences = draw(0, 4); sequences > 0; --sequences) {  // named, evicted, named as another block
            const auto chain = make_chain(draw(1, 6), draw(1, 6), draw(0, 2));
            if (auto sequence = cache.open({}, static_cast<std::uint32_t>(chain.size()) * kTokens)) {
                sequence->publish(chain);
            }
        }
        take();
    }
    while (cache.snapshot_unfinished()) {
        take();
    }
    const auto replayed = told;
    cache.begin_snapshot(cache.options().blocks_total);
    take();
    REQUIRE_FALSE(cache.snapshot_unfinished());
    REQUIRE(replayed == told);
}
