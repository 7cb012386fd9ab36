// Pieces of the sampler on the device: what engine/exact_math.h, engine/philox.h and engine/sampler.cpp compute, with
// every rounding spelled out (the compiler may not fuse a multiplication and an addition here).
#pragma once

#include "engine/kernels/cuda/device.cuh"
#include "engine/kernels/cuda/sampling.h"

namespace engine::cuda {

/// Threads of one row's block.
constexpr int kSampleThreads = 512;
/// Tokens whose weights are added first (kSumChunk of engine/sampler.cpp).
constexpr int kSumChunk = 256;

/// engine::exact::exp.
__device__ __forceinline__ double exact_exp(double x) {
    constexpr double kLog2E = 0x1.71547652b82fep+0;
    constexpr double kLn2High = 0x1.62e42fee00000p-1;
    constexpr double kLn2Low = 0x1.a39ef35793c76p-33;
    constexpr double kRound = 0x1.8p+52;
    const double clamped = x < -708.0 ? -708.0 : x;
    const double shifted = __dadd_rn(__dmul_rn(clamped, kLog2E), kRound);
    const double n = __dsub_rn(shifted, kRound);
    const double r = __dsub_rn(__dsub_rn(clamped, __dmul_rn(n, kLn2High)), __dmul_rn(n, kLn2Low));
    constexpr double kCoefficients[] = {1.0 / 479001600.0,
                                        1.0 / 39916800.0,
                                        1.0 / 3628800.0,
                                        1.0 / 362880.0,
                                        1.0 / 40320.0,
                                        1.0 / 5040.0,
                                        1.0 / 720.0,
                                        1.0 / 120.0,
                                        1.0 / 24.0,
                                        1.0 / 6.0,
                                        0.5,
                                        1.0,
                                        1.0};
    double p = 1.0 / 6227020800.0;
#pragma unroll
    for (int i = 0; i < 13; ++i) {
        p = __dadd_rn(__dmul_rn(p, r), kCoefficients[i]);
    }
    const double power = __longlong_as_double((__double_as_longlong(shifted) + 1023) << 52);
    return x < -708.0 ? 0.0 : __dmul_rn(p, power);
}

/// engine::exact::log.
__device__ __forceinline__ double exact_log(double x) {
    constexpr double kLn2High = 0x1.62e42fee00000p-1;
    constexpr double kLn2Low = 0x1.a39ef35793c76p-33;
    int exponent = 0;
    double m = frexp(x, &exponent);
    if (m < 0.70710678118654752) {
        m = __dadd_rn(m, m);
        --exponent;
    }
    const double s = __ddiv_rn(__dsub_rn(m, 1.0), __dadd_rn(m, 1.0));
    const double s2 = __dmul_rn(s, s);
    double p = 0.0;
#pragma unroll
    for (int k = 23; k >= 3; k -= 2) {
        p = __dmul_rn(__dadd_rn(p, 1.0 / k), s2);
    }
    const double e = exponent;
    const double twice = __dmul_rn(2.0, s);
    const double low = __dadd_rn(__dmul_rn(twice, p), __dmul_rn(e, kLn2Low));
    return __dadd_rn(__dmul_rn(e, kLn2High), __dadd_rn(twice, low));
}

/// The uniform in [0, 1) of (seed, choice, position): engine/philox.h.
__device__ __forceinline__ double uniform_at(std::uint64_t seed, std::uint32_t choice, std::uint64_t position) {
    std::uint32_t counter[4] = {static_cast<std::uint32_t>(position), choice,
                                static_cast<std::uint32_t>(position >> 32), 0};
    std::uint32_t key[2] = {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)};
    for (int round = 0; round < 10; ++round) {
        const std::uint64_t a = std::uint64_t{0xD2511F53} * counter[0];
        const std::uint64_t b = std::uint64_t{0xCD9E8D57} * counter[2];
        const std::uint32_t next[4] = {
            static_cast<std::uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(b),
            static_cast<std::uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(a)};
        for (int i = 0; i < 4; ++i) {
            counter[i] = next[i];
        }
        key[0] += 0x9E3779B9;
        key[1] += 0xBB67AE85;
    }
    const std::uint64_t bits = (std::uint64_t{counter[0]} << 32) | counter[1];
    return __dmul_rn(static_cast<double>(bits >> 11), 0x1.0p-53);
}

/// Ascending keys rank tokens: higher logits first (0 and -0 are one), then lower tokens.
using RankKey = unsigned long long;
__device__ __forceinline__ unsigned rank_of(float logit) {
    const unsigned bits = logit == 0.0f ? 0u : __float_as_uint(logit);
    const unsigned ascending = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
    return ~ascending;
}
__device__ __forceinline__ RankKey rank_key(float logit, int token) {
    return static_cast<RankKey>(rank_of(logit)) << 32 | static_cast<unsigned>(token);
}
__device__ __forceinline__ int token_of(RankKey key) {
    return static_cast<int>(static_cast<unsigned>(key));
}
__device__ __forceinline__ float logit_of(RankKey key) {
    const unsigned ascending = ~static_cast<unsigned>(key >> 32);
    return __uint_as_float((ascending & 0x80000000u) != 0 ? ascending & 0x7fffffffu : ~ascending);
}

constexpr RankKey kNoKey = ~RankKey{0};
constexpr int kNoToken = 0x7fffffff;

/// Smallest key and smallest token over a block, in every thread. `keys`, `tokens`: [kThreads / 32] in shared memory,
/// free before and after (it ends with a barrier).
template <int kThreads>
__device__ __forceinline__ void block_least(RankKey& key, int& token, RankKey* keys, int* tokens) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
        const RankKey other = __shfl_xor_sync(0xffffffffu, key, distance);
        key = other < key ? other : key;
        token = min(token, __shfl_xor_sync(0xffffffffu, token, distance));
    }
    if (threadIdx.x % kWarp == 0) {
        keys[threadIdx.x / kWarp] = key;
        tokens[threadIdx.x / kWarp] = token;
    }
    __syncthreads();
#pragma unroll
    for (int w = 0; w < kThreads / kWarp; ++w) {
        key = keys[w] < key ? keys[w] : key;
        token = min(token, tokens[w]);
    }
    __syncthreads();
}

/// The best token of a row, and the lowest token whose logit is NaN or +infinity (kNoToken: none).
template <int kThreads>
__device__ __forceinline__ void find_peak(const float* logits, int vocabulary, RankKey& best, int& bad, RankKey* keys,
                                          int* tokens) {
    best = kNoKey;
    bad = kNoToken;
    const auto look_at = [&](float logit, int i) {
        if (!(logit < __int_as_float(0x7f800000))) { bad = min(bad, i); }
        const RankKey key = rank_key(logit, i);
        best = key < best ? key : best;
    };
    if (vocabulary % 4 == 0) {  // then every row begins at 16 bytes; one block reads a whole row: loads in flight count
#pragma unroll 4
        for (int i = static_cast<int>(threadIdx.x) * 4; i < vocabulary; i += kThreads * 4) {
            const float4 four = *reinterpret_cast<const float4*>(logits + i);
            look_at(four.x, i);
            look_at(four.y, i + 1);
            look_at(four.z, i + 2);
            look_at(four.w, i + 3);
        }
    } else {
#pragma unroll 4
        for (int i = static_cast<int>(threadIdx.x); i < vocabulary; i += kThreads) {
            look_at(logits[i], i);
        }
    }
    block_least<kThreads>(best, bad, keys, tokens);
}

}  // namespace engine::cuda
