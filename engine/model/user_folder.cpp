#include "engine/model/user_folder.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "engine/model/read_file.h"

namespace engine {
namespace {

namespace fs = std::filesystem;
using base::ErrorCode;
using base::Result;

/// Makes a folder and those above it; the last one for this user only.
Result<void> make(const fs::path& path) {
    std::error_code error;
    if (path.has_parent_path()) {
        fs::create_directories(path.parent_path(), error);
        if (error) { return tl::unexpected(system_error("make the folder", path.parent_path(), error.value())); }
    }
    if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) {
        return tl::unexpected(system_error("make the folder", path, errno));
    }
    struct ::stat status{};
    if (::stat(path.c_str(), &status) != 0) { return tl::unexpected(system_error("open", path, errno)); }
    if (!S_ISDIR(status.st_mode)) {
        return base::fail(ErrorCode::invalid_argument, path.string() + " is not a folder");
    }
    return {};
}

Result<void> make_writable(const fs::path& path) {
    if (auto made = make(path); !made) { return made; }
    if (::access(path.c_str(), W_OK | X_OK) != 0) { return tl::unexpected(system_error("write to", path, errno)); }
    return {};
}

/// In a folder that everybody can write to, somebody else may have made one of this name, or a link.
Result<void> check_owner(const fs::path& path) {
    struct ::stat status{};
    if (::lstat(path.c_str(), &status) != 0) { return tl::unexpected(system_error("open", path, errno)); }
    if (!S_ISDIR(status.st_mode) || status.st_uid != ::getuid() || (status.st_mode & 022) != 0) {
        return base::fail(ErrorCode::permission_denied,
                          path.string() + " is not a folder of this user that nobody else can write to");
    }
    return {};
}

Result<fs::path> make_temporary(const std::string& name) {
    std::error_code error;
    const fs::path temporary = fs::temp_directory_path(error);
    if (error) { return base::fail(ErrorCode::not_found, "there is no temporary folder (TMPDIR): " + error.message()); }
    const fs::path own = temporary / ("sluice-" + std::to_string(::getuid()));
    if (auto made = make_writable(own); !made) { return base::pass_on(made); }
    if (auto checked = check_owner(own); !checked) { return base::pass_on(checked); }
    fs::path folder = own / name;
    if (auto made = make_writable(folder); !made) { return base::pass_on(made); }
    return folder;
}

}  // namespace

Result<void> make_user_folder(const fs::path& path, const std::string& setting) {
    if (auto made = make(path); !made) {
        return base::fail(made.error().code, made.error().message + " (" + setting + " chooses another folder)");
    }
    return {};
}

Result<UserFolder> usual_or_temporary(const fs::path& usual, const std::string& why_not, const std::string& name,
                                      const std::string& setting) {
    std::string reason = why_not;
    if (!usual.empty()) {
        auto made = make_writable(usual);
        if (made) { return UserFolder{.path = usual}; }
        reason = std::move(made.error().message);
    }
    auto temporary = make_temporary(name);
    if (!temporary) {
        return base::fail(temporary.error().code,
                          reason + "; " + temporary.error().message + " (" + setting + " chooses another folder)");
    }
    return UserFolder{.path = *temporary,
                      .warning = reason + ": using " + temporary->string() +
                                 ", which a restart of the machine may "
                                 "empty (" +
                                 setting + " chooses another folder)"};
}

}  // namespace engine
