#pragma once

#include <zip.h>

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"

namespace cli_test {

/// Writes a zip with these members in order; those that `links` names are marked as symbolic links.
inline void make_zip(const std::filesystem::path& path, const std::vector<std::pair<std::string, std::string>>& members,
                     const std::vector<std::string>& links = {}) {
    int code = 0;
    zip_t* archive = zip_open(path.c_str(), ZIP_CREATE | ZIP_TRUNCATE, &code);
    CHECK(archive != nullptr, code);
    for (const auto& [name, bytes] : members) {
        zip_source_t* source = zip_source_buffer(archive, bytes.data(), bytes.size(), 0);
        const zip_int64_t index = zip_file_add(archive, name.c_str(), source, 0);
        CHECK(index >= 0, name);
        const bool is_link = std::find(links.begin(), links.end(), name) != links.end();
        const auto mode = static_cast<zip_uint32_t>((is_link ? S_IFLNK : S_IFREG) | 0644) << 16;
        CHECK(zip_file_set_external_attributes(archive, static_cast<zip_uint64_t>(index), 0, ZIP_OPSYS_UNIX, mode) ==
              0);
    }
    CHECK(zip_close(archive) == 0, zip_strerror(archive));
}

}  // namespace cli_test
