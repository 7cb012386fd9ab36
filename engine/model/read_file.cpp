#include "engine/model/read_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <system_error>

namespace engine {

using base::ErrorCode;

base::Error system_error(const std::string& what, const std::filesystem::path& path, int error_number) {
    ErrorCode code = ErrorCode::internal;
    switch (error_number) {
        case ENOENT:
        case ENOTDIR:
            code = ErrorCode::not_found;
            break;
        case EACCES:
        case EPERM:
        case EROFS:
            code = ErrorCode::permission_denied;
            break;
        case ENOSPC:
        case EDQUOT:
        case EFBIG:
        case EMFILE:
        case ENFILE:
        case ENOMEM:
            code = ErrorCode::resource_exhausted;
            break;
        case EISDIR:
            code = ErrorCode::invalid_argument;
            break;
        default:
            break;
    }
    return {code, what + " " + path.string() + ": " + std::generic_category().message(error_number)};
}

base::Result<std::string> read_file(const std::filesystem::path& path, std::size_t bytes_max) {
    const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a pipe without a writer waits for ever
    if (file < 0) { return tl::unexpected(system_error("open", path, errno)); }
    struct ::stat status{};
    if (::fstat(file, &status) != 0 || !S_ISREG(status.st_mode)) {
        ::close(file);
        return base::fail(ErrorCode::invalid_argument, path.string() + " is not a regular file");
    }
    if (static_cast<std::size_t>(status.st_size) > bytes_max) {
        ::close(file);
        return base::fail(ErrorCode::invalid_argument, path.string() + " has " + std::to_string(status.st_size) +
                                                           " bytes, at most " + std::to_string(bytes_max) +
                                                           " expected");
    }
    std::string text(static_cast<std::size_t>(status.st_size), '\0');
    std::size_t done = 0;
    while (done < text.size()) {
        const ::ssize_t got = ::read(file, text.data() + done, text.size() - done);
        if (got < 0 && errno == EINTR) { continue; }
        if (got < 0) {
            const int error_number = errno;
            ::close(file);
            return tl::unexpected(system_error("read", path, error_number));
        }
        if (got == 0) { break; }  // it became shorter
        done += static_cast<std::size_t>(got);
    }
    ::close(file);
    text.resize(done);
    return text;
}

}  // namespace engine
