#pragma once

#include <filesystem>
#include <string>

#include "base/result.h"

namespace engine {

/// A folder that this user can write to.
struct UserFolder {
    std::filesystem::path path;
    std::string warning = {};  // why it is not the usual one; empty: it is
};

/// Makes `usual` where it is missing (for this user only) and sees that files can be made in it. Where that cannot be,
/// a folder `name` in "sluice-UID" under the system's temporary one, which must belong to this user, with a warning
/// that says the reason and `setting`. `usual` may be empty: `why_not` says then why there is none. Error: as the
/// system says, for both folders, naming `setting`.
base::Result<UserFolder> usual_or_temporary(const std::filesystem::path& usual, const std::string& why_not,
                                            const std::string& name, const std::string& setting);

/// Makes `path`, which a person has chosen; where it is there it may be one that can only be read. Error: as the system
/// says, naming path, reason and `setting`.
base::Result<void> make_user_folder(const std::filesystem::path& path, const std::string& setting);

}  // namespace engine
