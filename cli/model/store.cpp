#include "cli/model/store.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <utility>

#include "base/log.h"
#include "cli/model/source.h"
#include "engine/model/read_file.h"
#include "engine/model/user_folder.h"

namespace cli::model {
namespace {

namespace fs = std::filesystem;
using base::ErrorCode;
using base::Result;

constexpr std::size_t kManifestBytes = std::size_t{4} << 20;
constexpr std::size_t kModels = 10'000;  // that are looked at
constexpr const char* kFingerprintFile = ".fingerprint";

Result<void> make_folder(const fs::path& path) {
    std::error_code error;
    fs::create_directories(path, error);
    if (error) { return tl::unexpected(engine::system_error("make the folder", path, error.value())); }
    return {};
}

Result<void> remove_folder(const fs::path& path) {
    std::error_code error;
    fs::remove_all(path, error);
    if (error) { return tl::unexpected(engine::system_error("remove", path, error.value())); }
    return {};
}

/// What only the pull needed: names that begin with a dot, which no file of a model has.
Result<void> remove_hidden(const fs::path& path) {
    std::vector<fs::path> hidden;
    std::error_code error;
    for (fs::directory_iterator at(path, error), end; !error && at != end; at.increment(error)) {
        if (at->path().filename().string().starts_with('.')) { hidden.push_back(at->path()); }
    }
    for (const fs::path& entry : hidden) {
        if (auto removed = remove_folder(entry); !removed) { return removed; }
    }
    return {};
}

/// Names of the folders in a folder, sorted; none when it cannot be read.
std::vector<std::string> folders_in(const fs::path& path) {
    std::vector<std::string> names;
    std::error_code error;
    for (fs::directory_iterator at(path, error), end; !error && at != end && names.size() < kModels;
         at.increment(error)) {
        std::error_code ignored;
        if (at->is_directory(ignored) && check_name(at->path().filename().string())) {
            names.push_back(at->path().filename().string());
        }
    }
    std::sort(names.begin(), names.end());
    return names;
}

std::uint64_t bytes_in(const fs::path& path) {
    std::uint64_t sum = 0;
    std::error_code error;
    for (fs::recursive_directory_iterator at(path, error), end; !error && at != end; at.increment(error)) {
        std::error_code ignored;
        if (at->is_regular_file(ignored)) { sum += at->file_size(ignored); }
    }
    return sum;
}

}  // namespace

fs::path StoredModel::path() const {
    return manifest.entry.empty() ? folder : folder / manifest.entry;
}

Result<void> Store::prepare() const {
    const auto explain = [this](const base::Error& error) {
        return base::fail(error.code, "the models' folder " + folder_.string() + " cannot be used: " + error.message +
                                          " (SLUICE_MODELS chooses another)");
    };
    for (const char* part : {".locks", ".partial"}) {
        if (const auto made = make_folder(folder_ / part); !made) { return explain(made.error()); }
    }
    if (::access(folder_.c_str(), W_OK | X_OK) != 0) {
        return explain(engine::system_error("write to", folder_, errno));
    }
    return {};
}

Result<std::optional<StoredModel>> Store::find(const std::string& name) const {
    if (!check_name(name)) { return std::optional<StoredModel>(); }
    const fs::path folder = folder_ / name;
    const auto text = engine::read_file(folder / kManifestFile, kManifestBytes);
    if (!text && text.error().code == ErrorCode::not_found) { return std::optional<StoredModel>(); }
    if (!text) { return base::pass_on(text); }
    auto manifest = parse_manifest(*text);
    if (!manifest) {
        return base::fail(manifest.error().code, (folder / kManifestFile).string() + ": " + manifest.error().message +
                                                     " (sluice model remove " + name + ", then pull it again)");
    }
    manifest->name = name;  // the folder's name is the one that counts
    return std::optional(StoredModel{std::move(*manifest), folder});
}

std::vector<StoredModel> Store::list() const {
    std::vector<StoredModel> models;
    for (const std::string& name : folders_in(folder_)) {
        auto found = find(name);
        if (found && *found) { models.push_back(std::move(**found)); }
    }
    return models;
}

std::vector<Unfinished> Store::unfinished() const {
    std::vector<Unfinished> left;
    for (const std::string& name : folders_in(folder_ / ".partial")) {
        left.push_back({name, bytes_in(partial(name))});
    }
    return left;
}

Result<Store::Lock> Store::lock(const std::string& name, std::chrono::seconds patience, const StopAsked& stop_asked,
                                const std::function<void()>& on_wait) const {
    const fs::path path = folder_ / ".locks" / name;
    Descriptor file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644));
    if (file.number() < 0) { return tl::unexpected(engine::system_error("open", path, errno)); }
    const auto deadline = std::chrono::steady_clock::now() + patience;
    for (bool is_first = true; ::flock(file.number(), LOCK_EX | LOCK_NB) != 0; is_first = false) {
        if (errno != EWOULDBLOCK && errno != EINTR) {
            return tl::unexpected(engine::system_error("lock", path, errno));
        }
        if (std::chrono::steady_clock::now() >= deadline) {
            return base::fail(ErrorCode::deadline_exceeded, "another process is pulling or removing " + name);
        }
        if (is_first) { on_wait(); }
        if (!wait_unless_stopped(std::chrono::milliseconds(100), stop_asked)) {
            return base::fail(ErrorCode::cancelled, "interrupted");
        }
    }
    return Lock(std::move(file));
}

