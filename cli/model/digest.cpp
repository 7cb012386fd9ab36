#include "cli/model/digest.h"

#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <functional>

#include "base/check.h"
#include "cli/model/part_file.h"

namespace cli::model {

struct Digest::State {
    EVP_MD_CTX* context = EVP_MD_CTX_new();
    State() = default;
    State(const State&) = delete;
    State& operator=(const State&) = delete;
    ~State() { EVP_MD_CTX_free(context); }
};

Digest::Digest(Kind kind) : state_(std::make_unique<State>()) {
    CHECK(state_->context != nullptr);
    CHECK(EVP_DigestInit_ex(state_->context, kind == Kind::sha256 ? EVP_sha256() : EVP_sha1(), nullptr) == 1);
}

Digest::~Digest() = default;
Digest::Digest(Digest&&) noexcept = default;
Digest& Digest::operator=(Digest&&) noexcept = default;

void Digest::update(std::span<const std::byte> bytes) {
    CHECK(EVP_DigestUpdate(state_->context, bytes.data(), bytes.size()) == 1);
}

std::string Digest::finish() {
    std::array<unsigned char, EVP_MAX_MD_SIZE> bytes{};
    unsigned int length = 0;
    CHECK(EVP_DigestFinal_ex(state_->context, bytes.data(), &length) == 1);
    constexpr std::string_view kDigits = "0123456789abcdef";
    std::string hex;
    for (unsigned int i = 0; i < length; ++i) {
        hex += kDigits[bytes[i] >> 4];
        hex += kDigits[bytes[i] & 15];
    }
    return hex;
}

base::Result<std::string> sha256_of_file(const std::filesystem::path& path) {
    Digest digest(Digest::Kind::sha256);
    const auto read = read_through(path, [&](std::span<const std::byte> bytes) { digest.update(bytes); });
    if (!read) { return base::pass_on(read); }
    return digest.finish();
}

base::Result<std::string> git_blob_sha1_of_file(const std::filesystem::path& path) {
    std::error_code error;
    const auto bytes = std::filesystem::file_size(path, error);
    if (error) { return base::fail(base::ErrorCode::not_found, path.string() + ": " + error.message()); }
    Digest digest(Digest::Kind::sha1);
    const std::string head = "blob " + std::to_string(bytes);
    digest.update(std::as_bytes(std::span(head.c_str(), head.size() + 1)));  // with the zero
    const auto read = read_through(path, [&](std::span<const std::byte> piece) { digest.update(piece); });
    if (!read) { return base::pass_on(read); }
    return digest.finish();
}

bool is_sha256(std::string_view text) {
    return text.size() == 64 && std::all_of(text.begin(), text.end(),
                                            [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

}  // namespace cli::model
