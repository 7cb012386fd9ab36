#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>

#include "base/result.h"
#include "cli/model/digest.h"

namespace cli::model {

/// An open file that closes itself.
class Descriptor {
public:
    explicit Descriptor(int number = -1) : number_(number) {}
    Descriptor(Descriptor&& other) noexcept;
    Descriptor& operator=(Descriptor&& other) noexcept;
    ~Descriptor();
    int number() const { return number_; }

private:
    int number_;
};

/// A file that grows while it is fetched, with the SHA-256 of what it holds. What an earlier try has left is kept, so
/// that the next one goes on behind it. Not thread-safe.
class PartFile {
public:
    /// Opens or makes the file and reads what is there. Error: as the system says, naming the path.
    static base::Result<PartFile> open(const std::filesystem::path& path);

    std::uint64_t bytes() const { return bytes_; }
    /// Error: resource_exhausted when the disk is full.
    base::Result<void> append(std::span<const std::byte> data);
    /// Begins again with an empty file.
    base::Result<void> clear();
    /// Writes everything to the disk; gives the SHA-256. The file is closed after that.
    base::Result<std::string> finish();

private:
    PartFile(std::filesystem::path path, Descriptor file)
        : path_(std::move(path)), file_(std::move(file)), digest_(Digest::Kind::sha256) {}

    std::filesystem::path path_;
    Descriptor file_;
    Digest digest_;
    std::uint64_t bytes_ = 0;
};

/// Hands a whole file on, piece by piece. Error: as the system says, naming the path.
base::Result<void> read_through(const std::filesystem::path& path,
                                const std::function<void(std::span<const std::byte>)>& on_bytes);

/// Writes a small file as a whole, so that it survives a crash of the machine. Error: as the system says.
base::Result<void> write_small(const std::filesystem::path& path, std::string_view text);
/// Renames so that it survives a crash of the machine. Error: as the system says.
base::Result<void> rename_durably(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace cli::model