Result<fs::path> Store::stage(const std::string& name, const std::string& fingerprint) const {
    const fs::path folder = partial(name);
    const auto earlier = engine::read_file(folder / kFingerprintFile, kManifestBytes);
    if (!earlier || *earlier != fingerprint) {
        if (const auto removed = remove_folder(folder); !removed) { return base::pass_on(removed); }
        if (const auto made = make_folder(folder); !made) { return base::pass_on(made); }
        const auto written = write_small(folder / kFingerprintFile, fingerprint);
        if (!written) { return base::pass_on(written); }
    }
    return folder;
}

Result<StoredModel> Store::publish(const Manifest& manifest) const {
    const fs::path staged = partial(manifest.name);
    const fs::path folder = folder_ / manifest.name;
    if (const auto removed = remove_hidden(staged); !removed) { return base::pass_on(removed); }
    const auto written = write_small(staged / kManifestFile, format_manifest(manifest));
    if (!written) { return base::pass_on(written); }
    if (const auto done = rename_durably(staged, folder); !done) { return base::pass_on(done); }
    return StoredModel{manifest, folder};
}

Result<void> Store::remove(const std::string& name) const {
    if (const auto good = check_name(name); !good) { return base::pass_on(good); }
    std::error_code ignored;
    const bool is_there = fs::exists(folder_ / name, ignored);
    const bool is_left = fs::exists(partial(name), ignored);
    if (!is_there && !is_left) {
        return base::fail(ErrorCode::not_found, "there is no model " + name + " in " + folder_.string());
    }
    if (const auto removed = remove_folder(partial(name)); !removed) { return base::pass_on(removed); }
    if (!is_there) { return {}; }
    // Away at once for everybody else, then byte by byte.
    if (const auto done = rename_durably(folder_ / name, partial(name)); !done) { return base::pass_on(done); }
    return remove_folder(partial(name));
}

std::optional<std::uint64_t> Store::bytes_free() const {
    struct ::statvfs status{};
    if (::statvfs(folder_.c_str(), &status) != 0) { return std::nullopt; }
    return static_cast<std::uint64_t>(status.f_bavail) * status.f_frsize;
}

Result<fs::path> store_folder() {
    const auto value_of = [](const char* name) {
        const char* value = std::getenv(name);
        return fs::path(value == nullptr ? "" : value);
    };
    fs::path folder = value_of("SLUICE_MODELS");
    if (folder.empty()) {
        const fs::path data = value_of("XDG_DATA_HOME");
        const fs::path home = value_of("HOME");
        if (data.is_absolute()) {  // the specification: a relative one is ignored
            folder = data / "sluice" / "models";
        } else if (home.is_absolute()) {
            folder = home / ".local" / "share" / "sluice" / "models";
        } else {
            return base::fail(ErrorCode::failed_precondition,
                              "there is no folder for models: neither SLUICE_MODELS nor XDG_DATA_HOME nor HOME is set");
        }
    }
    std::error_code error;
    fs::path absolute = fs::absolute(folder, error);
    if (error) { return tl::unexpected(engine::system_error("find", folder, error.value())); }
    return absolute.lexically_normal();
}

Result<fs::path> usable_store_folder() {
    auto folder = store_folder();
    const char* chosen = std::getenv("SLUICE_MODELS");
    std::error_code error;
    // One that was chosen, or that is there, is the one; prepare() says why it cannot be written to.
    if (folder && ((chosen != nullptr && *chosen != 0) || fs::is_directory(*folder, error))) { return folder; }
    auto usable = engine::usual_or_temporary(folder ? *folder : fs::path(), folder ? "" : folder.error().message,
                                             "models", "SLUICE_MODELS");
    if (!usable) { return base::pass_on(usable, "the models' folder"); }
    if (!usable->warning.empty()) { spdlog::warn("the models' folder: {}", usable->warning); }
    return usable->path;
}

}  // namespace cli::model
