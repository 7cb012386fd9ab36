#include "engine/model/packed_cache.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <set>
#include <system_error>
#include <tuple>

#include "engine/model/read_file.h"

namespace engine {
namespace {

namespace fs = std::filesystem;
using base::ErrorCode;
using base::Result;

constexpr std::size_t kFiles = 100'000;  // that are looked at
constexpr const char* kWeights = ".weights";
constexpr const char* kContent = ".content";
constexpr const char* kPartial = ".partial";

Result<std::vector<fs::path>> files_in(const std::string& folder) {
    std::vector<fs::path> files;
    std::error_code error;
    for (fs::directory_iterator at(folder, error), end; !error && at != end && files.size() < kFiles;
         at.increment(error)) {
        files.push_back(at->path());
    }
    if (error) { return tl::unexpected(system_error("list", folder, error.value())); }
    return files;
}

Result<int> open_file(const fs::path& path) {
    const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (file < 0) { return tl::unexpected(system_error("open", path, errno)); }
    return file;
}

/// The hash of the content that a packed file's name begins with.
std::string content_of_name(const fs::path& path) {
    const std::string name = path.filename().string();
    return name.substr(0, name.find('-'));
}

/// A packer that works on the file holds the lock of the same stem.
bool is_abandoned(const fs::path& partial) {
    fs::path lock = partial;
    lock.replace_extension(".lock");
    std::error_code error;
    return !fs::exists(lock, error) || PackedLock::alone(lock).has_value();
}

}  // namespace

PackedLock::~PackedLock() {
    if (file_ >= 0) { ::close(file_); }
}

Result<PackedLock> PackedLock::in_use(const fs::path& file) {
    const auto opened = open_file(file);
    if (!opened) { return base::pass_on(opened); }
    PackedLock lock(*opened);
    while (::flock(lock.file_, LOCK_SH) != 0) {  // held alone for the time of an unlink at most
        if (errno != EINTR) { return tl::unexpected(system_error("lock", file, errno)); }
    }
    struct ::stat status{};
    if (::fstat(lock.file_, &status) != 0 || status.st_nlink == 0) {
        return base::fail(ErrorCode::not_found, file.string() + " has just been removed");
    }
    ::futimens(lock.file_, nullptr);  // a file of somebody else keeps its time
    return lock;
}

Result<PackedLock> PackedLock::alone(const fs::path& file) {
    const auto opened = open_file(file);
    if (!opened) { return base::pass_on(opened); }
    PackedLock lock(*opened);
    if (::flock(lock.file_, LOCK_EX | LOCK_NB) != 0) {
        return base::fail(ErrorCode::unavailable, file.string() + " is in use");
    }
    return lock;
}

bool PackedLock::status(struct ::stat& status) const {
    return file_ >= 0 && ::fstat(file_, &status) == 0;
}

Result<std::vector<PackedEntry>> list_packed(const std::string& packed_dir) {
    const auto files = files_in(packed_dir);
    if (!files) { return base::pass_on(files); }
    std::vector<PackedEntry> entries;
    for (const fs::path& path : *files) {
        struct ::stat status{};
        if (path.extension() != kWeights || ::lstat(path.c_str(), &status) != 0 || !S_ISREG(status.st_mode)) {
            continue;
        }
        const auto lock = PackedLock::alone(path);
        entries.push_back({.path = path,
                           .bytes = static_cast<std::uint64_t>(status.st_size),
                           .used_unix_s = status.st_mtim.tv_sec,
                           .is_in_use = !lock && lock.error().code == ErrorCode::unavailable});
    }
    std::sort(entries.begin(), entries.end(), [](const PackedEntry& a, const PackedEntry& b) {
        return std::tie(a.used_unix_s, a.path) < std::tie(b.used_unix_s, b.path);
    });
    return entries;
}

Result<PrunedPacked> prune_packed(const std::string& packed_dir, std::uint64_t bytes_max) {
    const auto entries = list_packed(packed_dir);
    if (!entries) { return base::pass_on(entries); }
    PrunedPacked pruned;
    for (const PackedEntry& entry : *entries) {
        pruned.bytes_left += entry.bytes;
    }
    std::set<std::string> contents;  // of files that stay
    for (const PackedEntry& entry : *entries) {
        const bool is_too_much = pruned.bytes_left > bytes_max;
        const auto lock = is_too_much ? PackedLock::alone(entry.path) : Result<PackedLock>(PackedLock());
        if (!is_too_much || !lock || ::unlink(entry.path.c_str()) != 0) {
            contents.insert(content_of_name(entry.path));
            continue;
        }
        pruned.bytes_left -= entry.bytes;
        pruned.removed.push_back(entry);
    }
    const auto files = files_in(packed_dir);
    if (!files) { return base::pass_on(files); }
    for (const fs::path& path : *files) {
        std::error_code ignored;
        if (path.extension() == kPartial && is_abandoned(path)) { fs::remove(path, ignored); }
        if (path.extension() != kContent || pruned.removed.empty()) { continue; }
        const auto text = read_file(path, 64);
        const bool is_gone = text && std::any_of(pruned.removed.begin(), pruned.removed.end(), [&](const auto& entry) {
                                 return text->starts_with(content_of_name(entry.path));
                             });
        if (is_gone && !contents.contains(text->substr(0, text->find('\n')))) { fs::remove(path, ignored); }
    }
    return pruned;
}

}  // namespace engine
