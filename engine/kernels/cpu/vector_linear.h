// Part of an instruction set's file (vector_avx2.cpp, vector_avx512.cpp); everything in it is local to that file.
// y = x * W^T: per output element one accumulator, K ascending, bias last, for every number of rows.
#pragma once

namespace engine {
namespace {

/// What a tile brings nearer while it computes.
enum class Ahead {
    none,
    same_panels,  // its own panels, kAheadLanes further on, and at the end the first lanes of the next ones
    one_line,     // one cache line a lane, from `ahead` on
    two_lines,
};

/// Into the second cache (into the first it was slower than no prefetch at all); 64 to 128 lanes measured best.
constexpr std::uint32_t kAheadLanes = 128;

/// MR rows against NP panels: MR * NP accumulators in registers. `first`: they start at zero, else from y.
/// `last_outputs`: outputs of the last panel.
template <class A, int MR, int NP, Ahead kAhead>
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
    std::uint32_t left = lanes;
    while (left > 0) {
        std::uint32_t count = left;
        const std::byte* near = ahead;
        if constexpr (kAhead == Ahead::same_panels) {
            if (left > kAheadLanes) {
                count = left - kAheadLanes;
                near = w + kAheadLanes * kPanelRowBytes;
            }
        }
        left -= count;
        for (std::uint32_t k = 0; k < count; ++k) {
            typename A::Weights weights[NP];
#pragma GCC unroll 8
            for (int p = 0; p < NP; ++p) {
                weights[p] = A::weights(w + p * panel_bytes);
            }
            if constexpr (kAhead == Ahead::same_panels) {
#pragma GCC unroll 8
                for (int p = 0; p < NP; ++p) {
                    __builtin_prefetch(near + p * panel_bytes, 0, 2);
                }
                near += kPanelRowBytes;
            } else if constexpr (kAhead != Ahead::none) {
                __builtin_prefetch(near, 0, 2);
                if (kAhead == Ahead::two_lines) { __builtin_prefetch(near + kPanelRowBytes, 0, 2); }
                near += kAhead == Ahead::two_lines ? 2 * kPanelRowBytes : kPanelRowBytes;
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
constexpr TileFunction<A> tile_function(Ahead ahead) {
    if constexpr (MR * NP <= A::kSums) {
        if constexpr (MR * 2 > A::kRows) {  // smaller tiles are never one of several
            switch (ahead) {
                case Ahead::none:
                    return linear_tile<A, MR, NP, Ahead::none>;
                case Ahead::one_line:
                    return linear_tile<A, MR, NP, Ahead::one_line>;
                case Ahead::two_lines:
                    return linear_tile<A, MR, NP, Ahead::two_lines>;
                case Ahead::same_panels:
                    break;
            }
        }
        return linear_tile<A, MR, NP, Ahead::same_panels>;
    } else {
        return nullptr;
    }
}

/// Panels taken at once, most first.
constexpr std::uint32_t kPanelCounts[] = {8, 6, 4, 3, 2, 1};

template <class A, int MR>
TileFunction<A> tile_of_panels(std::uint32_t panels, Ahead ahead) {
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
TileFunction<A> find_tile(std::uint32_t rows, std::uint32_t panels, Ahead ahead) {
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

/// Where one share's outputs and weights lie.
struct ShareLayout {
    std::size_t panel_bytes;
    std::uint32_t panels;        // of the matrix
    std::uint32_t last_outputs;  // of its last panel

    explicit ShareLayout(const LinearShare& share)
        : panel_bytes(share.lanes * kPanelRowBytes),
          panels((share.outputs + kPanelOutputs - 1) / kPanelOutputs),
          last_outputs(share.outputs - (panels - 1) * kPanelOutputs) {}
};

/// Rows that fit one tile: weights are read once, from memory, as fast as it gives them.
template <class A>
void linear_few_rows(const LinearShare& share) {
    const ShareLayout layout{share};
    const auto* x = static_cast<const typename A::Lane*>(share.x);
    for (std::uint32_t panel = share.panel_begin; panel < share.panel_end;) {
        const std::uint32_t count = panels_at_once<A>(share.rows, share.panel_end - panel);
        const TileFunction<A> tile = find_tile<A>(share.rows, count, Ahead::same_panels);
        const std::byte* w = share.w + panel * layout.panel_bytes;
        const std::size_t output = std::size_t{panel} * kPanelOutputs;
        const std::uint32_t last = panel + count == layout.panels ? layout.last_outputs : kPanelOutputs;
        tile(x, w, layout.panel_bytes, share.lanes, true, share.bias == nullptr ? nullptr : share.bias + output,
             share.y + output, share.outputs, last, w + count * layout.panel_bytes);
        panel += count;
    }
}

/// Blocks: along K so that a panel's block stays in the first caches, along panels so that theirs stay in the second
/// one while all rows pass by. Neither changes the order in which an element is summed.
constexpr std::uint32_t kLanesPerBlock = 1024;
constexpr std::size_t kPanelBlockBytes = 384 * 1024;
/// Fewer row tiles than this take few panels at once, so that the next ones come from memory all the while.
constexpr std::uint32_t kManyRowTiles = 8;

template <class A>
void linear_many_rows(const LinearShare& share) {
    using Lane = typename A::Lane;
    const ShareLayout layout{share};
    const auto* x = static_cast<const Lane*>(share.x);
    const std::uint32_t row_tiles = (share.rows + A::kRows - 1) / A::kRows;
    const std::uint32_t k_blocks = (share.lanes + kLanesPerBlock - 1) / kLanesPerBlock;
    for (std::uint32_t block = 0; block < k_blocks; ++block) {
        const std::uint32_t k_begin = static_cast<std::uint32_t>(std::uint64_t{share.lanes} * block / k_blocks);
        const std::uint32_t k_end = static_cast<std::uint32_t>(std::uint64_t{share.lanes} * (block + 1) / k_blocks);
        const std::uint32_t lanes = k_end - k_begin;
        const float* bias = block + 1 == k_blocks ? share.bias : nullptr;
        std::uint32_t block_panels = panels_at_once<A>((share.rows + row_tiles - 1) / row_tiles, 6);
        if (row_tiles >= kManyRowTiles) {
            const auto fit = static_cast<std::uint32_t>(kPanelBlockBytes / (lanes * kPanelRowBytes));
            block_panels = fit < 6 ? 6 : fit / 6 * 6;  // any tile's panel count divides it
        }
        for (std::uint32_t begin = share.panel_begin; begin < share.panel_end; begin += block_panels) {
            const std::uint32_t end = begin + block_panels < share.panel_end ? begin + block_panels : share.panel_end;
            // The next block's panels, a few lines with each call (of a K block: one panel at a time is contiguous).
            std::uint32_t ahead_panel = end;
            const std::uint32_t ahead_end = end + block_panels < share.panel_end ? end + block_panels : share.panel_end;
            const bool two_lines = block_panels > row_tiles;
            for (std::uint32_t t = 0; t < row_tiles; ++t) {
                const auto row = static_cast<std::uint32_t>(std::uint64_t{share.rows} * t / row_tiles);
                const auto row_end = static_cast<std::uint32_t>(std::uint64_t{share.rows} * (t + 1) / row_tiles);
                const std::uint32_t rows = row_end - row;
                const Lane* x_tile = x + std::size_t{row} * share.lanes + std::size_t{k_begin} * rows;
                for (std::uint32_t panel = begin; panel < end;) {
                    const std::uint32_t count = panels_at_once<A>(rows, end - panel);
                    const std::byte* w = share.w + panel * layout.panel_bytes + k_begin * kPanelRowBytes;
                    Ahead ahead = Ahead::none;
                    const std::byte* near = nullptr;
                    if (ahead_panel < ahead_end) {
                        ahead = two_lines && k_blocks == 1 ? Ahead::two_lines : Ahead::one_line;
                        near = share.w + ahead_panel * layout.panel_bytes + k_begin * kPanelRowBytes;
                        ahead_panel += ahead == Ahead::two_lines ? 2 : 1;
                    }
                    const std::uint32_t last = panel + count == layout.panels ? layout.last_outputs : kPanelOutputs;
                    const std::size_t output = std::size_t{panel} * kPanelOutputs;
                    find_tile<A>(rows, count, ahead)(
                        x_tile, w, layout.panel_bytes, lanes, block == 0, bias == nullptr ? nullptr : bias + output,
                        share.y + std::size_t{row} * share.outputs + output, share.outputs, last, near);
                    panel += count;
                }
            }
        }
    }
}

template <class A>
void linear_share(const LinearShare& share) {
    if (share.rows <= static_cast<std::uint32_t>(A::kRows)) {
        linear_few_rows<A>(share);
    } else {
        linear_many_rows<A>(share);
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

template <class A>
constexpr WeightKernels weight_kernels() {
    return {.lane_elements = A::kElements,
            .lane_bytes = sizeof(typename A::Lane),
            .row_tile_max = A::kRows,
            .pack_rows = pack_rows<A>,
            .linear = linear_share<A>};
}

}  // namespace
}  // namespace engine
