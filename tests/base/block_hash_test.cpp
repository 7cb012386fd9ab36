#include "base/block_hash.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>
#include <set>
#include <string>

#include "tests/support/catch.h"

namespace {

base::HashKey counting_key() {
    base::HashKey key;
    for (std::size_t i = 0; i < key.bytes.size(); ++i) {
        key.bytes[i] = static_cast<std::byte>(i);
    }
    return key;
}

/// The 16 bytes as the reference implementation prints them: first word first, each little-endian.
std::string hex(const base::BlockHash& hash) {
    base::HashKey bytes;
    std::memcpy(bytes.bytes.data(), &hash.low, 8);
    std::memcpy(bytes.bytes.data() + 8, &hash.high, 8);
    return base::format_hash_key(bytes);
}

std::vector<base::TokenId> counting_tokens(std::size_t count) {
    std::vector<base::TokenId> tokens(count);
    std::iota(tokens.begin(), tokens.end(), 100);
    return tokens;
}

}  // namespace

TEST_CASE("SipHash-2-4 with 128 bits gives the reference vectors", "[base]") {
    // Key 00..0f, message 00 01 .. of the given length (vectors_sip128 of the authors' implementation).
    struct Row {
        std::size_t length;
        const char* expected;
    };
    static const std::array<Row, 10> rows = {{
        {0, "a3817f04ba25a8e66df67214c7550293"},
        {1, "da87c1d86b99af44347659119b22fc45"},
        {7, "a1f1ebbed8dbc153c0b84aa61ff08239"},
        {8, "3b62a9ba6258f5610f83e264f31497b4"},
        {9, "264499060ad9baabc47f8b02bb6d71ed"},
        {15, "5493e99933b0a8117e08ec0f97cfc3d9"},
        {16, "6ee2a4ca67b054bbfd3315bf85230577"},
        {31, "2939b0183223fafc1723de4f52c43d35"},
        {32, "7c3956ca5eeafc3e363e9d556546eb68"},
        {63, "5150d1772f50834a503e069a973fbd7c"},
    }};
    for (const Row& row : rows) {
        std::vector<std::byte> message(row.length);
        for (std::size_t i = 0; i < row.length; ++i) {
            message[i] = static_cast<std::byte>(i);
        }
        CAPTURE(row.length);
        REQUIRE(hex(base::keyed_hash(counting_key(), message)) == row.expected);
        base::KeyedHasher in_pieces(counting_key());
        const std::size_t cut = row.length / 2 / 8 * 8;
        in_pieces.add(std::span(message).first(cut));
        in_pieces.add(std::span(message).subspan(cut));
        REQUIRE(hex(in_pieces.finish()) == row.expected);
    }
}

TEST_CASE("the chain names full blocks only and each by all tokens up to its end", "[base]") {
    const base::HashScope scope;
    const auto tokens = counting_tokens(50);
    const auto chain = base::block_hash_chain(counting_key(), scope, tokens);
    REQUIRE(chain.size() == 3);
    REQUIRE(base::block_hash_chain(counting_key(), scope, std::span(tokens).first(48)) == chain);
    REQUIRE(base::block_hash_chain(counting_key(), scope, std::span(tokens).first(15)).empty());

    auto changed = tokens;
    changed[16] += 1;
    const auto other = base::block_hash_chain(counting_key(), scope, changed);
    REQUIRE(other[0] == chain[0]);
    REQUIRE(other[1] != chain[1]);
    REQUIRE(other[2] != chain[2]);  // its own tokens are the same, its past is not
}

TEST_CASE("the chain is made of its links", "[base]") {
    const base::HashScope scope{"tenant", 7, "adapter", 4};
    const auto tokens = counting_tokens(12);
    base::BlockHash link = base::chain_root(counting_key(), scope);
    std::vector<base::BlockHash> links;
    for (std::size_t at = 0; at < tokens.size(); at += 4) {
        link = base::chain_next(counting_key(), link, std::span(tokens).subspan(at, 4));
        links.push_back(link);
    }
    REQUIRE(base::block_hash_chain(counting_key(), scope, tokens) == links);
}

TEST_CASE("every part of the scope and the key change all hashes", "[base]") {
    const auto tokens = counting_tokens(32);
    std::set<base::BlockHash> first_links;
    const auto add = [&](const base::HashKey& key, const base::HashScope& scope) {
        first_links.insert(base::block_hash_chain(key, scope, tokens).front());
    };
    add(counting_key(), {});
    add(counting_key(), {.cache_scope = "a", .numerics_id = 0, .adapter = "", .block_tokens = 16});
    add(counting_key(), {.cache_scope = "", .numerics_id = 1, .adapter = "", .block_tokens = 16});
    add(counting_key(), {.cache_scope = "", .numerics_id = 0, .adapter = "a", .block_tokens = 16});
    add(counting_key(), {.cache_scope = "", .numerics_id = 0, .adapter = "", .block_tokens = 32});
    // Text does not slide from one field into the next.
    add(counting_key(), {.cache_scope = "ab", .numerics_id = 0, .adapter = "c", .block_tokens = 16});
    add(counting_key(), {.cache_scope = "a", .numerics_id = 0, .adapter = "bc", .block_tokens = 16});
    base::HashKey other = counting_key();
    other.bytes[15] ^= std::byte{1};
    add(other, {});
    REQUIRE(first_links.size() == 8);
}

TEST_CASE("a chain stays what it was: gateways and workers of different builds agree", "[base]") {
    // From an independent implementation: SipHash over (length and text, id, length and text, block tokens), then over
    // (high, low, tokens), all little-endian.
    const base::HashScope scope{"tenant", 0x1122334455667788u, "adapter", 16};
    const auto chain = base::block_hash_chain(counting_key(), scope, counting_tokens(32));
    REQUIRE(hex(base::chain_root(counting_key(), scope)) == "f67c078b3a3c41cb57b43bb29028d2d7");
    REQUIRE(chain.size() == 2);
    REQUIRE(hex(chain[0]) == "7f666ba602a7728c23bfb80503ca15e7");
    REQUIRE(hex(chain[1]) == "4c025860182c18afa79ddb566657e37b");
}

TEST_CASE("a cluster key is read and written as 32 hexadecimal digits", "[base]") {
    const auto key = base::parse_hash_key("000102030405060708090A0b0c0d0e0f");
    REQUIRE(key.has_value());
    REQUIRE(*key == counting_key());
    REQUIRE(base::format_hash_key(*key) == "000102030405060708090a0b0c0d0e0f");
    for (const char* bad : {"", "00", "000102030405060708090a0b0c0d0e0", "000102030405060708090a0b0c0d0e0f0",
                            "000102030405060708090a0b0c0d0e0g", " 00102030405060708090a0b0c0d0e0f"}) {
        CAPTURE(bad);
        const auto refused = base::parse_hash_key(bad);
        REQUIRE_FALSE(refused.has_value());
        REQUIRE(refused.error().code == base::ErrorCode::invalid_argument);
    }
}

TEST_CASE("random keys differ", "[base]") {
    REQUIRE_FALSE(base::random_hash_key() == base::random_hash_key());
}
