// The operators of an encoder: which thread does what. The rest of the backend is in cpu_backend.cpp.
#include <algorithm>
#include <cstddef>
#include <cstring>

#include "base/check.h"
#include "engine/kernels/cpu/cpu_backend.h"

namespace engine {
namespace {

/// Elements of work that a value of these costs about as much as.
constexpr std::size_t kNormCost = 4;
constexpr std::size_t kGeluCost = 4;

/// One head of one text: its keys and values in tiles as KvKernels want them, its queries a block at a time.
class HeadAttention {
public:
    HeadAttention(const KernelTable& kernels, const TextAttention& args)
        : kernels_(kernels),
          args_(args),
          chunks_((args.head_dim + 15) / 16),
          state_floats_(std::size_t{chunks_} * 16 + 16) {}

    void run(const SequenceRows& text, std::uint32_t head) {
        const std::uint32_t tiles = (text.rows + kTileTokens - 1) / kTileTokens;
        lay_out(tiles);
        fill_tiles(text, head, tiles);
        const std::uint32_t at_once = kernels_.kv_f32.block_vectors;
        for (std::uint32_t begin = 0; begin < text.rows; begin += at_once) {
            attend(text, head, begin, std::min(at_once, text.rows - begin));
        }
    }

private:
    std::size_t width() const { return std::size_t{args_.heads} * args_.head_dim; }
    std::size_t k_tile_bytes() const { return args_.head_dim * kPanelRowBytes; }
    std::size_t v_tile_bytes() const { return kTileTokens * chunks_ * kPanelRowBytes; }

    /// Memory of this thread; what is in it does not survive the next text.
    void lay_out(std::uint32_t tiles) {
        thread_local Scratch scratch;
        const std::size_t states = std::size_t{kBlockVectorsMax} * state_floats_ * sizeof(float);
        const std::size_t parts = std::size_t{kBlockVectorsMax} * chunks_ * 16 * sizeof(float);
        const std::size_t queries = std::size_t{kBlockVectorsMax} * args_.head_dim * sizeof(float);
        std::byte* room = scratch.at_least(tiles * (k_tile_bytes() + v_tile_bytes()) + states + parts + queries);
        k_ = room;
        v_ = k_ + tiles * k_tile_bytes();
        states_ = reinterpret_cast<float*>(v_ + tiles * v_tile_bytes());
        parts_ = states_ + states / sizeof(float);
        queries_ = parts_ + parts / sizeof(float);
    }

    /// K as [tile][head_dim][16 tokens], V as [tile][16 tokens][head_dim, padded]. Places without a token are zero.
    void fill_tiles(const SequenceRows& text, std::uint32_t head, std::uint32_t tiles) {
        const std::uint32_t d = args_.head_dim;
        const std::size_t v_row = std::size_t{chunks_} * 16;
        for (std::uint32_t tile = 0; tile < tiles; ++tile) {
            auto* k = reinterpret_cast<float*>(k_ + tile * k_tile_bytes());
            auto* v = reinterpret_cast<float*>(v_ + tile * v_tile_bytes());
            const std::uint32_t first = tile * kTileTokens;
            const std::uint32_t tokens = std::min(kTileTokens, text.rows - first);
            if (tokens < kTileTokens) { std::memset(k, 0, k_tile_bytes()); }
            if (tokens < kTileTokens || v_row != d) { std::memset(v, 0, v_tile_bytes()); }
            for (std::uint32_t token = 0; token < tokens; ++token) {
                const float* from =
                    args_.qkv + std::size_t{text.row_begin + first + token} * 3 * width() + width() + head * d;
                for (std::uint32_t i = 0; i < d; ++i) {
                    k[i * kTileTokens + token] = from[i];
                }
                std::memcpy(v + token * v_row, from + width(), d * sizeof(float));
            }
        }
    }

