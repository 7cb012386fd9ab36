#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/model_shape.h"
#include "kv_cache/kv_layout.h"
#include "kv_transfer/codec/codecs.h"

namespace kv_test {

/// A number below `end`.
inline std::uint32_t below(std::mt19937& random, std::size_t end) {
    return static_cast<std::uint32_t>(random() % end);
}

struct ChunkCase {
    kv_cache::KvLayout layout;
    kv_cache::KvRange range;
    std::vector<std::byte> raw;
};

inline kv_cache::KvLayout chunk_layout(std::uint32_t layers, std::uint32_t heads, std::uint32_t head_dim,
                                       bool is_bf16) {
    base::ModelShape shape;
    shape.layers = layers;
    shape.heads_q = heads;
    shape.heads_kv = heads;
    shape.head_dim = head_dim;
    return *kv_cache::KvLayout::make(shape, {.dtype = is_bf16 ? kv_cache::KvDtype::bf16 : kv_cache::KvDtype::f32}, 16);
}

inline void put_value(std::vector<std::byte>& raw, bool is_bf16, std::size_t index, float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    if (is_bf16) {
        const auto half = static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
        std::memcpy(raw.data() + index * 2, &half, sizeof half);
    } else {
        std::memcpy(raw.data() + index * 4, &bits, sizeof bits);
    }
}

inline float value_at(const std::vector<std::byte>& raw, bool is_bf16, std::size_t index) {
    std::uint32_t bits = 0;
    if (is_bf16) {
        std::uint16_t half;
        std::memcpy(&half, raw.data() + index * 2, sizeof half);
        bits = std::uint32_t{half} << 16;
    } else {
        std::memcpy(&bits, raw.data() + index * 4, sizeof bits);
    }
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

enum class Content { normal, correlated, any_bits, zeros, outliers };

/// KV of some shape, whose values are of `content`: normal with a deviation and a mean of each channel, the same with
/// tokens that follow each other, any bits at all, zeros, or normal with a few that are far larger.
inline ChunkCase make_chunk_case(std::mt19937& random, Content content) {
    const bool is_bf16 = below(random, 3) != 0;
    const std::uint32_t dims[] = {8, 24, 64, 64, 128, 6};
    const std::uint32_t head_dim = dims[below(random, 6)];
    const std::uint32_t heads = 1 + below(random, 4);
    const std::uint32_t layers = 1 + below(random, 4);
    const std::uint32_t layer_begin = below(random, layers);
    const std::uint32_t tokens = below(random, 3) == 0 ? 1 + below(random, 150) : 1 + below(random, 40);
    const std::uint32_t token_begin = below(random, 3) == 0 ? 0 : below(random, 300);
    ChunkCase made{
        chunk_layout(layers, heads, head_dim, is_bf16),
        {layer_begin, layer_begin + 1 + below(random, layers - layer_begin), token_begin, token_begin + tokens},
        {}};
    made.raw.resize(made.layout.wire_bytes(made.range));
    std::normal_distribution<float> normal;
    const std::size_t planes = std::size_t{2} * made.range.layers() * heads;
    for (std::size_t plane = 0; plane < planes; ++plane) {
        for (std::uint32_t dim = 0; dim < head_dim; ++dim) {
            const float deviation = std::exp(normal(random));
            const float mean = below(random, 4) == 0 ? 3 * normal(random) : 0.0f;
            float before = normal(random);
            for (std::uint32_t token = 0; token < tokens; ++token) {
                const std::size_t index = (plane * tokens + token) * head_dim + dim;
                float value = normal(random);
                if (content == Content::correlated) { value = 0.99f * before + 0.14f * value; }
                before = value;
                value = mean + deviation * value;
                if (content == Content::outliers && below(random, 97) == 0) { value *= 100; }
                if (content == Content::zeros) { value = 0; }
                put_value(made.raw, is_bf16, index, value);
            }
        }
    }
    if (content == Content::any_bits) {
        for (std::byte& byte : made.raw) {
            byte = static_cast<std::byte>(random());
        }
    }
    return made;
}

inline std::shared_ptr<const kv_transfer::RotaryTable> make_rotary(std::uint32_t head_dim, std::uint32_t positions) {
    auto table = std::make_shared<kv_transfer::RotaryTable>();
    table->head_dim = head_dim;
    table->positions = positions;
    for (std::uint32_t position = 0; position < positions; ++position) {
        for (std::uint32_t pair = 0; pair < head_dim / 2; ++pair) {
            const double angle = position * std::pow(10000.0, -2.0 * pair / head_dim);
            table->cosines.push_back(static_cast<float>(std::cos(angle)));
            table->sines.push_back(static_cast<float>(std::sin(angle)));
        }
    }
    return table;
}

inline std::shared_ptr<const kv_transfer::KvProfile> make_profile(const kv_cache::KvLayout& layout,
                                                                  std::uint64_t numerics_id, std::mt19937& random) {
    auto profile = std::make_shared<kv_transfer::KvProfile>();
    profile->numerics_id = numerics_id;
    profile->layers = layout.layers();
    profile->kv_heads = layout.kv_heads();
    profile->head_dim = layout.head_dim();
    std::normal_distribution<float> normal;
    for (std::size_t i = 0; i < profile->channels(); ++i) {
        profile->means.push_back(normal(random));
        profile->steps.push_back(std::exp(0.3f * normal(random)));
    }
    return profile;
}

inline std::vector<std::byte> encode_chunk(const kv_transfer::Codec& codec, const ChunkCase& chunk,
                                           std::uint32_t level) {
    std::vector<std::byte> out(codec.bound(chunk.raw.size()));
    out.resize(codec.encode(chunk.layout, chunk.range, level, chunk.raw, out).value());
    return out;
}

}  // namespace kv_test
