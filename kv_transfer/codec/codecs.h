#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "kv_transfer/codec/codec.h"
#include "kv_transfer/codec/kv_profile.h"

namespace kv_transfer {

/// Without loss: exponents entropy coded, signs and mantissas as they are. Level 0.
std::unique_ptr<Codec> make_exact_codec(std::uint64_t numerics_id = 0);

/// A scale for each token and head, a byte for each value. Level 0.
std::unique_ptr<Codec> make_int8_codec(std::uint64_t numerics_id = 0);

/// CacheGen's quantiser as released (a scale for each token, bins by depth; levels 1 to 3, the finest last), with
/// static tables in place of a distribution in each chunk. Tokens in groups of ten predict from their first one by a
/// coefficient for each channel, which is 0 where that does not pay. Source: Liu et al., SIGCOMM 2024. Levels 4 to 6,
/// the finest last, need a quarter fewer bits for the same: docs/decisions/0096.
std::unique_ptr<Codec> make_cachegen_codec(std::uint64_t numerics_id = 0);

/// Ours: keys as they were before their rotation, the mean of each channel removed, steps by what attention sees.
/// Levels 0 (fine) to kSluiceLevels - 1 (about one bit a value). `rotary` empty: keys are coded as they are. Both are
/// shared and do not change.
inline constexpr std::uint32_t kSluiceLevels = 8;
std::unique_ptr<Codec> make_sluice_codec(std::uint64_t numerics_id, std::shared_ptr<const RotaryTable> rotary,
                                         std::shared_ptr<const KvProfile> profile);

/// By name. Error: not_found, with the names there are.
base::Result<std::unique_ptr<Codec>> make_codec(std::string_view name, std::uint64_t numerics_id,
                                                std::shared_ptr<const RotaryTable> rotary,
                                                std::shared_ptr<const KvProfile> profile);

}  // namespace kv_transfer
