#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace cli::model {

/// A zip (a wheel is one), read only and never unpacked as a whole: members are asked for by name. One thread.
class ZipFile {
public:
    /// Error: not_found, data_loss for what is no zip or has more than 100,000 members.
    static base::Result<ZipFile> open(const std::filesystem::path& path);
    ~ZipFile();
    ZipFile(ZipFile&&) noexcept;
    ZipFile& operator=(ZipFile&&) noexcept;

    /// Paths of the members that are plain files with a plain relative path; others are not offered.
    const std::vector<std::string>& members() const;
    /// Unpacked length, as the zip says it. Error: not_found.
    base::Result<std::uint64_t> bytes_of(std::string_view member) const;
    /// Hands the unpacked bytes on; their CRC has been checked when this returns.
    /// Error: not_found; data_loss for broken data or more of it than bytes_of(); those of `on_bytes`.
    base::Result<void> read(std::string_view member,
                            const std::function<base::Result<void>(std::span<const std::byte>)>& on_bytes) const;
    /// A short text. Error: as read(); resource_exhausted above `bytes_max`.
    base::Result<std::string> read_text(std::string_view member, std::size_t bytes_max) const;

private:
    struct State;
    explicit ZipFile(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
};

}  // namespace cli::model
