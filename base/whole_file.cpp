#include "base/whole_file.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>

namespace base {

Result<void> write_whole_file(const std::string& path, std::string_view content) {
    std::error_code ignored;
    const auto there = std::filesystem::status(path, ignored);
    const bool is_in_place = std::filesystem::exists(there) && !std::filesystem::is_regular_file(there);
    const std::string written = is_in_place ? path : path + ".part";
    const auto failure = [&] {
        return fail(ErrorCode::unavailable, "cannot write " + path + ": " + std::strerror(errno));
    };
    {
        std::ofstream file(written, std::ios::binary | std::ios::trunc);
        file.write(content.data(), static_cast<std::streamsize>(content.size()));
        if (!file.flush()) { return failure(); }
    }
    if (!is_in_place && std::rename(written.c_str(), path.c_str()) != 0) { return failure(); }
    return {};
}

}  // namespace base
