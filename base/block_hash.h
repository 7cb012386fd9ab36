#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "base/result.h"

namespace base {

/// Name of a full KV block: depends on every token up to its end and on everything else that shapes its numbers.
struct BlockHash {
    std::uint64_t high = 0;
    std::uint64_t low = 0;
    auto operator<=>(const BlockHash&) const = default;
};

/// The secret of a cluster (128 bit): who does not know it can neither predict nor collide block hashes.
struct HashKey {
    std::array<std::byte, 16> bytes{};
    bool operator==(const HashKey&) const = default;
};

/// 32 hexadecimal digits. Error: invalid_argument.
Result<HashKey> parse_hash_key(std::string_view hex);
std::string format_hash_key(const HashKey& key);
/// From the operating system's random source.
HashKey random_hash_key();

/// SipHash-2-4 with 128-bit output (Aumasson and Bernstein, 2012; reference vectors in the test).
BlockHash keyed_hash(const HashKey& key, std::span<const std::byte> data);

/// keyed_hash() of data that comes in pieces.
class KeyedHasher {
public:
    explicit KeyedHasher(const HashKey& key);
    /// Every piece but the last: a multiple of 8 bytes.
    void add(std::span<const std::byte> piece);
    BlockHash finish();

private:
    std::array<std::uint64_t, 4> state_;
    std::uint64_t bytes_ = 0;
    std::uint64_t tail_ = 0;  // bytes beyond the last multiple of 8
};

/// What all blocks of one chain have in common. Two requests share KV only when all of it is equal.
struct HashScope {
    std::string cache_scope;        // tenant and cache_salt; empty: shared by all
    std::uint64_t numerics_id = 0;  // engine: weights, formats, kernels, shards
    std::string adapter;            // empty: none
    std::uint32_t block_tokens = 16;
};

/// Hashes of the full blocks of `tokens`, first to last; the incomplete tail has none. `tokens.size() / block_tokens`
/// values.
std::vector<BlockHash> block_hash_chain(const HashKey& key, const HashScope& scope, std::span<const TokenId> tokens);

/// The first link of the chain, before any token.
BlockHash chain_root(const HashKey& key, const HashScope& scope);
/// The link after `previous`, for one full block of tokens.
BlockHash chain_next(const HashKey& key, BlockHash previous, std::span<const TokenId> block);

}  // namespace base

template <>
struct std::hash<base::BlockHash> {
    std::size_t operator()(const base::BlockHash& value) const noexcept { return static_cast<std::size_t>(value.low); }
};
