#include "base/mapped_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <utility>

#include "tests/support/catch.h"

namespace {

/// A folder that goes away with its contents.
class TemporaryFolder {
public:
    TemporaryFolder() {
        std::string name = (std::filesystem::temp_directory_path() / "mapped_file_test.XXXXXX").string();
        REQUIRE(mkdtemp(name.data()) != nullptr);
        path_ = name;
    }
    ~TemporaryFolder() { std::filesystem::remove_all(path_); }
    TemporaryFolder(const TemporaryFolder&) = delete;
    TemporaryFolder& operator=(const TemporaryFolder&) = delete;

    std::filesystem::path file(const std::string& name, std::string_view content) const {
        std::ofstream(path_ / name, std::ios::binary) << content;
        return path_ / name;
    }
    const std::filesystem::path& path() const { return path_; }

private:
    std::filesystem::path path_;
};

std::string_view text_of(const base::MappedFile& file) {
    return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

}  // namespace

TEST_CASE("a mapped file shows its bytes and stays where it is when moved", "[base]") {
    const TemporaryFolder folder;
    auto mapped = base::MappedFile::open(folder.file("a", "weights"));
    REQUIRE(mapped.has_value());
    REQUIRE(text_of(*mapped) == "weights");
    const std::byte* address = mapped->bytes().data();
    base::MappedFile moved(std::move(*mapped));
    REQUIRE(mapped->bytes().empty());
    base::MappedFile assigned;
    assigned = std::move(moved);
    REQUIRE(assigned.bytes().data() == address);
    std::filesystem::remove(folder.path() / "a");
    REQUIRE(text_of(assigned) == "weights");  // the mapping keeps the file
}

TEST_CASE("two mappings of a file share what is written to it", "[base]") {
    const TemporaryFolder folder;
    const auto path = folder.file("a", "one");
    const auto first = base::MappedFile::open(path);
    const auto second = base::MappedFile::open(path);
    REQUIRE(first.has_value());
    REQUIRE(second.has_value());
    std::fstream(path, std::ios::in | std::ios::out) << "two";
    REQUIRE(text_of(*first) == "two");
    REQUIRE(text_of(*second) == "two");
}

TEST_CASE("an empty file has no bytes", "[base]") {
    const TemporaryFolder folder;
    const auto mapped = base::MappedFile::open(folder.file("a", ""));
    REQUIRE(mapped.has_value());
    REQUIRE(mapped->bytes().empty());
}

TEST_CASE("what cannot be mapped is named with the reason", "[base]") {
    const TemporaryFolder folder;
    const auto missing = base::MappedFile::open(folder.path() / "none");
    REQUIRE_FALSE(missing.has_value());
    REQUIRE(missing.error().code == base::ErrorCode::not_found);
    REQUIRE(missing.error().message.find((folder.path() / "none").string()) != std::string::npos);
    const auto below_file = base::MappedFile::open(folder.file("a", "x") / "b");
    REQUIRE_FALSE(below_file.has_value());
    REQUIRE(below_file.error().code == base::ErrorCode::not_found);
    const auto directory = base::MappedFile::open(folder.path());
    REQUIRE_FALSE(directory.has_value());
    REQUIRE(directory.error().code == base::ErrorCode::invalid_argument);
    REQUIRE(mkfifo((folder.path() / "pipe").c_str(), 0600) == 0);
    const auto pipe = base::MappedFile::open(folder.path() / "pipe");  // does not wait for a writer
    REQUIRE_FALSE(pipe.has_value());
    REQUIRE(pipe.error().code == base::ErrorCode::invalid_argument);
}

TEST_CASE("a file without permission is refused as such", "[base]") {
    const TemporaryFolder folder;
    const auto path = folder.file("a", "x");
    std::filesystem::permissions(path, std::filesystem::perms::none);
    const bool is_root = geteuid() == 0;  // root may read everything: be somebody else for a moment
    if (is_root) { REQUIRE(seteuid(65534) == 0); }
    const auto refused = base::MappedFile::open(path);
    if (is_root) { REQUIRE(seteuid(0) == 0); }
    REQUIRE_FALSE(refused.has_value());
    REQUIRE(refused.error().code == base::ErrorCode::permission_denied);
}
