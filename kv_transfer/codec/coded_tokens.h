#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kv_transfer/codec/chunk.h"

namespace kv_transfer {

/// What codecs that quantise share: which tokens of a chunk are coded, and the means of their channels.

inline constexpr std::uint32_t kSinkTokens = 4;  // attention leans on the first ones far more than on others

/// The coded tokens of a chunk; those before and behind them travel as they are (ChunkHeader::raw_first, raw_last).
struct Coded {
    std::uint32_t first = 0;  // in the chunk
    std::uint32_t tokens = 0;
};

/// Angles by which keys were turned: of the first coded token, [tokens][head_dim / 2]; null: none.
struct Rotation {
    const float* cosines = nullptr;
    const float* sines = nullptr;
};

/// The spread of a plane's values, and whether the means of its channels pay for being sent.
struct PlaneFit {
    float deviation = 0;  // around the means, where they pay
    bool has_means = false;
};
/// Of `values`, a plane of a chunk, seen from some rows. `means`: [channels], as bf16 keeps them; 0 where they do not
/// pay.
PlaneFit fit_plane(const ChunkShape& shape, const std::byte* values, const Coded& coded, const Rotation& rotation,
                   std::span<float> means);

/// Means as they travel, bf16 by channel, and back (as many as `means` has). False: one that is no number.
void put_means(std::span<const float> means, BackwardBytes& out);
bool read_means(std::span<const std::byte> bytes, std::span<float> means);

/// The tokens that travel as they are (plane, head, token), out of a chunk's values and back into them.
void put_raw_tokens(const ChunkShape& shape, const Coded& coded, std::span<const std::byte> raw, BackwardBytes& out);
/// False: there are too few bytes.
bool take_raw_tokens(const ChunkShape& shape, const Coded& coded, SectionReader& plain, std::span<std::byte> out);

}  // namespace kv_transfer
