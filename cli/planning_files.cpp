#include "cli/planning_files.h"

#include <cstdio>
#include <filesystem>

#include "base/whole_file.h"
#include "bench/packed_file.h"
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
    return bench::read_packed(path, kTextBytesMax);
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
    if (path != "-") { return base::write_whole_file(path, text); }
    if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0) {
        return base::fail(base::ErrorCode::unavailable, "cannot write to standard output");
    }
    return {};
}

}  // namespace cli
