#pragma once

#include <algorithm>
#include <numeric>

#include "tests/gpu/harness.h"

namespace gpu_check {

/// A block-major pool with shuffled blocks, on the host and on the device, for sequences of given lengths.
struct PagedKv {
    std::int32_t layers = 2;
    std::int32_t kv_heads = 1;
    std::int32_t head_dim = 64;
    std::int32_t block_tokens = 16;
    std::int32_t table_stride = 0;
    std::int32_t blocks = 0;
    std::vector<std::int32_t> tables;  // [sequences][table_stride], -1 where a sequence has no block
    std::vector<Bf16> pool;

    /// Blocks for `lengths[s]` tokens each, some more in between that belong to nobody.
    static PagedKv make(Checks& checks, std::int32_t kv_heads, std::int32_t head_dim, std::int32_t block_tokens,
                        const std::vector<std::int32_t>& lengths) {
        PagedKv kv;
        kv.kv_heads = kv_heads;
        kv.head_dim = head_dim;
        kv.block_tokens = block_tokens;
        std::int32_t needed = 0;
        for (const std::int32_t length : lengths) {
            const std::int32_t count = (length + block_tokens - 1) / block_tokens;
            needed += count;
            kv.table_stride = std::max(kv.table_stride, count);
        }
        kv.table_stride += 1;
        kv.blocks = needed + 3;
        std::vector<std::int32_t> order(static_cast<std::size_t>(kv.blocks));
        std::iota(order.begin(), order.end(), 0);
        std::shuffle(order.begin(), order.end(), checks.random);
        kv.tables.assign(lengths.size() * static_cast<std::size_t>(kv.table_stride), -1);
        std::size_t next = 0;
        for (std::size_t s = 0; s < lengths.size(); ++s) {
            const std::int32_t count = (lengths[s] + block_tokens - 1) / block_tokens;
            for (std::int32_t i = 0; i < count; ++i) {
                kv.tables[s * static_cast<std::size_t>(kv.table_stride) + static_cast<std::size_t>(i)] = order[next++];
            }
        }
        // NaN everywhere: what nobody wrote must not be seen.
        kv.pool.assign(static_cast<std::size_t>(kv.blocks) * kv.block_elements(), 0xffff);
        return kv;
    }

    std::size_t tile_elements() const { return static_cast<std::size_t>(block_tokens * head_dim); }
    std::size_t layer_elements() const { return 2 * static_cast<std::size_t>(kv_heads) * tile_elements(); }
    std::size_t block_elements() const { return static_cast<std::size_t>(layers) * layer_elements(); }

    /// Index in `pool` of dim 0 of a key (part 0) or value (part 1).
    std::size_t at(std::int32_t sequence, std::int32_t layer, std::int32_t part, std::int32_t head,
                   std::int32_t position) const {
        const std::int32_t block = tables[static_cast<std::size_t>(sequence * table_stride + position / block_tokens)];
        return static_cast<std::size_t>(block) * block_elements() + static_cast<std::size_t>(layer) * layer_elements() +
               static_cast<std::size_t>(part * kv_heads + head) * tile_elements() +
               static_cast<std::size_t>(position % block_tokens * head_dim);
    }

    /// Random keys and values for the first `length` tokens of a sequence, in all layers.
    void fill(Checks& checks, std::int32_t sequence, std::int32_t length) {
        std::normal_distribution<float> normal;
        for (std::int32_t layer = 0; layer < layers; ++layer) {
            for (std::int32_t part = 0; part < 2; ++part) {
                for (std::int32_t head = 0; head < kv_heads; ++head) {
                    for (std::int32_t position = 0; position < length; ++position) {
                        Bf16* to = pool.data() + at(sequence, layer, part, head, position);
                        for (std::int32_t i = 0; i < head_dim; ++i) {
                            to[i] = bf16_of(normal(checks.random));
                        }
                    }
                }
            }
        }
    }

    engine::cuda::KvLayer layer_view(Bf16* device_pool, std::int32_t layer) const {
        engine::cuda::KvLayer view;
        view.base = reinterpret_cast<std::byte*>(device_pool);
        view.block_bytes = block_elements() * sizeof(Bf16);
        view.layer_offset = static_cast<std::size_t>(layer) * layer_elements() * sizeof(Bf16);
        view.tile_bytes = tile_elements() * sizeof(Bf16);
        view.kv_heads = kv_heads;
        view.head_dim = head_dim;
        view.block_tokens = block_tokens;
        return view;
    }
};

}  // namespace gpu_check
