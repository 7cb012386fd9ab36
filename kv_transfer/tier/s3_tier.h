#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/block_hash.h"
#include "base/clock.h"
#include "base/metrics.h"
#include "device/buffer.h"
#include "kv_cache/kv_store.h"
#include "kv_transfer/tier/block_coder.h"
#include "kv_transfer/tier/s3_client.h"
#include "kv_transfer/tier/s3_object.h"
#include "kv_transfer/tier/tier.h"

namespace kv_transfer {

/// A level in a bucket of an S3-compatible store (decision 0067): an immutable, sealed object for each block, named by
/// what the block is named by, so all workers of a model under one key have it in common. It outlives the process.
/// Whatever is lost, damaged, of another version, late or refused is a miss. Coded blocks (Options::is_coded) have keys
/// of their own: who does not code does not look for them.
///
/// What is saved is copied into a buffer of host memory and put from there by a thread of its own, so no block of the
/// pool waits for a store; when the buffer is full nothing is saved. What is still in the buffer is loaded from there.
/// After a request that failed for another reason than that its object is lost, the store is left alone for `pause`: by
/// loads after a load, by puts after a put (a full store can still be read).
class S3Tier final : public TierBytes {
public:
    struct Options {
        S3Client::Options store;         // object_bytes and on_retry are set here
        std::string prefix;              // of all keys; S3Client::is_key(), at most kPrefixBytesMax
        std::uint64_t bytes = 0;         // of the objects of this worker, at most
        std::uint64_t buffer_bytes = 0;  // of what was not put yet
        base::Duration pause = std::chrono::seconds(5);
        base::Duration load_timeout = std::chrono::seconds(10);  // no request of a load begins later
        base::Duration list_timeout = std::chrono::seconds(10);  // nor of the list at start
        std::uint64_t numerics_id = 0;
        std::string layout;           // KvFormat::name()
        base::HashKey hash_key = {};  // under which blocks are named and sealed
        bool is_coded = false;        // objects hold blocks coded without loss
        std::string worker;           // label of the gauges
    };
    static constexpr std::size_t kPrefixBytesMax = 512;
    /// A block of the level.
    struct Block {
        base::BlockHash hash;
        std::optional<base::BlockHash> parent;  // the name before it; empty: it begins a chain
    };
    struct Found {
        std::uint32_t slot = 0;
        Block block;
    };

    /// Asks the store what there is; a store that does not answer has nothing (why_not_all()). `clock` and `metrics`
    /// must outlive the tier. Errors: invalid_argument (endpoint, bucket, region, prefix, or no room for a block, with
    /// the setting); of the credentials; resource_exhausted.
    static base::Result<std::unique_ptr<S3Tier>> open(const kv_cache::KvStore& pool, Options options,
                                                      const base::Clock& clock, base::Metrics& metrics);
    /// What is in the buffer is still put, for ten seconds at most.
    ~S3Tier() override;

    /// What was there, what was written first before the rest. Before the first save.
    const std::vector<Found>& found() const { return found_; }
    const std::optional<base::Error>& why_not_all() const { return why_not_all_; }

    std::uint32_t slots_total() const override { return static_cast<std::uint32_t>(blocks_.size()); }
    base::Result<void> save(kv_cache::KvAccess& pool, std::span<const TierPiece> pieces,
                            std::span<const base::BlockHash> hashes, std::optional<base::BlockHash> parent) override;
    base::Result<std::uint32_t> load(kv_cache::KvAccess& pool, std::span<const TierPiece> pieces,
                                     std::span<const base::BlockHash> hashes) override;
    /// Removes all objects of this model and key, also those of others. Error: of the store; then some are left.
    base::Result<void> clear() override;

private:
    /// For the thread of the puts.
    struct Work {
        std::optional<std::uint32_t> place;  // of the buffer: put it; else remove the object
        Block block;
    };
    struct Instruments;

    S3Tier(Options options, S3Sealer sealer, std::unique_ptr<BlockCoder> coder, std::uint32_t slots,
           device::Buffer buffer, std::uint32_t places, const base::Clock& clock,
           std::unique_ptr<Instruments> instruments);
    std::string key_of(const Block& block) const;
    std::optional<Block> block_of(std::string_view key) const;
    std::span<std::byte> place(std::uint32_t index);
    /// The object in it.
    std::span<std::byte> object_in(std::uint32_t index) { return place(index).first(place_used_[index]); }
    base::Result<std::size_t> seal_into(kv_cache::KvAccess& pool, kv_cache::BlockId block, const base::BlockHash& hash,
                                        std::span<std::byte> place);
    void list();
    base::Result<void> may_ask(const std::atomic<std::int64_t>& paused_until) const;
    void note(std::string_view operation, const base::Result<void>& result, std::atomic<std::int64_t>& paused_until);
    void name_slots(std::span<const TierPiece> pieces, std::span<const Block> blocks, std::vector<Work>& work);
    base::Result<void> load_buffered(kv_cache::KvAccess& pool, std::span<const kv_cache::BlockId> blocks,
                                     std::span<const base::BlockHash> hashes, std::vector<bool>& is_there);
    base::Result<void> open_into(kv_cache::KvAccess& pool, std::span<const std::byte> object,
                                 const base::BlockHash& hash, kv_cache::BlockId block);
    void run(const std::stop_token& stop);
    void do_work(std::vector<Work> work);
    void end_work(const Work& work, const base::Result<void>& result);

    const Options options_;
    const S3Sealer sealer_;
    const std::unique_ptr<BlockCoder> coder_;  // null: blocks lie there as they are; of the copier's thread
    const std::string folder_;                 // all keys begin so
    const base::Clock& clock_;
    const std::unique_ptr<Instruments> instruments_;
    std::vector<std::optional<Block>> blocks_;                  // by slot; of the copier's thread
    std::unordered_map<base::BlockHash, std::uint32_t> slots_;  // where a block lies; of the copier's thread
    std::vector<Found> found_;
    std::optional<base::Error> why_not_all_;
    device::Buffer buffer_;                // places of sealed objects, for puts
    std::vector<std::size_t> place_used_;  // bytes of the object in each place; of whoever has the place
    device::Buffer
        opened_;            // a block on its way to a pool that is not in host memory, or coded; of the copier's thread
    device::Buffer coded_;  // a block before it is known how long it is; of the copier's thread
    std::unique_ptr<S3Client> loads_;  // of the copier's thread
    std::unique_ptr<S3Client> puts_;   // of thread_
    // Nanoseconds of the clock.
    std::atomic<std::int64_t> loads_paused_until_{0};
    std::atomic<std::int64_t> puts_paused_until_{0};
    std::atomic<bool> ends_{false};

    std::mutex mutex_;
    std::condition_variable_any changed_;
    std::deque<Work> queue_;                                       // guarded by mutex_
    std::vector<std::uint32_t> free_;                              // guarded by mutex_: places
    std::unordered_map<base::BlockHash, std::uint32_t> buffered_;  // guarded by mutex_: places of what is not put yet
    bool works_ = false;                                           // guarded by mutex_
    std::jthread thread_;                                          // last: it uses all of the above
};

}  // namespace kv_transfer
