// Part of an instruction set's file (vector_avx2.cpp, vector_avx512.cpp); everything in it is local to that file.
// y = x * W^T: per output element one accumulator, K ascending, bias last, for every number of rows.
#pragma once

namespace engine {
namespace {

/// MR rows against NP panels: MR * NP accumulators in registers. `first`: they start at zero, else from y.
/// `panel_outputs`: outputs of the last panel. `ahead`: null, or what to bring near meanwhile (NP panels).
template <class A, int MR, int NP, bool kAhead>
void linear_tile(const typename A::Lane* x, const std::byte* w, std::size_t panel_bytes, std::uint32_t lanes,
                 bool first, const float* bias, float* y, std::size_t y_stride, std::uint32_t last_outputs,
                 const std::byte* ahead) {
    Vec sums[MR][NP];
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r) {
#pragma GCC unroll 8
        for (int p = 0; p < NP; ++p) {
            if (first) {
                sums[r][p] = zero();
            } else {
                const float* from = y + r * y_stride + p * kPanelOutputs;
                sums[r][p] = p + 1 < NP ? load(from) : load_n(from, last_outputs);
            }
        }
    }
    for (std::uint32_t k = 0; k < lanes; ++k) {
        typename A::Weights weights[NP];
#pragma GCC unroll 8
        for (int p = 0; p < NP; ++p) {
            weights[p] = A::weights(w + p * panel_bytes);
        }
        if constexpr (kAhead) {
#pragma GCC unroll 8
            for (int p = 0; p < NP; ++p) {
                __builtin_prefetch(ahead + p * panel_bytes, 0, 2);
            }
            ahead += kPanelRowBytes;
        }
#pragma GCC unroll 16
        for (int r = 0; r < MR; ++r) {
            const auto value = A::broadcast(x + r);
#pragma GCC unroll 8
            for (int p = 0; p < NP; ++p) {
                sums[r][p] = A::multiply_add(sums[r][p], value, weights[p]);
            }
        }
        w += kPanelRowBytes;
        x += MR;
    }
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r) {
#pragma GCC unroll 8
        for (int p = 0; p < NP; ++p) {
            float* to = y + r * y_stride + p * kPanelOutputs;
            const std::uint32_t count = p + 1 < NP ? kPanelOutputs : last_outputs;
            Vec sum = sums[r][p];
            if (bias != nullptr) { sum = add(sum, load_n(bias + p * kPanelOutputs, count)); }
            if (count == kPanelOutputs) {
                store(to, sum);
            } else {
                store_n(to, sum, count);
            }
        }
    }
}

template <class A>
using TileFunction = void (*)(const typename A::Lane*, const std::byte*, std::size_t, std::uint32_t, bool, const float*,
                              float*, std::size_t, std::uint32_t, const std::byte*);

template <class A, int MR, int NP>
constexpr TileFunction<A> tile_function(bool ahead) {
    if constexpr (MR * NP <= A::kSums) {
        return ahead ? linear_tile<A, MR, NP, true> : linear_tile<A, MR, NP, false>;
    } else {
        return nullptr;
    }
}

/// Panels taken at once, most first.
constexpr std::uint32_t kPanelCounts[] = {8, 6, 4, 3, 2, 1};

template <class A, int MR>
TileFunction<A> tile_of_panels(std::uint32_t panels, bool ahead) {
    switch (panels) {
        case 8:
            return tile_function<A, MR, 8>(ahead);
        case 6:
            return tile_function<A, MR, 6>(ahead);
        case 4:
            return tile_function<A, MR, 4>(ahead);
        case 3:
            return tile_function<A, MR, 3>(ahead);
        case 2:
            return tile_function<A, MR, 2>(ahead);
        default:
            return tile_function<A, MR, 1>(ahead);
    }
}

template <class A, int MR = 1>
TileFunction<A> find_tile(std::uint32_t rows, std::uint32_t panels, bool ahead) {
    if constexpr (MR > A::kRows) {
        return nullptr;
    } else {
        if (rows == MR) { return tile_of_panels<A, MR>(panels, ahead); }
        return find_tile<A, MR + 1>(rows, panels, ahead);
    }
}

/// The most panels for `rows` rows within `limit` panels.
template <class A>
std::uint32_t panels_at_once(std::uint32_t rows, std::uint32_t limit) {
    for (const std::uint32_t count : kPanelCounts) {
        if (count <= limit && count * rows <= static_cast<std::uint32_t>(A::kSums)) { return count; }
    }
    return 1;
}

/// Blocks: along K so that a panel's block stays in the first caches, along panels so that theirs stay in the second
/// one while all rows pass by. Neither changes the order in which an element is summed.
constexpr std::uint32_t kLanesPerBlock = 1024;
constexpr std::size_t kPanelBlockBytes = 384 * 1024;

