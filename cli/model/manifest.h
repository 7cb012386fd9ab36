#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace cli::model {

/// One file of a stored model, checked before the model was published.
struct FileRecord {
    std::string path{};  // inside the model's folder
    std::uint64_t bytes = 0;
    std::string sha256{};
    bool operator==(const FileRecord&) const = default;
};

/// What is known of a stored model: `sluice.json` in its folder.
struct Manifest {
    std::string name{};
    std::string source{};   // as it was asked for (format_source())
    std::string origin{};   // where the bytes came from: hub, commit, package
    std::string licence{};  // as the source says it; empty: it does not say
    std::string entry{};    // the GGUF file to open; empty: the folder itself
    std::int64_t pulled_unix_s = 0;
    std::vector<FileRecord> files{};

    std::uint64_t bytes() const;
    bool operator==(const Manifest&) const = default;
};

inline constexpr std::string_view kManifestFile = "sluice.json";

std::string format_manifest(const Manifest& manifest);
/// Error: data_loss for what is not a manifest of this form.
base::Result<Manifest> parse_manifest(std::string_view text);

/// "2026-11-28T08:00:00Z".
std::string format_utc(std::int64_t unix_s);
/// "98.4 MB", in powers of ten, as disks and downloads are sold.
std::string format_bytes(std::uint64_t bytes);

}  // namespace cli::model
