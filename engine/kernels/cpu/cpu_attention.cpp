#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "engine/kernels/cpu/cpu_backend.h"

// Attention: which thread does what. The numbers of a query vector come from partitions of keys at fixed positions,
// merged in ascending order; how vectors and partitions are dealt out below does not change them.

namespace engine {
namespace {

/// Query vectors of one item at most: enough to pay for copying the keys of a partition to one place.
constexpr std::uint32_t kItemVectors = 96;
/// From here on an item copies them: block-major KV lies pages apart, and its tiles evict each other in the caches.
constexpr std::uint32_t kCopyFromVectors = 12;
constexpr std::uint32_t kItemsPerThread = 4;

/// Consecutive query vectors (row-major over rows and the heads that share a KV head) of one KV head against a range of
/// partitions.
struct Item {
    std::uint32_t sequence = 0;
    std::uint32_t kv_head = 0;
    std::uint32_t vector_begin = 0;
    std::uint32_t vector_end = 0;
    std::uint32_t partition_begin = 0;
    std::uint32_t partition_end = 0;
    bool split = false;             // its partitions are spread over several items
    std::size_t partial_begin = 0;  // with `split`: of (vector_begin, partition 0)
};

/// What is the same for all items of a call.
struct Call {
    const AttentionArgs& args;
    const KernelTable& kernels;
    const FormatKernels& format;
    const kv_cache::KvLayout& layout;
    std::uint32_t heads_q;
    std::uint32_t heads_kv;
    std::uint32_t head_dim;
    std::uint32_t group;   // query heads that share a KV head
    std::uint32_t chunks;  // of 16 dims
    float* partials;       // [partial]: weighted [16 * chunks], then largest and sum

