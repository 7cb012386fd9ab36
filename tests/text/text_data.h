#pragma once

#include <boost/json.hpp>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "text/tokenizer.h"

namespace text_test {

/// The folder of larger data that is not part of the repository (SLUICE_SHARED, or `shared` beside the repository);
/// empty when it is not there.
std::optional<std::filesystem::path> shared_data();

/// tests/data/text of the repository.
std::filesystem::path own_data();

/// The model that is part of the repository.
std::filesystem::path stories_folder();

/// Says that a test cannot run here. Returns after printing "SKIPPED: <why>".
void skipped(std::string_view why);

/// Rows of a .jsonl file, or of a .jsonl.gz file (through gzip). Empty when it cannot be read.
std::vector<boost::json::object> rows_of(const std::filesystem::path& path);

/// The document in a file.
boost::json::value document_of(const std::filesystem::path& path);

std::vector<base::TokenId> ids_of(const boost::json::value& list);

/// A folder that goes away with the object.
class TemporaryFolder {
public:
    TemporaryFolder();
    ~TemporaryFolder();
    TemporaryFolder(const TemporaryFolder&) = delete;
    TemporaryFolder& operator=(const TemporaryFolder&) = delete;
    const std::filesystem::path& path() const { return path_; }
    /// Writes a file into it and gives its path.
    std::filesystem::path write(const std::string& name, std::string_view content) const;

private:
    std::filesystem::path path_;
};

std::string bytes_of(const std::filesystem::path& path);

}  // namespace text_test
