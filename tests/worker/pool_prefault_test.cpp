// The pool's memory is touched ahead of its use, and no farther.
#include "worker/pool_prefault.h"

#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <thread>
#include <vector>

#include "base/model_shape.h"
#include "device/device.h"
#include "kv_cache/kv_cache.h"
#include "kv_cache/kv_layout.h"
#include "kv_cache/kv_store.h"

#include "tests/support/catch.h"

namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr std::uint32_t kBlocks = 64;

/// A pool of 64 blocks of 1 MiB, and nothing that computes.
struct Pool {
    static kv_cache::KvLayout layout() {
        base::ModelShape shape;
        shape.layers = 8;
        shape.heads_q = shape.heads_kv = 8;
        shape.head_dim = 128;
        return kv_cache::KvLayout::make(shape, {kv_cache::KvDtype::f32, kv_cache::TileOrder::lanes}, 16).value();
    }
    /// Linux 5.14; without it nothing is. The last page is, then, or the last huge one.
    bool can_touch() { return madvise(store.block(kv_cache::BlockId{kBlocks - 1}), 4096, 23) == 0; }
    /// Of all blocks but the last two, where can_touch() was.
    std::size_t resident_bytes() {
        const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
        const std::span<std::byte> memory = store.run({kv_cache::BlockId{0}, kBlocks - 2});
        std::vector<unsigned char> pages((memory.size() + page - 1) / page);
        REQUIRE(mincore(memory.data(), memory.size(), pages.data()) == 0);
        std::size_t resident = 0;
        for (const unsigned char each : pages) {
            resident += (each & 1u) * page;
        }
        return resident;
    }

    kv_cache::KvStore store = kv_cache::KvStore::make(device::host_device(), layout(), kBlocks).value();
    kv_cache::KvCache cache{{.blocks_total = kBlocks, .group_blocks_initial = 1}};
};

/// With patience: the thread that touches gives way to everybody.
void wait_touched(const worker::PoolPrefault& pool, std::size_t bytes) {
    const auto until = std::chrono::steady_clock::now() + std::chrono::minutes(2);
    while (pool.prefault().touched() < bytes) {
        REQUIRE(std::chrono::steady_clock::now() < until);
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
}

}  // namespace

TEST_CASE("so much of a pool is touched as lies ahead of what is used", "[worker]") {
    Pool pool;
    REQUIRE(pool.store.layout().block_bytes() == kMiB);
    if (!pool.can_touch()) { return; }
    REQUIRE(pool.resident_bytes() == 0);
    worker::PoolPrefault prefault(pool.store, pool.cache, 8 * kMiB);
    wait_touched(prefault, 8 * kMiB);
    prefault.tick();
    std::vector<kv_cache::SequenceKv> sequences;
    for (std::uint32_t blocks = 10; blocks <= 40; blocks += 10) {
        sequences.push_back(pool.cache.open({}, 160).value());
        REQUIRE(base::raw(sequences.back().blocks().back()) == blocks - 1);
        prefault.tick();
        wait_touched(prefault, (blocks + 8) * kMiB);
        // No more is on its way: it knows of nothing more.
        REQUIRE(prefault.prefault().touched() == (blocks + 8) * kMiB);
        REQUIRE(pool.resident_bytes() == (blocks + 8) * kMiB);
    }
    // What was used once has its pages.
    sequences.clear();
    sequences.push_back(pool.cache.open({}, 160).value());
    prefault.tick();
    REQUIRE(prefault.prefault().touched() == 48 * kMiB);
    // Up to the end.
    sequences.push_back(pool.cache.open({}, 54 * 16).value());
    prefault.tick();
    wait_touched(prefault, kBlocks * kMiB);
    REQUIRE(pool.resident_bytes() == (kBlocks - 2) * kMiB);
}

TEST_CASE("what is in a pool stays while it is touched, and a pool that is smaller is touched in whole", "[worker]") {
    Pool pool;
    if (!pool.can_touch()) { return; }
    const auto memory = pool.store.run({kv_cache::BlockId{0}, kBlocks});
    {
        worker::PoolPrefault prefault(pool.store, pool.cache, 1000 * kMiB);
        for (std::size_t at = 0; at < memory.size(); at += 4096) {
            memory[at] = static_cast<std::byte>(at / 4096);
        }
        wait_touched(prefault, memory.size());
        prefault.tick();
    }
    bool is_same = true;
    for (std::size_t at = 0; at < memory.size(); at += 4096) {
        is_same = is_same && memory[at] == static_cast<std::byte>(at / 4096) && memory[at + 1] == std::byte{0};
    }
    REQUIRE(is_same);
}

TEST_CASE("touching a pool ends with its worker, wherever it is", "[worker]") {
    Pool pool;
    const worker::PoolPrefault prefault(pool.store, pool.cache, GENERATE(1 * kMiB, 8 * kMiB, 64 * kMiB));
    REQUIRE(prefault.prefault().touched() <= kBlocks * kMiB);
}
