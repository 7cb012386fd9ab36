#include <algorithm>
#include <cstring>
#include <span>
#include <vector>

#include "base/check.h"
#include "engine/kernels/cpu/cpu_backend.h"

// Attention: which thread does what. The numbers of a query vector come from partitions of keys at fixed positions,
// merged in ascending order; how vectors and partitions are dealt out below does not change them.

namespace engine {
namespace {

/// Query vectors of one item at most: enough to pay for copying the keys of a partition to one place.
constexpr std::uint32_t kItemVectors = 384;
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
    const KvKernels& format;
    const kv_cache::KvLayout& layout;
    std::uint32_t heads_q;
    std::uint32_t heads_kv;
    std::uint32_t head_dim;
    std::uint32_t group;   // query heads that share a KV head
    std::uint32_t chunks;  // of 16 dims
    float* partials;       // [partial]: weighted [16 * chunks], then largest and sum

    std::size_t partial_floats() const { return std::size_t{chunks} * 16 + 16; }  // a multiple of a cache line
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
        if ((row + 1) * lane_elements <= tokens) {
            std::memcpy(target, source, std::size_t{head_dim} * 4);
            std::memset(target + std::size_t{head_dim} * 4, 0, row_bytes - std::size_t{head_dim} * 4);
            continue;
        }
        std::memset(target, 0, row_bytes);
        if (row * lane_elements < tokens) {  // the first of a pair of bf16
            for (std::uint32_t d = 0; d < head_dim; ++d) {
                std::memcpy(target + d * 4, source + d * 4, 2);
            }
        }
    }
}

/// The tiles of one partition of one KV head. Places past the last tile repeat it.
struct Tiles {
    const std::byte* k[kPartitionTiles];
    const std::byte* v[kPartitionTiles];
    std::size_t k_stride;
    std::size_t v_stride;
};

/// Where the store has them. `keys`: of the partition that exist.
Tiles locate(const Call& call, const Item& item, std::uint32_t first_key, std::uint32_t keys) {
    const SequenceRows& sequence = call.args.sequences[item.sequence];
    const std::uint32_t block_tokens = call.layout.block_tokens();
    const std::uint32_t e = call.format.lane_elements;
    Tiles tiles;
    tiles.k_stride = std::size_t{block_tokens} * 4;
    tiles.v_stride = std::size_t{call.head_dim} * 4;
    for (std::uint32_t t = 0; t < kPartitionTiles; ++t) {
        if (t * kTileTokens >= keys) {
            tiles.k[t] = tiles.k[t - 1];
            tiles.v[t] = tiles.v[t - 1];
            continue;
        }
        const std::uint32_t position = first_key + t * kTileTokens;
        const base::BlockId block = sequence.blocks[position / block_tokens];
        const std::uint32_t token = position % block_tokens;
        using kv_cache::KvPart;
        tiles.k[t] = call.args.kv->tile(block, call.args.layer, KvPart::k, item.kv_head) + std::size_t{token} * 4;
        tiles.v[t] = call.args.kv->tile(block, call.args.layer, KvPart::v, item.kv_head) + token / e * tiles.v_stride;
    }
    return tiles;
}

/// Copies to `room` what must not be read in place: everything when many vectors will read it, else the last values,
/// which may lie before others that are not numbers.
void prepare(const Call& call, const Item& item, std::uint32_t keys, std::byte* room, Tiles* tiles) {
    const std::uint32_t head_lanes = call.head_dim / call.format.lane_elements;
    const bool copy = item.vector_end - item.vector_begin >= kCopyFromVectors || call.head_dim % 16 != 0;
    const std::size_t k_stride = copy ? kPanelRowBytes : tiles->k_stride;
    const std::size_t v_stride = copy ? call.chunks * kPanelRowBytes : tiles->v_stride;
    for (std::uint32_t t = 0; t * kTileTokens < keys; ++t) {
        const std::uint32_t tokens = std::min(keys - t * kTileTokens, kTileTokens);
        if (copy) {
            for (std::uint32_t i = 0; i < head_lanes; ++i) {
                std::memcpy(room + i * kPanelRowBytes, tiles->k[t] + i * tiles->k_stride, kPanelRowBytes);
            }
            tiles->k[t] = room;
            room += head_lanes * kPanelRowBytes;
        }
        if (copy || tokens < kTileTokens) {
            copy_values(tiles->v[t], tokens, call.format.lane_elements, call.head_dim, v_stride, room);
            tiles->v[t] = room;
            room += kTileTokens / call.format.lane_elements * v_stride;
        }
    }
    tiles->k_stride = k_stride;
    tiles->v_stride = v_stride;
}

