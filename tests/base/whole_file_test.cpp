#include "base/whole_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "tests/support/catch.h"

namespace {

namespace fs = std::filesystem;

class Folder {
public:
    Folder() {
        std::string name = (fs::temp_directory_path() / "sluice-whole-file-XXXXXX").string();
        REQUIRE(mkdtemp(name.data()) != nullptr);
        path_ = name;
    }
    ~Folder() { fs::remove_all(path_); }
    Folder(const Folder&) = delete;
    Folder& operator=(const Folder&) = delete;
    std::string file(const std::string& name) const { return (path_ / name).string(); }
    std::size_t files() const {
        return static_cast<std::size_t>(std::distance(fs::directory_iterator(path_), fs::directory_iterator()));
    }

private:
    fs::path path_;
};

std::string read(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

TEST_CASE("a file is there whole, in the place of the one before, and nothing else is left") {
    const Folder folder;
    const std::string path = folder.file("out.json");
    REQUIRE(base::write_whole_file(path, "first, and longer"));
    REQUIRE(base::write_whole_file(path, std::string("a\0b", 3)));
    CHECK(read(path) == std::string("a\0b", 3));
    CHECK(folder.files() == 1);
}

TEST_CASE("what is no file stays what it is") {
    const Folder folder;
    const std::string path = folder.file("pipe");
    REQUIRE(mkfifo(path.c_str(), 0600) == 0);
    const int reader = open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    REQUIRE(reader >= 0);
    REQUIRE(base::write_whole_file(path, "through the pipe"));
    std::array<char, 64> text{};
    const ssize_t count = ::read(reader, text.data(), text.size());
    close(reader);
    REQUIRE(count > 0);
    CHECK(std::string(text.data(), static_cast<std::size_t>(count)) == "through the pipe");
    CHECK(fs::is_fifo(path));
    CHECK(folder.files() == 1);
}

TEST_CASE("a name that leads to such a thing stays a name") {
    const Folder folder;
    const std::string path = folder.file("out");
    fs::create_symlink("/dev/null", path);
    REQUIRE(base::write_whole_file(path, "nobody reads this"));
    CHECK(fs::is_symlink(fs::symlink_status(path)));
    CHECK(fs::is_character_file("/dev/null"));
}

TEST_CASE("what cannot be written is said with its name") {
    const Folder folder;
    const auto written = base::write_whole_file(folder.file("no/such/folder"), "text");
    REQUIRE(!written);
    CHECK(written.error().code == base::ErrorCode::unavailable);
    CHECK(written.error().message.find("no/such/folder: No such file or directory") != std::string::npos);
}