template <class A>
void linear_share(const LinearShare& share) {
    using Lane = typename A::Lane;
    const auto* x = static_cast<const Lane*>(share.x);
    const std::uint32_t row_tiles = (share.rows + A::kRows - 1) / A::kRows;
    const std::uint32_t k_blocks = row_tiles == 1 ? 1 : (share.lanes + kLanesPerBlock - 1) / kLanesPerBlock;
    const std::size_t panel_bytes = share.lanes * kPanelRowBytes;
    const std::uint32_t panels_all = (share.outputs + kPanelOutputs - 1) / kPanelOutputs;
    const std::uint32_t tail = share.outputs - (panels_all - 1) * kPanelOutputs;
    for (std::uint32_t block = 0; block < k_blocks; ++block) {
        const std::uint32_t k_begin = static_cast<std::uint32_t>(std::uint64_t{share.lanes} * block / k_blocks);
        const std::uint32_t k_end = static_cast<std::uint32_t>(std::uint64_t{share.lanes} * (block + 1) / k_blocks);
        const std::uint32_t lanes = k_end - k_begin;
        const bool first = block == 0;
        const float* bias = block + 1 == k_blocks ? share.bias : nullptr;
        std::uint32_t block_panels = share.panel_end - share.panel_begin;
        if (row_tiles > 1) {
            const auto fit = static_cast<std::uint32_t>(kPanelBlockBytes / (lanes * kPanelRowBytes));
            const std::uint32_t whole = fit / 6 * 6;  // any tile's panel count divides it
            block_panels = whole == 0 ? 6 : whole;
        }
        for (std::uint32_t begin = share.panel_begin; begin < share.panel_end; begin += block_panels) {
            const std::uint32_t end = begin + block_panels < share.panel_end ? begin + block_panels : share.panel_end;
            for (std::uint32_t t = 0; t < row_tiles; ++t) {
                const auto row = static_cast<std::uint32_t>(std::uint64_t{share.rows} * t / row_tiles);
                const auto row_end = static_cast<std::uint32_t>(std::uint64_t{share.rows} * (t + 1) / row_tiles);
                const std::uint32_t rows = row_end - row;
                const Lane* x_tile = x + std::size_t{row} * share.lanes + std::size_t{k_begin} * rows;
                const bool ahead = t == 0;
                std::uint32_t count = panels_at_once<A>(rows, end - begin);
                TileFunction<A> tile = find_tile<A>(rows, count, ahead);
                for (std::uint32_t panel = begin; panel < end; panel += count) {
                    if (end - panel < count) {
                        count = panels_at_once<A>(rows, end - panel);
                        tile = find_tile<A>(rows, count, ahead);
                    }
                    const std::byte* w = share.w + panel * panel_bytes + k_begin * kPanelRowBytes;
                    const std::uint32_t last = panel + count == panels_all ? tail : kPanelOutputs;
                    const std::size_t output = std::size_t{panel} * kPanelOutputs;
                    tile(x_tile, w, panel_bytes, lanes, first, bias == nullptr ? nullptr : bias + output,
                         share.y + std::size_t{row} * share.outputs + output, share.outputs, last,
                         w + count * panel_bytes);
                }
            }
        }
    }
}

/// Activations in the order in which the tiles read them: [row tile][lane][row].
template <class A>
void pack_rows(const PackRows& pack) {
    using Lane = typename A::Lane;
    const std::uint32_t row_tiles = (pack.rows + A::kRows - 1) / A::kRows;
    const std::uint32_t lanes = (pack.inputs + A::kElements - 1) / A::kElements;
    for (std::uint32_t t = pack.tile_begin; t < pack.tile_end; ++t) {
        const auto row = static_cast<std::uint32_t>(std::uint64_t{pack.rows} * t / row_tiles);
        const auto row_end = static_cast<std::uint32_t>(std::uint64_t{pack.rows} * (t + 1) / row_tiles);
        const std::uint32_t rows = row_end - row;
        Lane* out = static_cast<Lane*>(pack.out) + std::size_t{row} * lanes;
        for (std::uint32_t r = 0; r < rows; ++r) {
            const float* x = pack.x + std::size_t{row + r} * pack.inputs;
            constexpr std::uint32_t kLanesAtOnce = 16 / A::kElements;
            for (std::uint32_t k = 0; k < lanes; k += kLanesAtOnce) {
                const std::uint32_t elements = pack.inputs - k * A::kElements;
                const std::uint32_t count = lanes - k < kLanesAtOnce ? lanes - k : kLanesAtOnce;
                Lane some[kLanesAtOnce];
                A::to_lanes(elements >= 16 ? load(x + k * A::kElements) : load_n(x + k * A::kElements, elements), some);
                for (std::uint32_t i = 0; i < count; ++i) {
                    out[std::size_t{k + i} * rows + r] = some[i];
                }
            }
        }
    }
}

}  // namespace
}  // namespace engine