/// Keys of the item's sequence that its last vector sees.
std::uint32_t keys_end_of(const Call& call, const Item& item) {
    return call.args.sequences[item.sequence].position + (item.vector_end - 1) / call.group + 1;
}

/// The scratch memory of one thread's work on one item.
struct Workspace {
    static constexpr std::size_t kStatePadding = 16;  // floats behind `weighted` for largest and sum

    Workspace(const Call& call, std::size_t vectors) {
        thread_local Scratch scratch;
        const std::size_t width = std::size_t{call.chunks} * 16;
        const std::size_t lanes = call.head_dim / call.format.lane_elements;
        query_bytes = (lanes + call.format.lane_multiple - 1) / call.format.lane_multiple * call.format.lane_multiple *
                      call.format.lane_bytes;
        const std::size_t room_bytes =
            kPartitionTiles * 2 * std::size_t{kTileTokens} / call.format.lane_elements * width * 4;
        state_floats = width + kStatePadding;
        room = scratch.at_least(room_bytes + (vectors + kBlockVectorsMax) * state_floats * sizeof(float) +
                                vectors * query_bytes);
        states = reinterpret_cast<float*>(room + room_bytes);
        part = states + vectors * state_floats;
        queries = reinterpret_cast<std::byte*>(part + kBlockVectorsMax * state_floats);
    }

    std::size_t query_bytes = 0;   // of one packed query
    std::size_t state_floats = 0;  // of one vector's state
    std::byte* room = nullptr;     // of copies of one partition's K and V
    float* states = nullptr;       // [vectors]: weighted [16 * chunks], largest, sum
    float* part = nullptr;         // [kBlockVectorsMax][16 * chunks]
    std::byte* queries = nullptr;  // [block of vectors][lane][vector]
};

/// All vectors of the item against one partition.
void attend_partition(const Call& call, const Item& item, std::uint32_t partition, const Tiles& tiles,
                      const Tiles* ahead, const Workspace& space) {
    const SequenceRows& sequence = call.args.sequences[item.sequence];
    const std::uint32_t vectors = item.vector_end - item.vector_begin;
    const std::uint32_t first_key = partition * kPartitionTokens;
    const std::size_t width = std::size_t{call.chunks} * 16;
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
        const bool is_ahead = begin == 0 && ahead != nullptr;
        call.format.attend({.q = space.queries + begin * space.query_bytes,
                            .vectors = count,
                            .head_lanes = call.head_dim / call.format.lane_elements,
                            .chunks = call.chunks,
                            .k = tiles.k,
                            .v = tiles.v,
                            .k_stride = tiles.k_stride,
                            .v_stride = tiles.v_stride,
                            .tiles = (most + kTileTokens - 1) / kTileTokens,
                            .k_ahead = is_ahead ? ahead->k : nullptr,
                            .v_ahead = is_ahead ? ahead->v : nullptr,
                            .visible = visible,
                            .scale_log2 = call.args.scale * 1.44269504f,
                            .largest = largest,
                            .sum = sum,
                            .weighted = space.part});
        for (std::uint32_t i = 0; i < count; ++i) {
            if (visible[i] == 0) { continue; }
            const float* part = space.part + i * width;
            float* state = space.states + (begin + i) * space.state_floats;
            if (item.split) {
                const std::size_t partitions = call.partitions_of(sequence, (item.vector_end - 1) / call.group);
                state =
                    call.partials + (item.partial_begin + (begin + i) * partitions + partition) * call.partial_floats();
            }
            if (item.split || partition == 0) {
                std::memcpy(state, part, width * sizeof(float));
                state[width] = largest[i];
                state[width + 1] = sum[i];
            } else {
                call.kernels.merge(state + width, state + width + 1, state, largest[i], sum[i], part, call.chunks);
            }
        }
    }
}

