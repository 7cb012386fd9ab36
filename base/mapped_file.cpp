#include "base/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "base/check.h"

namespace base {
namespace {

ErrorCode code_of(int error) {
    switch (error) {
        case ENOENT:
        case ENOTDIR:
            return ErrorCode::not_found;
        case EACCES:
        case EPERM:
            return ErrorCode::permission_denied;
        case ENOMEM:
        case EMFILE:
        case ENFILE:
            return ErrorCode::resource_exhausted;
        default:
            return ErrorCode::invalid_argument;
    }
}

tl::unexpected<Error> fail_with(int error, const std::string& what) {
    return fail(code_of(error), what + ": " + std::strerror(error));
}

}  // namespace

Result<MappedFile> MappedFile::open(const std::filesystem::path& path) {
    // O_NONBLOCK: a pipe of that name is refused below instead of waited for.
    const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file < 0) { return fail_with(errno, "cannot open " + path.string()); }
    struct stat status{};
    if (fstat(file, &status) != 0) {
        const int error = errno;
        ::close(file);
        return fail_with(error, "cannot read the size of " + path.string());
    }
    if (!S_ISREG(status.st_mode)) {
        ::close(file);
        return fail(ErrorCode::invalid_argument, path.string() + " is not a regular file");
    }
    const auto bytes = static_cast<std::size_t>(status.st_size);
    if (bytes == 0) {
        ::close(file);
        return MappedFile();
    }
    void* address = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, file, 0);
    const int error = errno;
    ::close(file);  // the mapping keeps the file
    if (address == MAP_FAILED) {
        return fail_with(error, "cannot map the " + std::to_string(bytes) + " bytes of " + path.string());
    }
    return MappedFile(std::span(static_cast<const std::byte*>(address), bytes));
}

void MappedFile::let_go(std::span<const std::byte> part) const {
    CHECK(part.data() >= bytes_.data() &&
          part.size() <= bytes_.size() - static_cast<std::size_t>(part.data() - bytes_.data()));
    // Whole pages inside of it only: what stands beside it may be in use.
    const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    const auto offset = static_cast<std::size_t>(part.data() - bytes_.data());
    const std::size_t begin = (offset + page - 1) / page * page;
    const std::size_t end = (offset + part.size()) / page * page;
    if (begin < end) { ::madvise(const_cast<std::byte*>(bytes_.data()) + begin, end - begin, MADV_DONTNEED); }
}

MappedFile::MappedFile(MappedFile&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
    MappedFile taken(std::move(other));
    std::swap(bytes_, taken.bytes_);
    return *this;
}

MappedFile::~MappedFile() {
    if (!bytes_.empty()) { munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size()); }
}

}  // namespace base
