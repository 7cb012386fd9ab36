#include "base/block_hash.h"

#include <bit>
#include <cstring>
#include <random>

#include "base/check.h"

namespace base {
namespace {

struct SipState {
    std::uint64_t v0, v1, v2, v3;

    void round() {
        v0 += v1;
        v1 = std::rotl(v1, 13) ^ v0;
        v0 = std::rotl(v0, 32);
        v2 += v3;
        v3 = std::rotl(v3, 16) ^ v2;
        v0 += v3;
        v3 = std::rotl(v3, 21) ^ v0;
        v2 += v1;
        v1 = std::rotl(v1, 17) ^ v2;
        v2 = std::rotl(v2, 32);
    }
    void absorb(std::uint64_t word) {
        v3 ^= word;
        round();
        round();
        v0 ^= word;
    }
    std::uint64_t finish() {
        for (int i = 0; i < 4; ++i) {
            round();
        }
        return v0 ^ v1 ^ v2 ^ v3;
    }
};

std::uint64_t load_word(const std::byte* data, std::size_t bytes) {
    std::uint64_t word = 0;
    std::memcpy(&word, data, bytes);  // little-endian machines only, like the rest of Sluice
    return word;
}
static_assert(std::endian::native == std::endian::little);

void append(std::vector<std::byte>& out, const void* data, std::size_t bytes) {
    const auto* begin = static_cast<const std::byte*>(data);
    out.insert(out.end(), begin, begin + bytes);
}

void append_string(std::vector<std::byte>& out, std::string_view text) {
    const auto size = static_cast<std::uint64_t>(text.size());
    append(out, &size, sizeof size);
    append(out, text.data(), text.size());
}

int hex_digit(char digit) {
    if (digit >= '0' && digit <= '9') { return digit - '0'; }
    if (digit >= 'a' && digit <= 'f') { return digit - 'a' + 10; }
    if (digit >= 'A' && digit <= 'F') { return digit - 'A' + 10; }
    return -1;
}

}  // namespace

Result<HashKey> parse_hash_key(std::string_view hex) {
    HashKey key;
    if (hex.size() != 2 * key.bytes.size()) {
        return fail(ErrorCode::invalid_argument,
                    "a cluster key has 32 hexadecimal digits, got " + std::to_string(hex.size()) + " characters");
    }
    for (std::size_t i = 0; i < key.bytes.size(); ++i) {
        const int high = hex_digit(hex[2 * i]);
        const int low = hex_digit(hex[2 * i + 1]);
        if (high < 0 || low < 0) {
            return fail(ErrorCode::invalid_argument, "a cluster key has hexadecimal digits only");
        }
        key.bytes[i] = static_cast<std::byte>(16 * high + low);
    }
    return key;
}

std::string format_hash_key(const HashKey& key) {
    static constexpr char kDigits[] = "0123456789abcdef";
    std::string hex;
    for (const std::byte byte : key.bytes) {
        hex += kDigits[std::to_integer<unsigned>(byte) >> 4];
        hex += kDigits[std::to_integer<unsigned>(byte) & 15];
    }
    return hex;
}

HashKey random_hash_key() {
    std::random_device source;
    HashKey key;
    for (std::byte& byte : key.bytes) {
        byte = static_cast<std::byte>(source() & 0xff);
    }
    return key;
}

KeyedHasher::KeyedHasher(const HashKey& key) {
    const std::uint64_t k0 = load_word(key.bytes.data(), 8);
    const std::uint64_t k1 = load_word(key.bytes.data() + 8, 8);
    state_ = {0x736f6d6570736575ull ^ k0, 0x646f72616e646f6dull ^ k1 ^ 0xee, 0x6c7967656e657261ull ^ k0,
              0x7465646279746573ull ^ k1};
}

void KeyedHasher::add(std::span<const std::byte> piece) {
    CHECK(bytes_ % 8 == 0, "a piece of " << bytes_ << " bytes before the last one");
    SipState state{state_[0], state_[1], state_[2], state_[3]};
    std::size_t at = 0;
    for (; at + 8 <= piece.size(); at += 8) {
        state.absorb(load_word(piece.data() + at, 8));
    }
    if (at < piece.size()) { tail_ = load_word(piece.data() + at, piece.size() - at); }
    bytes_ += piece.size();
    state_ = {state.v0, state.v1, state.v2, state.v3};
}

BlockHash KeyedHasher::finish() {
    SipState state{state_[0], state_[1], state_[2], state_[3]};
    state.absorb(bytes_ << 56 | tail_);
    state.v2 ^= 0xee;
    BlockHash hash;
    hash.low = state.finish();
    state.v1 ^= 0xdd;
    hash.high = state.finish();
    return hash;
}

BlockHash keyed_hash(const HashKey& key, std::span<const std::byte> data) {
    KeyedHasher hasher(key);
    hasher.add(data);
    return hasher.finish();
}

BlockHash chain_root(const HashKey& key, const HashScope& scope) {
    std::vector<std::byte> data;
    append_string(data, scope.cache_scope);
    append(data, &scope.numerics_id, sizeof scope.numerics_id);
    append_string(data, scope.adapter);
    append(data, &scope.block_tokens, sizeof scope.block_tokens);
    return keyed_hash(key, data);
}

BlockHash chain_next(const HashKey& key, BlockHash previous, std::span<const TokenId> block) {
    std::vector<std::byte> data;
    data.reserve(sizeof previous + block.size_bytes());
    append(data, &previous.high, sizeof previous.high);
    append(data, &previous.low, sizeof previous.low);
    append(data, block.data(), block.size_bytes());
    return keyed_hash(key, data);
}

std::vector<BlockHash> block_hash_chain(const HashKey& key, const HashScope& scope, std::span<const TokenId> tokens) {
    CHECK(scope.block_tokens > 0);
    std::vector<BlockHash> chain;
    chain.reserve(tokens.size() / scope.block_tokens);
    BlockHash link = chain_root(key, scope);
    for (std::size_t at = 0; at + scope.block_tokens <= tokens.size(); at += scope.block_tokens) {
        link = chain_next(key, link, tokens.subspan(at, scope.block_tokens));
        chain.push_back(link);
    }
    return chain;
}

}  // namespace base
