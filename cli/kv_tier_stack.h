#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/block_hash.h"
#include "base/clock.h"
#include "base/config.h"
#include "base/metrics.h"
#include "base/result.h"
#include "cli/s3_level.h"
#include "engine/engine.h"
#include "kv_cache/kv_cache.h"
#include "kv_transfer/tier/block_coder.h"
#include "kv_transfer/tier/tier_copier.h"
#include "worker/kv_tiers_part.h"

namespace cli {

/// The levels below a worker's KV pool (section `engine`, docs/kv-memory.md). All off by default.
struct KvTierSettings {
    std::uint64_t host_bytes = 0;  // engine.kv_host_bytes: of each worker; 0: none
    bool host_coded = false;       // engine.kv_host_codec: exact
    std::string disk_path;         // engine.kv_disk.path; empty: none
    std::uint64_t disk_bytes = 0;  // engine.kv_disk.bytes: of each worker
    bool disk_page_cache = false;  // engine.kv_disk.io: page_cache, whatever is allowed
    std::uint32_t disk_depth = 0;  // engine.kv_disk.queue_depth
    kv_transfer::TierCoding disk_coding = kv_transfer::TierCoding::automatic;  // engine.kv_disk.codec

    S3LevelSettings s3;  // engine.kv_s3

    bool any() const { return host_bytes > 0 || !disk_path.empty() || s3.is_on(); }
    /// The levels by name, the nearest first.
    std::vector<std::string> levels() const {
        std::vector<std::string> names;
        if (host_bytes > 0) { names.emplace_back("host"); }
        if (!disk_path.empty()) { names.emplace_back("disk"); }
        if (s3.is_on()) { names.emplace_back("s3"); }
        return names;
    }
};

/// Error comes from config.finish(), later.
KvTierSettings read_kv_tiers(base::Config& config);

/// The key that names blocks in the files of a process that was given none: kept beside them, for its owner only, since
/// blocks are found by it. Error: of the folder or the file; invalid_argument when it holds no key, or when there is
/// nothing but a store, where it cannot be kept.
base::Result<base::HashKey> kept_key(const KvTierSettings& settings);

/// The tiers of one worker: their slots, their bytes and who moves them. Outlives the step loop's last event; its
/// threads end with it.
class KvTierStack {
public:
    struct Setup {
        KvTierSettings settings;
        base::HashKey hash_key;
        std::string worker;  // label of the gauges
        worker::WorkerOptions limits = {};
    };
    /// Events of all tiers that may wait for the step thread at once.
    static std::size_t events_max(const KvTierSettings& settings);

    /// `engine`, `clock` and `metrics` must outlive it, `control` until the step thread has ended. Errors: of a budget,
    /// a folder or a file, with their setting.
    static base::Result<std::unique_ptr<KvTierStack>> start(const Setup& setup, engine::Engine& engine,
                                                            worker::StepControl& control, const base::Clock& clock,
                                                            base::Metrics& metrics);

    worker::KvTiersPart& helper() { return *tiers_; }
    /// Of each tier, for StepLoop::add_tier.
    std::vector<kv_cache::KvCache*> slots() const;
    /// "host 512 MiB, disk 4096 MiB (120 blocks found, direct I/O)".
    const std::string& describe() const { return description_; }

private:
    KvTierStack() = default;
    base::Result<void> add_host(const Setup& setup, engine::Engine& engine, const base::Clock& clock);
    base::Result<void> add_disk(const Setup& setup, engine::Engine& engine, const base::Clock& clock,
                                base::Metrics& metrics);
    base::Result<void> add_s3(const Setup& setup, engine::Engine& engine, const base::Clock& clock,
                              base::Metrics& metrics);
    base::Result<void> add(std::string name, std::unique_ptr<kv_transfer::TierBytes> bytes, std::uint32_t save_blocks,
                           engine::Engine& engine, const base::Clock& clock);

    std::vector<std::unique_ptr<kv_cache::KvCache>> slots_;
    std::vector<worker::KvTiers::Tier> parts_;
    std::unique_ptr<worker::KvTiersPart> tiers_;
    std::string description_;
    std::vector<std::unique_ptr<kv_transfer::TierCopier>> copiers_;  // last: their threads use the rest
};

}  // namespace cli
