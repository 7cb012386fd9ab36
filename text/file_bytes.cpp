#include "text/file_bytes.h"

#include <fstream>
#include <system_error>

namespace text {

base::Result<std::string> read_file(const std::filesystem::path& path, std::size_t bytes_max) {
    std::error_code error;
    if (!std::filesystem::is_regular_file(path, error)) {
        return base::fail(base::ErrorCode::not_found, "no file " + path.string());
    }
    const std::uintmax_t size = std::filesystem::file_size(path, error);
    if (error) { return base::fail(base::ErrorCode::unavailable, path.string() + ": " + error.message()); }
    if (size > bytes_max) {
        return base::fail(base::ErrorCode::resource_exhausted, path.string() + " has " + std::to_string(size) +
                                                                   " bytes; at most " + std::to_string(bytes_max) +
                                                                   " are read");
    }
    std::ifstream stream(path, std::ios::binary);
    std::string bytes(static_cast<std::size_t>(size), '\0');
    if (!stream || !stream.read(bytes.data(), static_cast<std::streamsize>(bytes.size()))) {
        return base::fail(base::ErrorCode::unavailable, "cannot read " + path.string());
    }
    return bytes;
}

}  // namespace text
