#pragma once

#include <cstdint>

#include "emulator.h"
#include "engine/kernels/cuda/kv_pool_map.h"

// What hopper.cuh says in assembler, for the emulator. Copies by TMA arrive as late as they may (when a thread waits
// for them), and products read their operands as late as they may (when their group is waited for): what is released,
// or overwritten, too early shows.
#define __grid_constant__

inline void __syncwarp() {
    emulator::meet(600, ~0u, nullptr, 0, nullptr, 0, [](emulator::Meeting&) {});
}

namespace emulator {

/// What make_kv_pool_map() keeps in a KvPoolMap.
struct PoolMap {
    const std::byte* base = nullptr;
    std::size_t block_bytes = 0;
    std::size_t tile_bytes = 0;
    std::int64_t blocks = 0;
    std::int32_t head_dim = 0;
    std::int32_t block_tokens = 0;
};

/// `c` is [kCount] of this lane; a: registers, or null and `a_descriptor`.
void start_product(float* c, int count, const unsigned* a, std::uint64_t a_descriptor, std::uint64_t b_descriptor,
                   bool b_has_k_in_rows, bool add);
void wait_for_products(unsigned pending);

}  // namespace emulator

namespace engine::cuda {

void barrier_init(unsigned barrier, unsigned arrivals);
inline void barrier_init_done() {}
void barrier_arrive(unsigned barrier);
void barrier_expect(unsigned barrier, unsigned bytes);
void barrier_wait(unsigned barrier, unsigned parity);
void warpgroup_barrier(int warpgroup);
inline void publish_to_async() {}
template <int kRegisters>
void give_registers() {}
template <int kRegisters>
void take_registers() {}
void copy_pool_tile(unsigned target, const KvPoolMap& map, int dim, int token, int tile, int block, unsigned barrier);
inline void products_begin() {}
void products_commit();
template <int kPending, int kCount>
void products_wait(float (&)[kCount]) {
    emulator::wait_for_products(kPending);
}
inline void multiply_add_shared(float (&c)[64], std::uint64_t a, std::uint64_t b, bool add) {
    emulator::start_product(c, 64, nullptr, a, b, false, add);
}
template <int kCount>
void multiply_add_rows(float (&c)[kCount], const unsigned (&a)[4], std::uint64_t b) {
    emulator::start_product(c, kCount, a, 0, b, true, true);
}
void keep(const unsigned (&a)[8][4]);

}  // namespace engine::cuda
