#include "scheduler/folder_lease.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string_view>
#include <utility>

namespace scheduler {
namespace {

using base::ErrorCode;
using base::fail;

constexpr std::string_view kPrefix = "term-";
constexpr std::size_t kSerialDigits = 20;
/// Every record is so long, blanks at its end, so that a new one overwrites all of an old one at once.
constexpr std::size_t kRecordBytes = 512;
constexpr std::size_t kHolderBytesMax = 300;

struct Descriptor {
    explicit Descriptor(int given) : number(given) {}
    ~Descriptor() {
        if (number >= 0) { close(number); }
    }
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    int number;
};

auto failed(const std::string& what, const std::string& path) {
    return fail(ErrorCode::unavailable,
                "the leader's lease: cannot " + what + " " + path + ": " + std::strerror(errno));
}

std::string write_record(const LeaderTerm& term) {
    std::string text =
        fmt::format("sluice-leader 1\nserial {}\nepoch {}\nbeat {}\nworkers {}\nholder {}\n", term.serial, term.epoch,
                    term.beat, term.workers, term.holder.substr(0, kHolderBytesMax));
    text.resize(kRecordBytes, ' ');
    return text;
}

/// The number behind `name` at the begin of `text`, which is moved behind its line.
std::optional<std::uint64_t> take_number(std::string_view& text, std::string_view name) {
    if (!text.starts_with(name)) { return std::nullopt; }
    text.remove_prefix(name.size());
    std::uint64_t number = 0;
    const auto [at, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc{} || at == text.data() + text.size() || *at != '\n') { return std::nullopt; }
    text.remove_prefix(static_cast<std::size_t>(at - text.data()) + 1);
    return number;
}

std::optional<LeaderTerm> read_record(std::string_view text) {
    LeaderTerm term;
    const auto version = take_number(text, "sluice-leader ");
    const auto serial = take_number(text, "serial ");
    const auto epoch = take_number(text, "epoch ");
    const auto beat = take_number(text, "beat ");
    const auto workers = take_number(text, "workers ");
    if (version != 1 || !serial || !epoch || !beat || !workers || *workers > 0xffffffff) { return std::nullopt; }
    constexpr std::string_view holder = "holder ";
    const auto end = text.find('\n');
    if (!text.starts_with(holder) || end == std::string_view::npos) { return std::nullopt; }
    term.serial = *serial;
    term.epoch = *epoch;
    term.beat = *beat;
    term.workers = static_cast<std::uint32_t>(*workers);
    term.holder = text.substr(holder.size(), end - holder.size());
    return term;
}

bool write_all(int descriptor, const std::string& record) {
    return pwrite(descriptor, record.data(), record.size(), 0) == static_cast<ssize_t>(record.size());
}

}  // namespace

FolderLease::FolderLease(std::string folder) : folder_(std::move(folder)) {}

FolderLease::~FolderLease() {
    resign();
}

base::Result<std::unique_ptr<FolderLease>> FolderLease::open(std::string folder) {
    while (folder.size() > 1 && folder.back() == '/') {
        folder.pop_back();
    }
    if (mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) { return failed("make the folder", folder); }
    struct stat about{};
    if (stat(folder.c_str(), &about) != 0) { return failed("look at", folder); }
    if (!S_ISDIR(about.st_mode)) {
        return fail(ErrorCode::invalid_argument, "the leader's lease is a folder, and " + folder + " is none");
    }
    if ((about.st_mode & S_IWOTH) != 0) {
        return fail(ErrorCode::permission_denied,
                    "the folder of the leader's lease " + folder + " can be changed by others: chmod o-w " + folder);
    }
    if (access(folder.c_str(), R_OK | W_OK | X_OK) != 0) { return failed("write into", folder); }
    return std::unique_ptr<FolderLease>(new FolderLease(std::move(folder)));
}

std::string FolderLease::path_of(std::uint64_t serial) const {
    return fmt::format("{}/{}{:0{}}", folder_, kPrefix, serial, kSerialDigits);
}

/// Serial of the latest term; 0 where there is none.
base::Result<std::uint64_t> FolderLease::latest() const {
    DIR* const listing = opendir(folder_.c_str());
    if (listing == nullptr) { return failed("list", folder_); }
    std::uint64_t latest = 0;
    while (const dirent* entry = readdir(listing)) {
        const std::string_view name = entry->d_name;
        if (name.size() != kPrefix.size() + kSerialDigits || !name.starts_with(kPrefix)) { continue; }
        std::uint64_t serial = 0;
        const auto [at, error] = std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), serial);
        if (error == std::errc{} && at == name.data() + name.size()) { latest = std::max(latest, serial); }
    }
    closedir(listing);
    return latest;
}

