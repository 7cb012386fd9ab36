#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kv_transfer/codec/rans_kernels.h"

namespace bench {

/// What an arithmetic coder takes that codes one symbol after the other, to compare the interleaved one with: a range
/// coder (Martin, 1979) of 32 bits with carries, bytes out, over the same tables. No server uses it.

/// `symbols` below kRansSymbols, all by one table. The bytes.
std::vector<std::byte> range_encode(const kv_transfer::RansTable& table, std::span<const std::uint8_t> symbols);

/// As many symbols as there is room for, of bytes that range_encode() made by the same table.
void range_decode(const kv_transfer::RansTable& table, std::span<const std::byte> coded,
                  std::span<std::uint8_t> symbols);

}  // namespace bench
