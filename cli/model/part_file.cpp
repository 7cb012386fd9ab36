#include "cli/model/part_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <utility>
#include <vector>

#include "engine/model/read_file.h"

namespace cli::model {
namespace {

namespace fs = std::filesystem;
using base::Result;

constexpr std::size_t kPieceBytes = std::size_t{1} << 20;

tl::unexpected<base::Error> system_failure(const std::string& what, const fs::path& path, int number) {
    return tl::unexpected(engine::system_error(what, path, number));
}

Result<void> sync_folder(const fs::path& path) {
    const Descriptor folder(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (folder.number() < 0) { return system_failure("open", path, errno); }
    if (::fsync(folder.number()) != 0 && errno != EINVAL) { return system_failure("fsync", path, errno); }
    return {};
}

Result<void> read_descriptor(int file, const fs::path& path,
                             const std::function<void(std::span<const std::byte>)>& on_bytes) {
    std::vector<std::byte> piece(kPieceBytes);
    while (true) {
        const ::ssize_t count = ::read(file, piece.data(), piece.size());
        if (count < 0 && errno == EINTR) { continue; }
        if (count < 0) { return system_failure("read", path, errno); }
        if (count == 0) { return {}; }
        on_bytes(std::span(piece).first(static_cast<std::size_t>(count)));
    }
}

}  // namespace

Descriptor::Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
}

Descriptor::~Descriptor() {
    if (number_ >= 0) { ::close(number_); }
}

Result<PartFile> PartFile::open(const fs::path& path) {
    Descriptor file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644));
    if (file.number() < 0) { return system_failure("open", path, errno); }
    PartFile part(path, std::move(file));
    const auto read = read_descriptor(part.file_.number(), path, [&](std::span<const std::byte> bytes) {
        part.digest_.update(bytes);
        part.bytes_ += bytes.size();
    });
    if (!read) { return base::pass_on(read); }
    return part;
}

Result<void> PartFile::append(std::span<const std::byte> data) {
    digest_.update(data);
    while (!data.empty()) {
        const ::ssize_t count = ::write(file_.number(), data.data(), data.size());
        if (count < 0 && errno == EINTR) { continue; }
        if (count <= 0) { return system_failure("write", path_, count == 0 ? ENOSPC : errno); }
        bytes_ += static_cast<std::uint64_t>(count);
        data = data.subspan(static_cast<std::size_t>(count));
    }
    return {};
}

Result<void> PartFile::clear() {
    if (::ftruncate(file_.number(), 0) != 0) { return system_failure("truncate", path_, errno); }
    if (::lseek(file_.number(), 0, SEEK_SET) != 0) { return system_failure("seek", path_, errno); }
    digest_ = Digest(Digest::Kind::sha256);
    bytes_ = 0;
    return {};
}

Result<std::string> PartFile::finish() {
    if (::fsync(file_.number()) != 0) { return system_failure("fsync", path_, errno); }
    file_ = Descriptor();
    return digest_.finish();
}

Result<void> read_through(const fs::path& path, const std::function<void(std::span<const std::byte>)>& on_bytes) {
    const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (file.number() < 0) { return system_failure("open", path, errno); }
    return read_descriptor(file.number(), path, on_bytes);
}

Result<void> write_small(const fs::path& path, std::string_view text) {
    auto part = PartFile::open(path);
    if (!part) { return base::pass_on(part); }
    if (const auto cleared = part->clear(); !cleared) { return base::pass_on(cleared); }
    if (const auto written = part->append(std::as_bytes(std::span(text))); !written) { return base::pass_on(written); }
    const auto done = part->finish();
    if (!done) { return base::pass_on(done); }
    return {};
}

Result<void> rename_durably(const fs::path& from, const fs::path& to) {
    if (::rename(from.c_str(), to.c_str()) != 0) { return system_failure("rename to", to, errno); }
    return sync_folder(to.parent_path());
}

}  // namespace cli::model