/// Error: unavailable, also where it has gone meanwhile.
base::Result<LeaderTerm> FolderLease::read(std::uint64_t serial) const {
    const std::string path = path_of(serial);
    const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (file.number < 0) { return failed("open", path); }
    std::array<char, kRecordBytes> bytes{};
    const ssize_t count = pread(file.number, bytes.data(), bytes.size(), 0);
    if (count < 0) { return failed("read", path); }
    auto term = read_record({bytes.data(), static_cast<std::size_t>(count)});
    if (!term || term->serial != serial) {
        // Its machine lost power before the bytes were on the disk, so nobody lives who was there then.
        term.emplace();
        term->serial = serial;
    }
    if (flock(file.number, LOCK_SH | LOCK_NB) == 0) {
        term->over = true;
    } else if (errno != EWOULDBLOCK) {
        return failed("lock", path);
    }
    return *term;
}

base::Result<LeaderTerm> FolderLease::look() {
    const auto serial = latest();
    if (!serial) { return base::pass_on(serial); }
    return *serial == 0 ? LeaderTerm() : read(*serial);
}

base::Result<bool> FolderLease::begin(const LeaderTerm& seen, const LeaderTerm& ours) {
    resign();
    std::string fresh = folder_ + "/new-XXXXXX";
    Descriptor file(mkostemp(fresh.data(), O_CLOEXEC));
    if (file.number < 0) { return failed("make", fresh); }
    if (!write_all(file.number, write_record(ours)) || flock(file.number, LOCK_EX | LOCK_NB) != 0) {
        auto error = failed("write and lock", fresh);
        unlink(fresh.c_str());
        return error;
    }
    const std::string path = path_of(ours.serial);
    const bool is_linked = link(fresh.c_str(), path.c_str()) == 0;
    const int why = errno;
    unlink(fresh.c_str());
    if (!is_linked) {
        if (why == EEXIST) { return false; }
        errno = why;
        return failed("make", path);
    }
    // A leader may have renewed its term since it was looked at: it sees ours from now on, or we see its renewal. And
    // whoever was stopped for long before the link may have made a term anew that was over and removed.
    const auto last = latest();
    const auto before = seen.serial == 0 ? base::Result<LeaderTerm>(LeaderTerm()) : read(seen.serial);
    if (!last || *last != ours.serial || !before || *before != seen) {
        unlink(path.c_str());
        return false;
    }
    ours_ = std::exchange(file.number, -1);
    serial_ = ours.serial;
    remove_before(serial_);
    return true;
}

base::Result<bool> FolderLease::renew(const LeaderTerm& ours) {
    if (ours_ < 0) { return false; }
    if (!write_all(ours_, write_record(ours))) { return failed("write", path_of(serial_)); }
    const auto last = latest();
    if (!last) { return base::pass_on(last); }
    if (*last == serial_) { return true; }
    resign();
    return false;
}

void FolderLease::resign() {
    if (ours_ < 0) { return; }
    close(ours_);  // and the lock with it; the record stays, for its epoch and the count of workers
    ours_ = -1;
}

void FolderLease::remove_before(std::uint64_t serial) const {
    constexpr std::uint64_t kKept = 2;
    // At most a few: the leaders before have removed those before them.
    for (std::uint64_t old = serial - std::min(serial, kKept); old > 0; --old) {
        if (unlink(path_of(old).c_str()) != 0) { return; }
    }
}

}  // namespace scheduler
