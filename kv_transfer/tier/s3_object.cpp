#include "kv_transfer/tier/s3_object.h"

#include <fmt/format.h>
#include <openssl/evp.h>
#include <openssl/rand.h>

#include <bit>
#include <cstring>
#include <limits>
#include <memory>
#include <string>

#include "base/check.h"
#include "base/openssl_types.h"
#include "base/seal.h"

namespace kv_transfer {
namespace {

static_assert(std::endian::native == std::endian::little, "headers are written as they lie in memory");

constexpr std::array<char, 8> kMagic{'s', 'l', 'u', 'i', 'c', 'e', 'S', '3'};
constexpr std::size_t kNonceBytes = 12;

/// As it lies in the object, without padding. All of it is authenticated.
struct Header {
    std::array<char, 8> magic = kMagic;
    std::uint32_t format = S3Sealer::kFormat;
    std::uint32_t reserved = 0;
    std::uint64_t block_bytes = 0;
    std::uint64_t numerics_id = 0;
    std::uint64_t hash_high = 0;
    std::uint64_t hash_low = 0;
    std::array<unsigned char, kNonceBytes> nonce{};
    std::uint32_t reserved_too = 0;
};
static_assert(sizeof(Header) == 64);

using Cipher = std::unique_ptr<EVP_CIPHER_CTX, base::OpensslFree<EVP_CIPHER_CTX_free>>;

unsigned char* raw(std::span<std::byte> bytes) {
    return reinterpret_cast<unsigned char*>(bytes.data());
}
const unsigned char* raw(std::span<const std::byte> bytes) {
    return reinterpret_cast<const unsigned char*>(bytes.data());
}

tl::unexpected<base::Error> not_saved(std::string_view why) {
    return base::fail(base::ErrorCode::data_loss, fmt::format("an object {}", why));
}

}  // namespace

S3Sealer::S3Sealer(const base::HashKey& key, std::uint64_t numerics_id, std::string_view layout,
                   std::size_t block_bytes, Sizes sizes)
    : numerics_id_(numerics_id), block_bytes_(block_bytes), sizes_(sizes) {
    CHECK(block_bytes > 0 && block_bytes <= static_cast<std::size_t>(std::numeric_limits<int>::max()),
          "blocks of " << block_bytes << " bytes");
    const std::string of = fmt::format("{:016x} {} {}", numerics_id, layout, block_bytes);
    key_ = base::make_mac(key, "sluice kv s3 object 1", std::as_bytes(std::span(of)));
}

void S3Sealer::seal(std::span<std::byte> object, const base::BlockHash& name) const {
    CHECK(may_have(object.size()), object.size() << " bytes");
    Header header;
    header.block_bytes = block_bytes_;
    header.numerics_id = numerics_id_;
    header.hash_high = name.high;
    header.hash_low = name.low;
    CHECK(RAND_bytes(header.nonce.data(), static_cast<int>(header.nonce.size())) == 1, "no random bytes");
    std::memcpy(object.data(), &header, sizeof header);

    const Cipher cipher(EVP_CIPHER_CTX_new());
    const std::span<std::byte> block = block_in(object);
    int bytes = 0;
    const bool is_sealed =
        cipher != nullptr &&
        EVP_EncryptInit_ex(cipher.get(), EVP_aes_256_gcm(), nullptr, raw(key_), header.nonce.data()) == 1 &&
        EVP_EncryptUpdate(cipher.get(), nullptr, &bytes, raw(object), static_cast<int>(sizeof header)) == 1 &&
        EVP_EncryptUpdate(cipher.get(), raw(block), &bytes, raw(block), static_cast<int>(block.size())) == 1 &&
        EVP_EncryptFinal_ex(cipher.get(), raw(block), &bytes) == 1 &&
        EVP_CIPHER_CTX_ctrl(cipher.get(), EVP_CTRL_GCM_GET_TAG, static_cast<int>(kTagBytes),
                            object.last(kTagBytes).data()) == 1;
    CHECK(is_sealed, "AES-256-GCM: " << base::openssl_words());
}

base::Result<std::size_t> S3Sealer::open(std::span<const std::byte> object, const base::BlockHash& name,
                                         std::span<std::byte> block) const {
    CHECK(block.size() == block_bytes_, block.size() << " bytes");
    if (!may_have(object.size())) { return not_saved("has not the bytes of a block"); }
    Header header;
    std::memcpy(&header, object.data(), sizeof header);
    if (header.magic != kMagic) { return not_saved("is none of this program's"); }
    if (header.format != kFormat) { return not_saved("was written by another version"); }
    if (header.block_bytes != block_bytes_ || header.numerics_id != numerics_id_ ||
        base::BlockHash{header.hash_high, header.hash_low} != name) {
        return not_saved("is another block than its name says");
    }
    const Cipher cipher(EVP_CIPHER_CTX_new());
    std::array<std::byte, kTagBytes> tag;
    std::memcpy(tag.data(), object.last(kTagBytes).data(), tag.size());
    const auto sealed = object.subspan(kHeaderBytes, object.size() - kHeaderBytes - kTagBytes);
    int bytes = 0;
    const bool is_begun =
        cipher != nullptr &&
        EVP_DecryptInit_ex(cipher.get(), EVP_aes_256_gcm(), nullptr, raw(key_), header.nonce.data()) == 1 &&
        EVP_DecryptUpdate(cipher.get(), nullptr, &bytes, raw(object), static_cast<int>(sizeof header)) == 1 &&
        EVP_DecryptUpdate(cipher.get(), raw(block), &bytes, raw(sealed), static_cast<int>(sealed.size())) == 1 &&
        EVP_CIPHER_CTX_ctrl(cipher.get(), EVP_CTRL_GCM_SET_TAG, static_cast<int>(tag.size()), tag.data()) == 1;
    CHECK(is_begun, "AES-256-GCM: " << base::openssl_words());
    std::array<unsigned char, EVP_MAX_BLOCK_LENGTH> nothing;
    if (EVP_DecryptFinal_ex(cipher.get(), nothing.data(), &bytes) != 1) {
        ERR_clear_error();
        return not_saved("is not what was saved");
    }
    return sealed.size();
}

}  // namespace kv_transfer
