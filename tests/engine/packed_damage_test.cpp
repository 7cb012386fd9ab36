// Bytes of a packed file that are not those that were written.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>

#include "engine/model/packed_file.h"
#include "engine/model/packed_sections.h"
#include "tests/engine/support.h"

#include "tests/support/catch.h"

namespace {

using engine::PackedFile;
using engine::WeightFormat;
using test_engine::TemporaryFolder;

struct Setting {
    TemporaryFolder folder;
    base::ModelShape shape = test_engine::small_shape();
    engine::PackingPlan plan = engine::plan_packing(shape, WeightFormat::f32);
    std::string model = folder.file("model");
    std::string packed = folder.file("packed");

    Setting() {
        test_engine::write_random_model(model, shape, "F32");
        std::filesystem::create_directory(packed);
    }
    PackedFile open() const {
        const auto checkpoint = engine::Checkpoint::open(model);
        REQUIRE(checkpoint);
        auto opened = engine::open_packed_file(*checkpoint, plan, packed, {});
        REQUIRE(opened);
        return std::move(*opened);
    }
    const engine::PackedItem& item(const std::string& name) const {
        for (const engine::PackedItem& item : plan.items) {
            if (item.name == name) { return item; }
        }
        throw std::runtime_error(name);
    }
};

void flip(const std::string& path, std::uint64_t offset) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(static_cast<std::streamoff>(offset));
    const int byte = file.get();
    file.seekp(static_cast<std::streamoff>(offset));
    file.put(static_cast<char>(byte ^ 0x10));
}

std::string content(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

TEST_CASE("one flipped bit of any part of a packed file is found, and the part named", "[engine][packed]") {
    const Setting setting;
    const std::string path = setting.open().path;
    std::mt19937 random{7};
    for (const engine::PackedItem& item : setting.plan.items) {
        for (const std::uint64_t offset :
             {item.offset, item.offset + item.bytes - 1, item.offset + random() % item.bytes}) {
            CAPTURE(item.name, offset);
            flip(path, offset);
            const auto file = base::MappedFile::open(path);
            REQUIRE(file);
            REQUIRE(engine::find_damaged_sections(file->bytes(), setting.plan) == std::vector<std::string>{item.name});
            flip(path, offset);
            REQUIRE(engine::find_damaged_sections(file->bytes(), setting.plan).empty());
        }
    }
}

TEST_CASE("a packed file with thousands of flipped bytes is packed again, as it was", "[engine][packed]") {
    const Setting setting;
    const std::string path = setting.open().path;
    const std::string before = content(path);
    std::mt19937 random{11};
    for (int i = 0; i < 4000; ++i) {
        flip(path, engine::kPackedAlignment + random() % (setting.plan.file_bytes - engine::kPackedAlignment));
    }
    REQUIRE(content(path) != before);
    const PackedFile again = setting.open();
    REQUIRE(again.packed_now);
    REQUIRE(content(path) == before);
    REQUIRE_FALSE(setting.open().packed_now);
}

TEST_CASE("a damaged table of checksums is damage too", "[engine][packed]") {
    const Setting setting;
    const std::string path = setting.open().path;
    flip(path, setting.plan.file_bytes);
    REQUIRE(setting.open().packed_now);
    REQUIRE_FALSE(setting.open().packed_now);
}

TEST_CASE("an engine keeps what it has mapped when another one finds the file damaged", "[engine][packed]") {
    const Setting setting;
    const PackedFile serving = setting.open();
    const std::uint64_t offset = setting.item("layers.2.down").offset;
    flip(serving.path, offset);  // of the file that both map
    const PackedFile other = setting.open();
    REQUIRE(other.packed_now);
    struct ::stat named{};
    struct ::stat held{};
    REQUIRE(::stat(serving.path.c_str(), &named) == 0);
    REQUIRE(serving.lock.status(held));
    REQUIRE(named.st_ino != held.st_ino);
    REQUIRE(engine::find_damaged_sections(other.file.bytes(), setting.plan).empty());
    REQUIRE(serving.file.bytes().size() == other.file.bytes().size());
}

TEST_CASE("files of an older version are packed again, once, and go when nobody uses them", "[engine][packed]") {
    const Setting setting;
    const std::string path = setting.open().path;
    const std::string ending = "-v" + std::to_string(engine::kPackingVersion) + ".weights";
    REQUIRE(path.ends_with(ending));
    const std::string older = path.substr(0, path.size() - ending.size()) + "-v1.weights";
    std::filesystem::rename(path, older);
    REQUIRE(setting.open().packed_now);
    REQUIRE_FALSE(std::filesystem::exists(older));
    REQUIRE_FALSE(setting.open().packed_now);

    std::filesystem::copy(path, older);
    {
        const auto used = engine::PackedLock::in_use(older);
        REQUIRE(used);
        std::filesystem::remove(path);
        REQUIRE(setting.open().packed_now);
        REQUIRE(std::filesystem::exists(older));
    }
}
