#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "device/device.h"
#include "kv_cache/kv_layout.h"
#include "kv_cache/kv_store.h"

namespace kv_cache {

/// Moves KV between a store and host memory, wherever the store is: pack() and unpack() of kv_pack.h for host memory,
/// copies of the device for others. Every call has done its work when it returns. One thread at a time; several objects
/// may work on one store side by side.
///
/// Host memory that the device allocated (Device::allocate_host) is copied to and from directly; other memory too, but
/// slower.
class KvAccess {
public:
    /// The store must outlive the object. Another device's memory must hold its tiles in token_major order, which is
    /// the order on the wire (CHECKed). Error: resource_exhausted.
    static Result<KvAccess> make(KvStore& store);

    /// As kv_cache::pack(). Error: internal, when the device has failed.
    Result<void> pack(std::span<const BlockId> blocks, const KvRange& range, std::span<std::byte> out);
    /// As kv_cache::unpack(). Error: internal.
    Result<void> unpack(std::span<const BlockId> blocks, const KvRange& range, std::span<const std::byte> in);

    /// Whole runs of blocks as they lie in the store, run after run: one copy per run, for swapping and moving. `out`
    /// and `in` have the size of all runs together. Error: internal.
    Result<void> save(std::span<const BlockRun> runs, std::span<std::byte> out);
    Result<void> restore(std::span<const BlockRun> runs, std::span<const std::byte> in);

    /// The bytes of a run themselves, where the store is in host memory; empty elsewhere.
    std::span<std::byte> in_place(BlockRun run) {
        return stream_ == nullptr ? store_->run(run) : std::span<std::byte>{};
    }

private:
    KvAccess(KvStore& store, std::unique_ptr<device::Stream> stream) : store_(&store), stream_(std::move(stream)) {}

    /// Calls copy(in the store, pitch there, on the wire, pitch there, bytes of a row, rows) for each block of the
    /// range.
    template <class Copy>
    Result<void> for_each_block(std::span<const BlockId> blocks, const KvRange& range, const Copy& copy);

    KvStore* store_;
    std::unique_ptr<device::Stream> stream_;  // null for host memory
};

}  // namespace kv_cache
