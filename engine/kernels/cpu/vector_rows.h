// Part of an instruction set's file (vector_avx2.cpp, vector_avx512.cpp); everything in it is local to that file.
// Norms, activation, rotation and the KV append.
#pragma once

#include "engine/kernels/cpu/vector_exp.h"

namespace engine {
namespace {

inline float sum_of_squares(const float* x, std::uint32_t width) {
    Vec sums[4] = {zero(), zero(), zero(), zero()};
    std::uint32_t i = 0;
    for (; i + 64 <= width; i += 64) {
        for (std::uint32_t j = 0; j < 4; ++j) {
            const Vec v = load(x + i + 16 * j);
            sums[j] = fma(v, v, sums[j]);
        }
    }
    for (std::uint32_t j = 0; i < width; i += 16, ++j) {
        const Vec v = load_n(x + i, least(width - i, 16));
        sums[j] = fma(v, v, sums[j]);
    }
    return reduce_add(add(add(sums[0], sums[1]), add(sums[2], sums[3])));
}

void rms_norm(const float* x, const float* weight, float eps, std::uint32_t width, float* out) {
    const float mean = sum_of_squares(x, width) / static_cast<float>(width);
    const Vec scale = set(1.0f / square_root(mean + eps));
    std::uint32_t i = 0;
    for (; i + 16 <= width; i += 16) {
        store(out + i, mul(mul(load(x + i), scale), load(weight + i)));
    }
    if (i < width) {
        const std::uint32_t n = width - i;
        store_n(out + i, mul(mul(load_n(x + i, n), scale), load_n(weight + i, n)), n);
    }
}

void add_rows(float* x, const float* delta, std::size_t count) {
    std::size_t i = 0;
    for (; i + 16 <= count; i += 16) {
        store(x + i, add(load(x + i), load(delta + i)));
    }
    if (i < count) {
        const auto n = static_cast<std::uint32_t>(count - i);
        store_n(x + i, add(load_n(x + i, n), load_n(delta + i, n)), n);
    }
}

inline Vec silu_times(Vec gate, Vec up) {
    const Vec sigmoid = div(set(1.0f), add(set(1.0f), exp(sub(zero(), gate))));
    return mul(mul(gate, sigmoid), up);
}

void swiglu(const float* gate, const float* up, std::uint32_t width, float* out) {
    std::uint32_t i = 0;
    for (; i + 16 <= width; i += 16) {
        store(out + i, silu_times(load(gate + i), load(up + i)));
    }
    if (i < width) {
        const std::uint32_t n = width - i;
        store_n(out + i, silu_times(load_n(gate + i, n), load_n(up + i, n)), n);
    }
}

/// Four running sums over a row, so that additions need not wait for one another.
template <class Term>
inline float sum_over(std::uint32_t width, const Term& term) {
    Vec sums[4] = {zero(), zero(), zero(), zero()};
    std::uint32_t i = 0;
    for (; i + 64 <= width; i += 64) {
        for (std::uint32_t j = 0; j < 4; ++j) {
            sums[j] = term(sums[j], i + 16 * j, 16u);
        }
    }
    for (std::uint32_t j = 0; i < width; i += 16, ++j) {
        sums[j] = term(sums[j], i, least(width - i, 16));
    }
    return reduce_add(add(add(sums[0], sums[1]), add(sums[2], sums[3])));
}

void add_layer_norm(float* x, const float* delta, const float* weight, const float* bias, float eps,
                    std::uint32_t width) {
    const float mean = sum_over(width,
                                [&](Vec sum, std::uint32_t i, std::uint32_t n) {
                                    const Vec v = add(load_n(x + i, n), load_n(delta + i, n));
                                    store_n(x + i, v, n);
                                    return add(sum, v);
                                }) /
                       static_cast<float>(width);
    const Vec middle = set(mean);
    const float squares = sum_over(width, [&](Vec sum, std::uint32_t i, std::uint32_t n) {
        const Vec v = first_n(sub(load_n(x + i, n), middle), n, 0.0f);
        return fma(v, v, sum);
    });
    const Vec scale = set(1.0f / square_root(squares / static_cast<float>(width) + eps));
    for (std::uint32_t i = 0; i < width; i += 16) {
        const std::uint32_t n = least(width - i, 16);
        const Vec v = mul(sub(load_n(x + i, n), middle), scale);
        store_n(x + i, fma(v, load_n(weight + i, n), load_n(bias + i, n)), n);
    }
}

/// erf(y): rational in y^2, minimax on [0, 4], relative error 2.5e-8 before rounding; constant beyond.
inline Vec error_function(Vec y) {
    const Vec clamped = max(set(-4.0f), min(set(4.0f), y));
    const Vec u = mul(clamped, clamped);
    Vec p = set(1.98661255e-6f);
    p = fma(p, u, set(2.84584086e-4f));
    p = fma(p, u, set(3.88423480e-3f));
    p = fma(p, u, set(5.31045921e-2f));
    p = fma(p, u, set(1.93566018e-1f));
    p = fma(p, u, set(1.12837914f));
    Vec q = set(3.74193350e-5f);
    q = fma(q, u, set(1.18578151e-3f));
    q = fma(q, u, set(1.52090749e-2f));
    q = fma(q, u, set(1.15358719e-1f));
    q = fma(q, u, set(5.04875971e-1f));
    q = fma(q, u, set(1.0f));
    return div(mul(clamped, p), q);
}

/// Error below 1e-6 of |x|, or of 1 where that is smaller; 0 below -5.65.
void gelu(float* x, std::size_t count) {
    for (std::size_t i = 0; i < count; i += 16) {
        const auto n = static_cast<std::uint32_t>(count - i < 16 ? count - i : 16);
        const Vec v = load_n(x + i, n);
        const Vec half = mul(v, set(0.5f));
        const Vec result = fma(half, error_function(mul(v, set(0.707106781f))), half);
        store_n(x + i, zero_where_less(v, set(-5.65f), result), n);
    }
}

/// x / (1 + e^(-2 u)), u = sqrt(2 / pi) * (x + 0.044715 x^3): the same as with a tanh.
void gelu_tanh(float* x, std::size_t count) {
    for (std::size_t i = 0; i < count; i += 16) {
        const auto n = static_cast<std::uint32_t>(count - i < 16 ? count - i : 16);
        const Vec v = load_n(x + i, n);
        const Vec cubic = fma(mul(mul(v, v), v), set(0.044715f), v);
        const Vec sigmoid = div(set(1.0f), add(set(1.0f), exp(mul(cubic, set(-1.59576912f)))));
        store_n(x + i, mul(v, sigmoid), n);
    }
}

void exp_array(const float* x, std::size_t count, float* out) {
    for (std::size_t i = 0; i < count; i += 16) {
        const auto n = static_cast<std::uint32_t>(count - i < 16 ? count - i : 16);
        store_n(out + i, exp(load_n(x + i, n)), n);
    }
}

void exp2_array(const float* x, std::size_t count, float* out) {
    for (std::size_t i = 0; i < count; i += 16) {
        const auto n = static_cast<std::uint32_t>(count - i < 16 ? count - i : 16);
        store_n(out + i, exp2_nonpositive(load_n(x + i, n)), n);
    }
}

/// One head: norm (if any), then the halves rotated against each other.
inline void rotate_head(const AppendRow& row, const float* x, const float* norm, float* out) {
    float normed[kHeadDimMax];
    if (norm != nullptr) {
        rms_norm(x, norm, row.norm_eps, row.head_dim, normed);
        x = normed;
    }
    const std::uint32_t half = row.head_dim / 2;
    for (std::uint32_t i = 0; i < half; i += 16) {
        const std::uint32_t n = least(half - i, 16);
        const Vec low = load_n(x + i, n);
        const Vec high = load_n(x + half + i, n);
        const Vec c = load_n(row.cosines + i, n);
        const Vec s = load_n(row.sines + i, n);
        store_n(out + i, sub(mul(low, c), mul(high, s)), n);
        store_n(out + half + i, fma(high, c, mul(low, s)), n);
    }
}

template <class A>
void append_row(const AppendRow& row) {
    constexpr std::uint32_t e = A::kKvElements;
    using Element = typename A::KvElement;
    const std::uint32_t d = row.head_dim;
    for (std::uint32_t h = 0; h < row.heads_q; ++h) {
        rotate_head(row, row.qkv + std::size_t{h} * d, row.q_norm, row.q + std::size_t{h} * d);
    }
    const float* k = row.qkv + std::size_t{row.heads_q} * d;
    const float* v = k + std::size_t{row.heads_kv} * d;
    float rotated[kHeadDimMax + 16];
    Element stored[kHeadDimMax + 16];
    for (std::uint32_t h = 0; h < row.heads_kv; ++h) {
        rotate_head(row, k + std::size_t{h} * d, row.k_norm, rotated);
        for (std::uint32_t i = 0; i < d; i += 16) {
            A::to_kv(load_n(rotated + i, least(d - i, 16)), stored + i);
        }
        auto* k_tile = reinterpret_cast<Element*>(row.k_tile + h * row.tile_bytes);
        for (std::uint32_t i = 0; i < d; i += e) {  // [d / e][token][e]
            Element* to = k_tile + (std::size_t{i / e} * row.block_tokens + row.token) * e;
            for (std::uint32_t j = 0; j < e; ++j) {
                to[j] = stored[i + j];
            }
        }
        for (std::uint32_t i = 0; i < d; i += 16) {
            A::to_kv(load_n(v + std::size_t{h} * d + i, least(d - i, 16)), stored + i);
        }
        auto* v_tile = reinterpret_cast<Element*>(row.v_tile + h * row.tile_bytes);
        Element* to = v_tile + std::size_t{row.token / e} * d * e + row.token % e;  // [token / e][d][e]
        for (std::uint32_t i = 0; i < d; ++i) {
            to[i * e] = stored[i];
        }
    }
}

}  // namespace
}  // namespace engine
