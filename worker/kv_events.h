#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/block_hash.h"
#include "base/clock.h"
#include "base/ids.h"
#include "kv_cache/kv_cache.h"
#include "worker/role_part.h"

namespace worker {

/// One change of the KV that this worker holds, as routers of other systems are told it (docs/kv-events.md).
struct KvEvent {
    enum class Kind : std::uint8_t {
        stored,   // blocks that follow each other in a chain
        removed,  // blocks, in no order
        cleared,  // all that was told before is void
    };
    Kind kind = Kind::cleared;
    std::size_t level = 0;                     // 0: the pool; else the level below it
    std::vector<std::uint64_t> hashes = {};    // block_name() of each block
    std::optional<std::uint64_t> parent = {};  // stored: of the block before the first one; empty: none is
    std::vector<base::TokenId> tokens = {};    // stored: block_tokens for each block
    std::string scope = {};                    // stored, without a parent: whose chain it is; empty: anybody's
};

/// What one step changed.
struct KvEventBatch {
    std::int64_t unix_us = 0;
    std::vector<KvEvent> events;
};

/// The name of a block in events: 64 of its 128 bits, since others have no more.
constexpr std::uint64_t block_name(const base::BlockHash& hash) {
    return hash.low;
}

/// Where batches go. Called on the step thread: nothing here may block.
class KvEventSink {
public:
    virtual ~KvEventSink() = default;
    /// False: there is no room, the batch is lost.
    [[nodiscard]] virtual bool offer(KvEventBatch&& batch) = 0;
    /// There is room for many more.
    virtual bool has_room() const = 0;
    /// Whether somebody wants to be told everything anew, since the last call.
    virtual bool take_wish() = 0;
};

/// Keeps book of the named blocks of a worker's pool and of the levels below it, with their tokens, and tells each
/// change of it once: what a reader believes who replays the batches is what there is, for each level. Tokens become
/// known when a sequence publishes a block; a block of a disk that nobody has asked for since the process began is not
/// told until then. A batch that finds no room costs a reader nothing but time: then all is told anew, behind one
/// `cleared`, as soon as there is room.
///
/// A helper of the step loop: step thread only. Takes some 150 bytes for each named block, and in a step nothing but
/// for blocks that change.
class KvEvents final : public RolePart {
public:
    struct Options {
        std::uint32_t block_tokens = 16;
        std::size_t batch_blocks_max = 512;  // of one event, and of one batch; > 0
    };
    /// Both must outlive it.
    KvEvents(Options options, const base::Clock& clock, KvEventSink& sink);
    ~KvEvents() override;

    /// Before the loop runs: the pool, then the levels below it, the nearest first; at most kLevelsMax. Borrowed.
    void add(kv_cache::KvCache& cache);
    static constexpr std::size_t kLevelsMax = 8;

    void published(Sequence& sequence) override;
    void dropped() override;
    void tick() override;
    std::optional<base::TimePoint> next_tick() const override;
    void ending() override { flush(); }

private:
    struct Level final : kv_cache::NameListener {
        Level(KvEvents& owner_, kv_cache::KvCache& cache_, std::size_t number_)
            : owner(owner_), cache(cache_), number(number_) {}
        void named(const base::BlockHash& hash, const std::optional<base::BlockHash>& parent) override {
            owner.named(number, hash, parent);
        }
        void unnamed(const base::BlockHash& hash) override { owner.unnamed(number, hash); }
        KvEvents& owner;
        kv_cache::KvCache& cache;
        const std::size_t number;
    };
    struct Entry {
        std::uint8_t levels = 0;  // that have it: bit by level
        std::uint8_t told = 0;    // of them, in round `round`
        std::uint32_t round = 0;
        std::optional<base::BlockHash> parent;
        std::vector<base::TokenId> tokens;  // empty: not known yet
        std::string scope;                  // of a first block
    };

    void named(std::size_t level, const base::BlockHash& hash, const std::optional<base::BlockHash>& parent);
    void unnamed(std::size_t level, const base::BlockHash& hash);
    bool is_told(const Entry& entry, std::size_t level) const;
    void tell_stored(std::size_t level, const base::BlockHash& hash, Entry& entry);
    void tell_removed(std::size_t level, const base::BlockHash& hash);
    /// What readers know is void: all has to be told anew.
    void lose();
    void begin_retelling();
    /// A part of it.
    void retell();
    /// Known blocks, every one behind its parent and, where that can be, right behind it.
    std::vector<base::BlockHash> in_chains() const;
    void flush();

    const Options options_;
    const base::Clock& clock_;
    KvEventSink& sink_;
    std::vector<std::unique_ptr<Level>> levels_;
    std::unordered_map<base::BlockHash, Entry> entries_;
    std::vector<base::BlockHash> fresh_;  // named in the pool, in order; the tokens come with published()
    std::vector<KvEvent> pending_;        // in order
    std::uint32_t round_ = 1;             // of telling everything
    bool is_lost_ = false;                // nothing is told until everything can be
    std::vector<base::BlockHash> retold_;
    std::size_t retold_next_ = 0;
};

}  // namespace worker
