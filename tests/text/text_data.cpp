#include "tests/text/text_data.h"

#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <sstream>

namespace text_test {

namespace fs = std::filesystem;
namespace json = boost::json;

std::optional<fs::path> shared_data() {
    const char* configured = std::getenv("SLUICE_SHARED");
    const fs::path shared =
        configured != nullptr ? fs::path(configured) : fs::path(SLUICE_SOURCE_DIR) / ".." / "shared";
    std::error_code error;
    if (!fs::is_directory(shared / "data" / "tokenizers", error)) { return std::nullopt; }
    return shared / "data";
}

fs::path own_data() {
    return fs::path(SLUICE_SOURCE_DIR) / "tests" / "data" / "text";
}

fs::path stories_folder() {
    return fs::path(SLUICE_SOURCE_DIR) / "models" / "stories260k";
}

void skipped(std::string_view why) {
    std::cout << "SKIPPED: " << why << std::endl;
}

std::string bytes_of(const fs::path& path) {
    if (path.extension() != ".gz") {
        std::ifstream stream(path, std::ios::binary);
        std::ostringstream content;
        content << stream.rdbuf();
        return content.str();
    }
    std::string content;
    std::FILE* pipe = popen(("gzip -dc '" + path.string() + "'").c_str(), "r");
    if (pipe == nullptr) { return content; }
    std::array<char, 65536> chunk;
    for (std::size_t size = 1; size > 0;) {
        size = std::fread(chunk.data(), 1, chunk.size(), pipe);
        content.append(chunk.data(), size);
    }
    pclose(pipe);
    return content;
}

std::vector<json::object> rows_of(const fs::path& path) {
    std::vector<json::object> rows;
    std::istringstream lines(bytes_of(path));
    for (std::string line; std::getline(lines, line);) {
        if (!line.empty()) { rows.push_back(json::parse(line).as_object()); }
    }
    return rows;
}

json::value document_of(const fs::path& path) {
    return json::parse(bytes_of(path));
}

std::vector<base::TokenId> ids_of(const json::value& list) {
    std::vector<base::TokenId> ids;
    for (const json::value& id : list.as_array()) {
        ids.push_back(static_cast<base::TokenId>(id.as_int64()));
    }
    return ids;
}

TemporaryFolder::TemporaryFolder() {
    std::string name = (fs::temp_directory_path() / "sluice_text_XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) { std::abort(); }
    path_ = name;
}

TemporaryFolder::~TemporaryFolder() {
    std::error_code error;
    fs::remove_all(path_, error);
}

fs::path TemporaryFolder::write(const std::string& name, std::string_view content) const {
    std::ofstream stream(path_ / name, std::ios::binary);
    stream.write(content.data(), static_cast<std::streamsize>(content.size()));
    return path_ / name;
}

}  // namespace text_test
