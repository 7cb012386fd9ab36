// Hopper's own instructions (sm_90a): products of four warps from shared memory (wgmma), copies of tiles by the tensor
// memory accelerator (TMA), barriers that count the bytes of such copies (mbarrier). PTX ISA 8.0, chapters 9.7.15
// (wgmma), 9.7.9.27 (cp.async.bulk.tensor), 9.7.13.15 (mbarrier).
#pragma once

#include "engine/kernels/cuda/device.cuh"
#include "engine/kernels/cuda/kv_pool_map.h"

// The bodies exist for sm_90a alone: PTX of compute_90, which later devices compile, knows no wgmma.
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define SLUICE_HAS_WGMMA 1
#else
#define SLUICE_HAS_WGMMA 0
#endif

namespace engine::cuda {

constexpr int kWarpgroup = 4 * kWarp;

// ---- barriers -------------------------------------------------------------------------------------------------------
// `barrier`: address in shared memory of 8 bytes, aligned to 8. A phase ends when `arrivals` threads have arrived and
// all bytes that were announced have been copied. The phases of a barrier have the parities 0, 1, 0, ...

__device__ __forceinline__ void barrier_init(unsigned barrier, unsigned arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
/// After barrier_init(), before the barrier of the block: makes the barriers known to the copies.
__device__ __forceinline__ void barrier_init_done() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void barrier_arrive(unsigned barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
/// Arrives, and announces `bytes` of copies in this phase.
__device__ __forceinline__ void barrier_expect(unsigned barrier, unsigned bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
/// Waits for the end of the phase of this parity; at once for parity 1 on a new barrier.
__device__ __forceinline__ void barrier_wait(unsigned barrier, unsigned parity) {
    unsigned done = 0;
    while (done == 0) {
        asm volatile(
            "{\n.reg .pred p;\n"
            "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
            "selp.u32 %0, 1, 0, p;\n}"
            : "=r"(done)
            : "r"(barrier), "r"(parity)
            : "memory");
    }
}
/// A barrier of the four warps of the block's warpgroup 0 or 1. (Barrier 0 is __syncthreads().)
__device__ __forceinline__ void warpgroup_barrier(int warpgroup) {
    if (warpgroup == 0) {
        asm volatile("bar.sync 1, 128;" ::: "memory");
    } else {
        asm volatile("bar.sync 2, 128;" ::: "memory");
    }
}
/// The warpgroup gives registers back, or takes what others have given; all its warps say the same. `kRegisters` per
/// thread from here on, a multiple of 8.
template <int kRegisters>
__device__ __forceinline__ void give_registers() {
#if SLUICE_HAS_WGMMA
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
#endif
}
template <int kRegisters>
__device__ __forceinline__ void take_registers() {
#if SLUICE_HAS_WGMMA
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
#endif
}
/// What this thread wrote to shared memory by ordinary stores may now be read by wgmma (and overwritten by a TMA copy),
/// once a barrier has told the threads that start it.
__device__ __forceinline__ void publish_to_async() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// ---- TMA ------------------------------------------------------------------------------------------------------------

/// Starts the copy of 16 tokens x 64 dims of a tile of the pool (2048 bytes) to `target` in shared memory (aligned to
/// 1024); the bytes count on `barrier`. `tile`: of the block, (layer * 2 + part) * kv_heads + kv_head. Rows of 128
/// bytes lie one behind the other, their pieces of 16 bytes exchanged (swizzled_piece()).
__device__ __forceinline__ void copy_pool_tile(unsigned target, const KvPoolMap& map, int dim, int token, int tile,
                                               int block, unsigned barrier) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, "
        "%5}], "
        "[%6];" ::"r"(target),
        "l"(&map), "r"(dim), "r"(token), "r"(tile), "r"(block), "r"(barrier)
        : "memory");
}
/// Where piece `piece` (of 8) of row `row` lies in its row, in the layout of copy_pool_tile() and of wgmma with swizzle
/// of 128 bytes.
__host__ __device__ constexpr int swizzled_piece(int row, int piece) {
    return piece ^ (row % 8);
}

// ---- wgmma ----------------------------------------------------------------------------------------------------------

/// An operand in shared memory, rows of 128 bytes (64 elements), swizzled, 8 rows in 1024 bytes (aligned to that).
/// Where K is contiguous (`address` may begin 32, 64, 96 bytes into the row: later K): groups of 8 rows are 1024 bytes
/// apart, `next_columns` is not read. Where the other dimension is contiguous (then rows are K): groups of 8 of K are
/// 1024 bytes apart, and the next 64 of the other dimension `next_columns` bytes.
__device__ __forceinline__ std::uint64_t operand_at(unsigned address, unsigned next_columns = 16) {
    const std::uint64_t start = (address & 0x3ffffu) >> 4;
    const std::uint64_t leading = next_columns >> 4;
    const std::uint64_t stride = 1024 >> 4;
    const std::uint64_t swizzle_128 = 1;
    return start | leading << 16 | stride << 32 | swizzle_128 << 62;
}

/// Before the first product and after every change of accumulators or of a in registers.
__device__ __forceinline__ void products_begin() {
#if SLUICE_HAS_WGMMA
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}
/// Closes a group of products.
__device__ __forceinline__ void products_commit() {
#if SLUICE_HAS_WGMMA
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

#define SLUICE_FLOATS_8(c, i)                                                                               \
    "+f"((c)[i]), "+f"((c)[i + 1]), "+f"((c)[i + 2]), "+f"((c)[i + 3]), "+f"((c)[i + 4]), "+f"((c)[i + 5]), \
        "+f"((c)[i + 6]), "+f"((c)[i + 7])
#define SLUICE_FLOATS_32(c, i) \
    SLUICE_FLOATS_8(c, i), SLUICE_FLOATS_8(c, i + 8), SLUICE_FLOATS_8(c, i + 16), SLUICE_FLOATS_8(c, i + 24)
#define SLUICE_NAMES_0_31                                                                                            \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, " \
    "%24, %25, %26, %27, %28, %29, %30, %31"
#define SLUICE_NAMES_32_63                                                                                             \
    ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, " \
    "%54, %55, %56, %57, %58, %59, %60, %61, %62, %63"

/// Waits until at most `kPending` groups of this warp are unfinished; the accumulators of the finished ones may be read
/// then: `c` are those that are read next.
template <int kPending, int kCount>
__device__ __forceinline__ void products_wait(float (&c)[kCount]) {
    static_assert(kCount == 32 || kCount == 64);
#if SLUICE_HAS_WGMMA
    if constexpr (kCount == 64) {
        asm volatile("wgmma.wait_group.sync.aligned %64;"
                     : SLUICE_FLOATS_32(c, 0), SLUICE_FLOATS_32(c, 32)
                     : "n"(kPending)
                     : "memory");
    } else {
        asm volatile("wgmma.wait_group.sync.aligned %32;" : SLUICE_FLOATS_32(c, 0) : "n"(kPending) : "memory");
    }
#endif
}

/// c[64 x 128] = a[64 x 16] * b[128 x 16]^T (+ c where `add`), bf16 with float sums, by the four warps of a warpgroup;
/// both from shared memory with K contiguous. Warp w of the four has rows 16 w to 16 w + 15; lane (g, t) holds
/// c[4 n + 0, 1]: [g][8 n + 2 t, + 1], c[4 n + 2, 3]: [g + 8][the same].
__device__ __forceinline__ void multiply_add_shared(float (&c)[64], std::uint64_t a, std::uint64_t b, bool add) {
#if SLUICE_HAS_WGMMA
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" SLUICE_NAMES_0_31 SLUICE_NAMES_32_63
        "}, %64, %65, p, 1, 1, 0, 0;\n}"
        : SLUICE_FLOATS_32(c, 0), SLUICE_FLOATS_32(c, 32)
        : "l"(a), "l"(b), "r"(add ? 1 : 0)
        : "memory");
#endif
}

/// c[64 x 2 kCount] += a[64 x 16] * b[16 x 2 kCount]; a in registers (as in multiply_add()), b in shared memory with K
/// in rows.
template <int kCount>
__device__ __forceinline__ void multiply_add_rows(float (&c)[kCount], const unsigned (&a)[4], std::uint64_t b) {
    static_assert(kCount == 32 || kCount == 64);
#if SLUICE_HAS_WGMMA
    if constexpr (kCount == 64) {
        asm volatile(
            "{\n.reg .pred p;\nsetp.eq.b32 p, 0, 0;\n"
            "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" SLUICE_NAMES_0_31 SLUICE_NAMES_32_63
            "}, {%64, %65, %66, %67}, %68, p, 1, 1, 1;\n}"
            : SLUICE_FLOATS_32(c, 0), SLUICE_FLOATS_32(c, 32)
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b)
            : "memory");
    } else {
        asm volatile(
            "{\n.reg .pred p;\nsetp.eq.b32 p, 0, 0;\n"
            "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" SLUICE_NAMES_0_31
            "}, {%32, %33, %34, %35}, %36, p, 1, 1, 1;\n}"
            : SLUICE_FLOATS_32(c, 0)
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b)
            : "memory");
    }
#endif
}

/// a of unfinished products stays in its registers at least until here (after products_wait()).
__device__ __forceinline__ void keep(const unsigned (&a)[8][4]) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        asm volatile("" ::"r"(a[i][0]), "r"(a[i][1]), "r"(a[i][2]), "r"(a[i][3]) : "memory");
    }
}

#undef SLUICE_FLOATS_8
#undef SLUICE_FLOATS_32
#undef SLUICE_NAMES_0_31
#undef SLUICE_NAMES_32_63

}  // namespace engine::cuda
