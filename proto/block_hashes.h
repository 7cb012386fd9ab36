#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/block_hash.h"
#include "base/result.h"
#include "proto/version.h"

namespace sluice::proto {

/// One block hash in a `bytes` field: high, then low, each little-endian.
inline constexpr std::size_t kBlockHashBytes = 16;

std::string write_block_hashes(std::span<const base::BlockHash> hashes);

/// Error: invalid_argument when the length is no multiple of a hash's.
base::Result<std::vector<base::BlockHash>> read_block_hashes(std::string_view bytes);

/// The hash in bytes [16 index, 16 index + 16), which must be there.
base::BlockHash block_hash_at(std::string_view bytes, std::size_t index);

}  // namespace sluice::proto
