#include "device/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

namespace device {
namespace {

base::ErrorCode code_of(int error) {
    switch (error) {
        case ENOENT:
        case ENOTDIR:
            return base::ErrorCode::not_found;
        case EACCES:
        case EPERM:
            return base::ErrorCode::permission_denied;
        case ENOMEM:
        case EMFILE:
        case ENFILE:
            return base::ErrorCode::resource_exhausted;
        default:
            return base::ErrorCode::invalid_argument;
    }
}

tl::unexpected<base::Error> fail_with(int error, const std::string& what) {
    return base::fail(code_of(error), what + ": " + std::strerror(error));
}

}  // namespace

base::Result<MappedFile> MappedFile::open(const std::filesystem::path& path) {
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
        return base::fail(base::ErrorCode::invalid_argument, path.string() + " is not a regular file");
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

MappedFile::MappedFile(MappedFile&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
    MappedFile taken(std::move(other));
    std::swap(bytes_, taken.bytes_);
    return *this;
}

MappedFile::~MappedFile() {
    if (!bytes_.empty()) { munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size()); }
}

}  // namespace device
