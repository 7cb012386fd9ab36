#include "cli/planning_files.h"

#include <zlib.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>

#include "bench/report_json.h"

namespace cli {
namespace {

constexpr std::size_t kTextBytesMax = 512u << 20;

}  // namespace

base::Result<std::string> read_planning_file(const std::string& path) {
    std::error_code ignored;
    if (std::filesystem::is_directory(path, ignored)) {
        return base::fail(base::ErrorCode::invalid_argument, path + " is a folder; a file is wanted");
    }
    errno = 0;
    const std::unique_ptr<gzFile_s, int (*)(gzFile)> file(gzopen(path.c_str(), "rb"), gzclose);
    if (!file) { return base::fail(base::ErrorCode::not_found, "cannot read " + path + ": " + std::strerror(errno)); }
    std::string text;
    std::array<char, 65536> bytes;
    int count = 0;
    while ((count = gzread(file.get(), bytes.data(), bytes.size())) > 0) {
        text.append(bytes.data(), static_cast<std::size_t>(count));
        if (text.size() > kTextBytesMax) {
            return base::fail(base::ErrorCode::resource_exhausted, path + " holds more than 512 MiB of text");
        }
    }
    int number = Z_OK;
    const char* const why = gzerror(file.get(), &number);
    if (count < 0 || (number != Z_OK && number != Z_STREAM_END)) {
        return base::fail(base::ErrorCode::data_loss, "cannot read " + path + ": " + why);
    }
    return text;
}

std::optional<std::string> find_planning_file(const std::string& prefix, std::string_view ending) {
    std::error_code ignored;
    for (const char* suffix : {"", ".gz"}) {
        std::string path = prefix + std::string(ending) + suffix;
        if (std::filesystem::exists(path, ignored)) { return path; }
    }
    return std::nullopt;
}

base::Result<void> write_planning_file(const std::string& path, std::string_view text) {
    if (path != "-") { return bench::write_file(path, text); }
    if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0) {
        return base::fail(base::ErrorCode::unavailable, "cannot write to standard output");
    }
    return {};
}

}  // namespace cli
