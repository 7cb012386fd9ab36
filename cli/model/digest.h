#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"

namespace cli::model {

/// A hash of bytes that come in pieces. Not thread-safe.
class Digest {
public:
    enum class Kind { sha256, sha1 };  // sha1: only to compare with git's names of small files
    explicit Digest(Kind kind);
    ~Digest();
    Digest(Digest&&) noexcept;
    Digest& operator=(Digest&&) noexcept;

    void update(std::span<const std::byte> bytes);
    void update(std::string_view text) { update(std::as_bytes(std::span(text))); }
    /// Lower-case hexadecimal digits. The digest has to be made anew after that.
    std::string finish();

private:
    struct State;
    std::unique_ptr<State> state_;
};

/// Of a whole file. Error: as the system says.
base::Result<std::string> sha256_of_file(const std::filesystem::path& path);
/// What git calls the file: SHA-1 of "blob LENGTH\0" and the bytes. Error: as the system says.
base::Result<std::string> git_blob_sha1_of_file(const std::filesystem::path& path);

/// 64 lower-case hexadecimal digits.
bool is_sha256(std::string_view text);

}  // namespace cli::model