    /// `count` queries from row `begin` of the text on, against all of its keys.
    void attend(const SequenceRows& text, std::uint32_t head, std::uint32_t begin, std::uint32_t count) {
        const KvKernels& format = kernels_.kv_f32;
        const std::size_t row = std::size_t{text.row_begin} + begin;
        for (std::uint32_t i = 0; i < count; ++i) {
            format.pack_query(args_.qkv + (row + i) * 3 * width() + head * args_.head_dim, args_.head_dim, i, count,
                              queries_);
        }
        const std::size_t part_floats = std::size_t{chunks_} * 16;
        for (std::uint32_t first_key = 0; first_key < text.rows; first_key += kPartitionTokens) {
            const std::uint32_t keys = std::min(kPartitionTokens, text.rows - first_key);
            const std::byte* k[kPartitionTiles];
            const std::byte* v[kPartitionTiles];
            const std::uint32_t tiles = (keys + kTileTokens - 1) / kTileTokens;
            for (std::uint32_t t = 0; t < tiles; ++t) {
                k[t] = k_ + (first_key / kTileTokens + t) * k_tile_bytes();
                v[t] = v_ + (first_key / kTileTokens + t) * v_tile_bytes();
            }
            std::uint32_t visible[kBlockVectorsMax];
            std::fill_n(visible, count, keys);
            float largest[kBlockVectorsMax];
            float sum[kBlockVectorsMax];
            format.attend({.q = queries_,
                           .vectors = count,
                           .head_lanes = args_.head_dim,
                           .chunks = chunks_,
                           .k = k,
                           .v = v,
                           .k_stride = kPanelRowBytes,
                           .v_stride = chunks_ * kPanelRowBytes,
                           .tiles = tiles,
                           .visible = visible,
                           .scale_log2 = args_.scale * 1.44269504f,
                           .largest = largest,
                           .sum = sum,
                           .weighted = parts_});
            for (std::uint32_t i = 0; i < count; ++i) {
                const float* part = parts_ + i * part_floats;
                float* state = states_ + i * state_floats_;
                if (first_key == 0) {
                    std::memcpy(state, part, part_floats * sizeof(float));
                    state[part_floats] = largest[i];
                    state[part_floats + 1] = sum[i];
                } else {
                    kernels_.merge(state + part_floats, state + part_floats + 1, state, largest[i], sum[i], part,
                                   chunks_);
                }
            }
        }
        for (std::uint32_t i = 0; i < count; ++i) {
            const float* state = states_ + i * state_floats_;
            kernels_.finish(state, state[part_floats + 1], args_.head_dim,
                            args_.out + (row + i) * width() + head * args_.head_dim);
        }
    }

    const KernelTable& kernels_;
    const TextAttention& args_;
    const std::uint32_t chunks_;      // of 16 dims
    const std::size_t state_floats_;  // of a query: weighted [16 * chunks], largest, sum
    std::byte* k_ = nullptr;
    std::byte* v_ = nullptr;
    float* states_ = nullptr;
    float* parts_ = nullptr;
    float* queries_ = nullptr;
};

}  // namespace

void CpuBackend::add_layer_norm(float* x, const float* delta, const LayerNorm& norm, std::uint32_t rows,
                                std::uint32_t width) {
    for_rows(rows, kNormCost * width, [&](std::uint32_t begin, std::uint32_t end) {
        for (std::size_t row = begin; row < end; ++row) {
            kernels_.add_layer_norm(x + row * width, delta + row * width, norm.weight, norm.bias, norm.eps, width);
        }
    });
}

void CpuBackend::gelu(float* x, Gelu kind, std::uint32_t rows, std::uint32_t width) {
    const auto function = kind == Gelu::exact ? kernels_.gelu : kernels_.gelu_tanh;
    for_rows(rows, kGeluCost * width, [&](std::uint32_t begin, std::uint32_t end) {
        function(x + std::size_t{begin} * width, std::size_t{end - begin} * width);
    });
}

void CpuBackend::attend_within(const TextAttention& args) {
    CHECK(args.head_dim <= kHeadDimMax && args.head_dim % 2 == 0, "heads of " << args.head_dim);
    // One after the other, all heads of a text: their rows are near each other.
    const auto items = static_cast<std::uint32_t>(args.texts.size()) * args.heads;
    std::size_t products = 0;
    for (const SequenceRows& text : args.texts) {
        products += std::size_t{2} * text.rows * text.rows * args.heads * args.head_dim;
    }
    for_rows(items, products / std::max(items, 1u), [&](std::uint32_t begin, std::uint32_t end) {
        HeadAttention attention(kernels_, args);
        for (std::uint32_t item = begin; item < end; ++item) {
            attention.run(args.texts[item / args.heads], item % args.heads);
        }
    });
}

}  // namespace engine