/// Items one after the other; while one partition is worked on, the next one (of the same or the next item) comes near.
void attend_items(const Call& call, std::span<const Item> items) {
    std::size_t most_vectors = 0;
    for (const Item& item : items) {
        most_vectors = std::max<std::size_t>(most_vectors, item.vector_end - item.vector_begin);
    }
    const Workspace space{call, most_vectors};
    const auto keys_of = [&](const Item& item, std::uint32_t partition) {
        return std::min(keys_end_of(call, item) - partition * kPartitionTokens, kPartitionTokens);
    };
    const auto located = [&](const Item& item, std::uint32_t partition) {
        return locate(call, item, partition * kPartitionTokens, keys_of(item, partition));
    };
    Tiles next = located(items[0], items[0].partition_begin);
    for (std::size_t i = 0; i < items.size(); ++i) {
        const Item& item = items[i];
        const SequenceRows& sequence = call.args.sequences[item.sequence];
        const std::uint32_t vectors = item.vector_end - item.vector_begin;
        for (std::uint32_t v = 0; v < vectors; ++v) {
            const float* q =
                static_cast<const float*>(call.args.q) + call.q_offset(sequence, item.kv_head, item.vector_begin + v);
            const std::uint32_t first = v / call.format.block_vectors * call.format.block_vectors;
            const std::uint32_t count = std::min(vectors - first, call.format.block_vectors);
            call.format.pack_query(q, call.head_dim, v - first, count, space.queries + first * space.query_bytes);
        }
        for (std::uint32_t partition = item.partition_begin; partition < item.partition_end; ++partition) {
            Tiles tiles = next;
            const bool is_last = partition + 1 == item.partition_end;
            const bool is_ahead = !is_last || i + 1 < items.size();
            if (!is_last) {
                next = located(item, partition + 1);
            } else if (is_ahead) {
                next = located(items[i + 1], items[i + 1].partition_begin);
            }
            prepare(call, item, keys_of(item, partition), space.room, &tiles);
            attend_partition(call, item, partition, tiles, is_ahead ? &next : nullptr, space);
        }
        if (item.split) { continue; }
        const std::size_t width = std::size_t{call.chunks} * 16;
        for (std::uint32_t v = 0; v < vectors; ++v) {
            const float* from = space.states + v * space.state_floats;
            float* out =
                static_cast<float*>(call.args.out) + call.q_offset(sequence, item.kv_head, item.vector_begin + v);
            call.kernels.finish(from, from[width + 1], call.head_dim, out);
        }
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
        float* out = static_cast<float*>(call.args.out) + call.q_offset(sequence, item.kv_head, item.vector_begin + i);
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
        // One thread takes all in a row, so that each item brings its successor near.
        const auto tasks = static_cast<std::uint32_t>(std::min(whole.size(), std::max<std::size_t>(wanted, 1)));
        pool_.parallel(tasks, [&](std::uint32_t task) {
            const std::size_t begin = whole.size() * task / tasks;
            attend_items(call, std::span{whole}.subspan(begin, whole.size() * (task + 1) / tasks - begin));
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
                   [&](std::uint32_t task) { attend_items(call, {&pieces[task], 1}); });
    pool_.parallel(static_cast<std::uint32_t>(merges.size()),
                   [&](std::uint32_t task) { merge_item(call, merges[task]); });
}

}  // namespace engine
