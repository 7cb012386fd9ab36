#include "base/seal.h"

#include <string>

#include "tests/support/catch.h"

using base::ErrorCode;

namespace {

const base::HashKey kKey = *base::parse_hash_key("000102030405060708090a0b0c0d0e0f");
const base::HashKey kOther = *base::parse_hash_key("000102030405060708090a0b0c0d0e10");
constexpr base::Incarnation kLife{0x1122334455667788};

std::string hex(const base::Mac& mac) {
    std::string text;
    for (const std::byte byte : mac) {
        text += "0123456789abcdef"[std::to_integer<unsigned>(byte) >> 4];
        text += "0123456789abcdef"[std::to_integer<unsigned>(byte) & 15];
    }
    return text;
}

}  // namespace

TEST_CASE("a MAC is HMAC-SHA256 under the key of its purpose", "[base]") {
    // python3: k = hmac.new(bytes(range(16)), b"tests", "sha256").digest(); hmac.new(k, b"abc", "sha256").hexdigest()
    const std::string data = "abc";
    CHECK(hex(base::make_mac(kKey, "tests", std::as_bytes(std::span(data)))) ==
          "70187076b486acc5e5221cc025d74d9caf222ea0128a5d5e1e94d9d8bcb2adc8");
    CHECK(base::make_mac(kKey, "tests", {}) != base::make_mac(kKey, "other tests", {}));
    CHECK(base::make_mac(kKey, "tests", {}) != base::make_mac(kOther, "tests", {}));
}

TEST_CASE("secrets are equal when all of their bytes are", "[base]") {
    CHECK(base::equal_secrets("", ""));
    CHECK(base::equal_secrets("abc", "abc"));
    CHECK_FALSE(base::equal_secrets("abc", "abd"));
    CHECK_FALSE(base::equal_secrets("abc", "ab"));
    CHECK(base::control_token(kKey).size() == 64);
    CHECK(base::control_token(kKey) != base::control_token(kOther));
}

TEST_CASE("a sealed address opens under its key as the life that it names, and no flipped bit passes", "[base]") {
    std::string sealed = base::seal_address(kKey, kLife, "where I am");
    const auto opened = base::open_address(kKey, sealed);
    REQUIRE(opened);
    CHECK(opened->life == kLife);
    CHECK(opened->address == "where I am");
    CHECK(base::check_address(kKey, sealed, kLife));
    CHECK(base::check_address(kKey, sealed, base::Incarnation{7}).error().code == ErrorCode::permission_denied);
    CHECK(base::open_address(kOther, sealed).error().code == ErrorCode::permission_denied);
    for (std::size_t bit = 0; bit < sealed.size() * 8; ++bit) {
        const auto mask = static_cast<char>(1u << (bit % 8));
        sealed[bit / 8] = static_cast<char>(sealed[bit / 8] ^ mask);
        REQUIRE(base::open_address(kKey, sealed).error().code == ErrorCode::permission_denied);
        sealed[bit / 8] = static_cast<char>(sealed[bit / 8] ^ mask);
    }
    for (std::size_t bytes = 0; bytes < sealed.size(); ++bytes) {
        REQUIRE_FALSE(base::open_address(kKey, std::string_view(sealed).substr(0, bytes)));
    }
}

TEST_CASE("an address of one kind opens as no other kind", "[base]") {
    using base::AddressKind;
    const AddressKind kinds[] = {AddressKind::ucx, AddressKind::tls, AddressKind::book};
    for (const AddressKind made : kinds) {
        const std::string sealed = base::seal_address(kKey, kLife, "where I am", made);
        for (const AddressKind opened : kinds) {
            CHECK(base::open_address(kKey, sealed, opened).has_value() == (made == opened));
        }
        CHECK(base::check_address(kKey, sealed, kLife));
        CHECK_FALSE(base::check_address(kKey, sealed, base::Incarnation{7}));
        CHECK_FALSE(base::check_address(kOther, sealed, kLife));
    }
}
