#include "cli/private_file.h"

#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <fstream>

namespace cli {

using base::ErrorCode;

base::Result<std::string> read_private_file(const std::string& path, std::size_t bytes_max, const std::string& what) {
    struct stat about{};
    if (stat(path.c_str(), &about) != 0) {
        return base::fail(ErrorCode::invalid_argument, what + " cannot be read: " + std::strerror(errno));
    }
    if (!S_ISREG(about.st_mode)) { return base::fail(ErrorCode::invalid_argument, what + " is no file"); }
    if ((about.st_mode & (S_IWGRP | S_IRWXO)) != 0) {
        return base::fail(ErrorCode::permission_denied, what + " can be read or changed by others: chmod 600 " + path);
    }
    std::ifstream file(path);
    std::string text(bytes_max + 1, '\0');
    file.read(text.data(), static_cast<std::streamsize>(text.size()));
    const bool is_whole = file.eof();
    text.resize(static_cast<std::size_t>(file.gcount()));
    if (!is_whole) {
        return base::fail(ErrorCode::invalid_argument,
                          what + " cannot be read, or has more than " + std::to_string(bytes_max) + " bytes");
    }
    return text;
}

}  // namespace cli