    std::size_t partial_floats() const { return std::size_t{chunks} * 16 + 16; }
    std::uint32_t partitions_of(const SequenceRows& sequence, std::uint32_t row) const {
        return (sequence.position + row) / kPartitionTokens + 1;
    }
    std::size_t q_offset(const SequenceRows& sequence, std::uint32_t kv_head, std::uint32_t vector) const {
        const std::size_t row = sequence.row_begin + vector / group;
        return (row * heads_q + kv_head * group + vector % group) * head_dim;
    }
};

/// Copies V of 16 tokens, rows padded to whole chunks; tokens from `tokens` on become zero, whatever is stored there.
void copy_values(const std::byte* from, std::uint32_t tokens, std::uint32_t lane_elements, std::uint32_t head_dim,
                 std::size_t row_bytes, std::byte* to) {
    for (std::uint32_t row = 0; row < kTileTokens / lane_elements; ++row) {
        const std::byte* source = from + std::size_t{row} * head_dim * 4;
        std::byte* target = to + row * row_bytes;
        std::memset(target, 0, row_bytes);
        if ((row + 1) * lane_elements <= tokens) {
            std::memcpy(target, source, std::size_t{head_dim} * 4);
        } else if (row * lane_elements < tokens) {  // the first of a pair of bf16
            for (std::uint32_t d = 0; d < head_dim; ++d) {
                std::memcpy(target + d * 4, source + d * 4, 2);
            }
        }
    }
}

/// The tiles of one partition of one KV head, in place or copied.
struct Tiles {
    const std::byte* k[kPartitionTiles];
    const std::byte* v[kPartitionTiles];
    std::size_t k_stride;
    std::size_t v_stride;
};

/// `keys`: of the partition that exist. `room`: for copies.
void gather(const Call& call, const Item& item, std::uint32_t first_key, std::uint32_t keys, std::byte* room,
            Tiles* tiles) {
    const SequenceRows& sequence = call.args.sequences[item.sequence];
    const std::uint32_t block_tokens = call.layout.block_tokens();
    const std::uint32_t e = call.format.lane_elements;
    const std::uint32_t head_lanes = call.head_dim / e;
    const bool copy = item.vector_end - item.vector_begin >= kCopyFromVectors || call.head_dim % 16 != 0;
    tiles->k_stride = copy ? kPanelRowBytes : std::size_t{block_tokens} * 4;
    tiles->v_stride = copy ? call.chunks * kPanelRowBytes : std::size_t{call.head_dim} * 4;
    for (std::uint32_t t = 0; t * kTileTokens < keys; ++t) {
        const std::uint32_t position = first_key + t * kTileTokens;
        const base::BlockId block = sequence.blocks[position / block_tokens];
        const std::uint32_t token = position % block_tokens;
        const std::byte* k = call.args.kv->tile(block, call.args.layer, kv_cache::KvPart::k, item.kv_head) + token * 4;
        const std::byte* v = call.args.kv->tile(block, call.args.layer, kv_cache::KvPart::v, item.kv_head) +
                             std::size_t{token / e} * call.head_dim * 4;
        const std::uint32_t tokens = std::min(keys - t * kTileTokens, kTileTokens);
        if (copy) {
            for (std::uint32_t i = 0; i < head_lanes; ++i) {
                std::memcpy(room + i * kPanelRowBytes, k + std::size_t{i} * block_tokens * 4, kPanelRowBytes);
            }
            k = room;
            room += head_lanes * kPanelRowBytes;
        }
        if (copy || tokens < kTileTokens) {
            copy_values(v, tokens, e, call.head_dim, tiles->v_stride, room);
            v = room;
            room += kTileTokens / e * tiles->v_stride;
        }
        tiles->k[t] = k;
        tiles->v[t] = v;
    }
}

void attend_item(const Call& call, const Item& item) {
    thread_local Scratch scratch;
    const SequenceRows& sequence = call.args.sequences[item.sequence];
    const std::uint32_t vectors = item.vector_end - item.vector_begin;
    const std::uint32_t e = call.format.lane_elements;
    const std::size_t width = std::size_t{call.chunks} * 16;
    const std::size_t query_bytes = std::size_t{kQueryStride} * call.format.lane_bytes;
    const std::size_t tile_bytes = std::size_t{kTileTokens / e} * width * 4;
    const std::size_t copy_bytes = kPartitionTiles * 2 * tile_bytes + 64;
    std::byte* memory =
        scratch.at_least(vectors * query_bytes + copy_bytes + (vectors + kBlockVectorsMax) * (width + 16) * 4);
    std::byte* queries = memory;
    std::byte* room = queries + vectors * query_bytes;
    auto* state = reinterpret_cast<float*>(room + copy_bytes);  // [vectors]: weighted, largest, sum
    float* part = state + vectors * (width + 16);               // [kBlockVectorsMax][width]
    for (std::uint32_t i = 0; i < vectors; ++i) {
        const float* q = call.args.q + call.q_offset(sequence, item.kv_head, item.vector_begin + i);
        call.format.pack_query(q, call.head_dim, queries + i * query_bytes);
    }
    const std::uint32_t keys_end = sequence.position + (item.vector_end - 1) / call.group + 1;
    for (std::uint32_t partition = item.partition_begin; partition < item.partition_end; ++partition) {
        const std::uint32_t first_key = partition * kPartitionTokens;
        Tiles tiles;
        gather(call, item, first_key, std::min(keys_end - first_key, kPartitionTokens), room, &tiles);
        for (std::uint32_t begin = 0; begin < vectors; begin += call.format.block_vectors) {
            const std::uint32_t count = std::min(vectors - begin, call.format.block_vectors);
            std::uint32_t visible[kBlockVectorsMax];
            std::uint32_t most = 0;
            for (std::uint32_t i = 0; i < count; ++i) {
                const std::uint32_t end = sequence.position + (item.vector_begin + begin + i) / call.group + 1;
                visible[i] = end <= first_key ? 0 : std::min(end - first_key, kPartitionTokens);
                most = std::max(most, visible[i]);
            }
            if (most == 0) { continue; }
            float largest[kBlockVectorsMax];
            float sum[kBlockVectorsMax];
            call.format.attend({.q = queries + begin * query_bytes,
                                .vectors = count,
                                .head_lanes = call.head_dim / e,
                                .chunks = call.chunks,
                                .k = tiles.k,
                                .v = tiles.v,
                                .k_stride = tiles.k_stride,
                                .v_stride = tiles.v_stride,
                                .tiles = (most + kTileTokens - 1) / kTileTokens,
                                .visible = visible,
                                .scale_log2 = call.args.scale * 1.44269504f,
                                .largest = largest,
                                .sum = sum,
                                .weighted = part});
            for (std::uint32_t i = 0; i < count; ++i) {
                if (visible[i] == 0) { continue; }
                float* to = state + (begin + i) * (width + 16);
                if (item.split) {
                    const std::size_t index =
                        item.partial_begin +
                        std::size_t{begin + i} * call.partitions_of(sequence, (item.vector_end - 1) / call.group) +
                        partition;
                    to = call.partials + index * call.partial_floats();
                }
                if (item.split || partition == 0) {
                    std::memcpy(to, part + i * width, width * 4);
                    to[width] = largest[i];
                    to[width + 1] = sum[i];
                } else {
                    call.kernels.merge(to + width, to + width + 1, to, largest[i], sum[i], part + i * width,
                                       call.chunks);
                }
            }
        }
    }
    if (item.split) { return; }
    for (std::uint32_t i = 0; i < vectors; ++i) {
        const float* from = state + i * (width + 16);
        float* out = call.args.out + call.q_offset(sequence, item.kv_head, item.vector_begin + i);
        call.kernels.finish(from, from[width + 1], call.head_dim, out);
    }
}

/// Merges the partial results of one split item's vectors. `item` is any of its pieces.
void merge_item(const Call& call, const Item& item) {
    const SequenceRows& sequence = call.args.sequences[item.sequence];
    const std::size_t width = std::size_t{call.chunks} * 16;
    const std::uint32_t partitions = call.partitions_of(sequence, (item.vector_end - 1) / call.group);
    for (std::uint32_t i = 0; i < item.vector_end - item.vector_begin; ++i) {
        float* state = call.partials + (item.partial_begin + std::size_t{i} * partitions) * call.partial_floats();
        const std::uint32_t seen = call.partitions_of(sequence, (item.vector_begin + i) / call.group);
        for (std::uint32_t partition = 1; partition < seen; ++partition) {
            const float* part = state + partition * call.partial_floats();
            call.kernels.merge(state + width, state + width + 1, state, part[width], part[width + 1], part,
                               call.chunks);
        }
        float* out = call.args.out + call.q_offset(sequence, item.kv_head, item.vector_begin + i);
        call.kernels.finish(state, state[width + 1], call.head_dim, out);
    }
}

/// The whole call as items that are not split, dearest work last to first within a sequence.
std::vector<Item> list_items(const Call& call) {
    std::vector<Item> items;
    for (std::uint32_t s = 0; s < call.args.sequences.size(); ++s) {
        const SequenceRows& sequence = call.args.sequences[s];
        const std::uint32_t vectors = sequence.rows * call.group;
        for (std::uint32_t head = 0; head < call.heads_kv; ++head) {
            for (std::uint32_t begin = 0; begin < vectors; begin += kItemVectors) {
                const std::uint32_t end = std::min(vectors, begin + kItemVectors);
                items.push_back({.sequence = s,
                                 .kv_head = head,
                                 .vector_begin = begin,
                                 .vector_end = end,
                                 .partition_end = call.partitions_of(sequence, (end - 1) / call.group)});
            }
        }
    }
    return items;
}

}  // namespace

void CpuBackend::attention(const base::ModelShape& shape, const AttentionArgs& args) {
    const kv_cache::KvLayout& layout = args.kv->layout();
    CHECK(layout.format().order == tile_order() && shape.head_dim <= kHeadDimMax && shape.head_dim % 2 == 0);
    Call call{.args = args,
              .kernels = kernels_,
              .format = kernels_of(layout.format().dtype),
              .layout = layout,
              .heads_q = shape.heads_q,
              .heads_kv = shape.heads_kv,
              .head_dim = shape.head_dim,
              .group = shape.heads_q / shape.heads_kv,
              .chunks = (shape.head_dim + 15) / 16,
              .partials = nullptr};
    const std::vector<Item> whole = list_items(call);
    const std::size_t wanted = pool_.threads() == 1 ? 0 : std::size_t{pool_.threads()} * kItemsPerThread;
    if (whole.size() >= wanted) {
        const auto tasks = static_cast<std::uint32_t>(std::min<std::size_t>(whole.size(), 4096));
        pool_.parallel(tasks, [&](std::uint32_t task) {
            for (std::size_t i = whole.size() * task / tasks; i < whole.size() * (task + 1) / tasks; ++i) {
                attend_item(call, whole[i]);
            }
        });
        return;
    }
    // Few items (a long context, few heads): their partitions are spread, then merged in order.
    std::vector<Item> pieces;
    std::size_t partials = 0;
    std::vector<Item> merges;
    const auto pieces_each =
        static_cast<std::uint32_t>((wanted + whole.size() - 1) / std::max<std::size_t>(whole.size(), 1));
    for (Item item : whole) {
        const std::uint32_t partitions = item.partition_end;
        const std::uint32_t count = std::min(pieces_each, partitions);
        if (count > 1) {
            item.split = true;
            item.partial_begin = partials;
            partials += std::size_t{item.vector_end - item.vector_begin} * partitions;
            merges.push_back(item);
        }
        for (std::uint32_t i = 0; i < count; ++i) {
            item.partition_begin = partitions * i / count;
            item.partition_end = partitions * (i + 1) / count;
            pieces.push_back(item);
        }
    }
    call.partials = reinterpret_cast<float*>(partials_.at_least(partials * call.partial_floats() * sizeof(float)));
    pool_.parallel(static_cast<std::uint32_t>(pieces.size()),
                   [&](std::uint32_t task) { attend_item(call, pieces[task]); });
    pool_.parallel(static_cast<std::uint32_t>(merges.size()),
                   [&](std::uint32_t task) { merge_item(call, merges[task]); });
}

}  // namespace engine
