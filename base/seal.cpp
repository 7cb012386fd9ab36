#include "base/seal.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <algorithm>

#include "base/check.h"

namespace base {
namespace {

constexpr std::size_t kLifeBytes = 8;
constexpr std::string_view kControlPurpose = "sluice control token 1";

constexpr std::string_view purpose_of(AddressKind kind) {
    switch (kind) {
        case AddressKind::tls:
            return "sluice kv tls address 1";
        case AddressKind::book:
            return "sluice kv address book 1";
        case AddressKind::ucx:
            break;
    }
    return "sluice kv address 1";
}

Mac hmac(std::span<const std::byte> key, std::span<const std::byte> data) {
    Mac mac;
    unsigned bytes = 0;
    const auto* made = HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()),
                            reinterpret_cast<const unsigned char*>(data.data()), data.size(),
                            reinterpret_cast<unsigned char*>(mac.data()), &bytes);
    CHECK(made != nullptr && bytes == mac.size(), "HMAC-SHA256 gave " << bytes << " bytes");
    return mac;
}

std::span<const std::byte> bytes_of(std::string_view text) {
    return std::as_bytes(std::span(text));
}

std::string_view text_of(const Mac& mac) {
    return {reinterpret_cast<const char*>(mac.data()), mac.size()};
}

}  // namespace

Mac make_mac(const HashKey& key, std::string_view purpose, std::span<const std::byte> data) {
    return hmac(hmac(key.bytes, bytes_of(purpose)), data);
}

bool equal_secrets(std::string_view left, std::string_view right) {
    return left.size() == right.size() && CRYPTO_memcmp(left.data(), right.data(), left.size()) == 0;
}

std::string control_token(const HashKey& key) {
    constexpr std::string_view kDigits = "0123456789abcdef";
    std::string token;
    for (const std::byte byte : make_mac(key, kControlPurpose, {})) {
        token.push_back(kDigits[std::to_integer<std::size_t>(byte) >> 4]);
        token.push_back(kDigits[std::to_integer<std::size_t>(byte) & 15]);
    }
    return token;
}

std::string seal_address(const HashKey& key, Incarnation life, std::string_view address, AddressKind kind) {
    std::string sealed;
    for (std::size_t i = 0; i < kLifeBytes; ++i) {
        sealed.push_back(static_cast<char>((raw(life) >> (8 * i)) & 0xff));
    }
    sealed += address;
    const Mac mac = make_mac(key, purpose_of(kind), bytes_of(sealed));
    return sealed += text_of(mac);
}

Result<OpenedAddress> open_address(const HashKey& key, std::string_view sealed, AddressKind kind) {
    const auto refuse = [&sealed](const char* why) {
        return fail(ErrorCode::permission_denied,
                    "a KV address of " + std::to_string(sealed.size()) + " bytes " + why +
                        ": it comes from no worker that has this cluster's key (cluster.key)");
    };
    if (sealed.size() <= kLifeBytes + std::tuple_size_v<Mac>) { return refuse("is too short to carry a MAC"); }
    const std::string_view said = sealed.substr(0, sealed.size() - std::tuple_size_v<Mac>);
    const Mac mac = make_mac(key, purpose_of(kind), bytes_of(said));
    if (!equal_secrets(sealed.substr(said.size()), text_of(mac))) { return refuse("has a wrong MAC"); }
    std::uint64_t life = 0;
    for (std::size_t i = 0; i < kLifeBytes; ++i) {
        life |= std::uint64_t{static_cast<unsigned char>(said[i])} << (8 * i);
    }
    return OpenedAddress{Incarnation{life}, said.substr(kLifeBytes)};
}

Result<void> check_address(const HashKey& key, std::string_view sealed, Incarnation life) {
    auto opened = open_address(key, sealed);
    for (const AddressKind kind : {AddressKind::tls, AddressKind::book}) {
        if (!opened) { opened = open_address(key, sealed, kind); }
    }
    if (!opened) { return pass_on(opened); }
    if (opened->life != life) {
        return fail(ErrorCode::permission_denied,
                    "a KV address belongs to another life of a worker than the one named");
    }
    return {};
}

}  // namespace base
