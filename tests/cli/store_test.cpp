#include "cli/model/store.h"

#include <unistd.h>

#include "cli/model/source.h"
#include "tests/cli/folder.h"
#include "tests/support/catch.h"

using namespace cli::model;
namespace fs = std::filesystem;

namespace {

const std::string kHash(64, 'a');

bool never() {
    return false;
}

Manifest manifest_of(const std::string& name) {
    return {.name = name,
            .source = "hf:org/repo@main",
            .origin = "hf:org/repo@" + std::string(40, 'c'),
            .licence = "MIT",
            .entry = "m.gguf",
            .pulled_unix_s = 1795852800,
            .files = {{"m.gguf", 4, kHash}}};
}

StoredModel put(const Store& store, const std::string& name) {
    REQUIRE(store.prepare());
    const auto stage = store.stage(name, "x");
    REQUIRE(stage);
    REQUIRE(write_small(*stage / "m.gguf", "GGUF"));
    fs::create_directory(*stage / ".wheels");
    const auto published = store.publish(manifest_of(name));
    REQUIRE(published);
    return *published;
}

}  // namespace

TEST_CASE("a model is in the store only when it is published, whole and under its name", "[cli][model]") {
    const cli_test::Folder folder;
    const Store store(folder.path() / "store");
    CHECK(store.list().empty());
    REQUIRE(store.prepare());
    REQUIRE(store.stage("m", "x"));
    CHECK_FALSE(store.find("m").value());
    CHECK(store.unfinished().size() == 1);
    const StoredModel model = put(store, "m");
    CHECK(model.path() == store.folder() / "m" / "m.gguf");
    CHECK(store.unfinished().empty());
    REQUIRE(store.find("m").value());
    CHECK(store.find("m").value()->manifest == manifest_of("m"));
    REQUIRE(store.list().size() == 1);
    CHECK(cli_test::read(model.path()) == "GGUF");
    for (const auto& entry : fs::directory_iterator(model.folder)) {
        CHECK_FALSE(entry.path().filename().string().starts_with('.'));
    }
}

TEST_CASE("what a pull has left is kept for the same files and removed for others", "[cli][model]") {
    const cli_test::Folder folder;
    const Store store(folder.path());
    REQUIRE(store.prepare());
    const fs::path stage = store.stage("m", "these").value();
    REQUIRE(write_small(stage / "m.gguf.part", "half"));
    CHECK(fs::exists(store.stage("m", "these").value() / "m.gguf.part"));
    CHECK_FALSE(fs::exists(store.stage("m", "others").value() / "m.gguf.part"));
}

TEST_CASE("one process at a time works on a model", "[cli][model]") {
    const cli_test::Folder folder;
    const Store store(folder.path());
    REQUIRE(store.prepare());
    int waits = 0;
    const auto count = [&waits] { ++waits; };
    {
        const auto first = store.lock("m", std::chrono::seconds(0), never, count);
        REQUIRE(first);
        CHECK(waits == 0);
        const auto second = store.lock("m", std::chrono::seconds(0), never, count);
        REQUIRE_FALSE(second);
        CHECK(second.error().code == base::ErrorCode::deadline_exceeded);
        const auto interrupted = store.lock("m", std::chrono::hours(1), [] { return true; }, count);
        REQUIRE_FALSE(interrupted);
        CHECK(interrupted.error().code == base::ErrorCode::cancelled);
        CHECK(waits == 1);
        CHECK(store.lock("other", std::chrono::seconds(0), never, count));
    }
    CHECK(store.lock("m", std::chrono::seconds(0), never, count));
}

TEST_CASE("a removed model is gone, and so is what a pull has left", "[cli][model]") {
    const cli_test::Folder folder;
    const Store store(folder.path());
    put(store, "m");
    REQUIRE(store.stage("m", "x"));
    REQUIRE(store.remove("m"));
    CHECK_FALSE(store.find("m").value());
    CHECK(store.unfinished().empty());
    CHECK(store.remove("m").error().code == base::ErrorCode::not_found);
    CHECK(store.remove("../x").error().code == base::ErrorCode::invalid_argument);
}

TEST_CASE("a model is not put where something else stands", "[cli][model]") {
    const cli_test::Folder folder;
    const Store store(folder.path());
    REQUIRE(store.prepare());
    folder.write("m/precious", "mine");
    const auto stage = store.stage("m", "x");
    REQUIRE(stage);
    CHECK_FALSE(store.publish(manifest_of("m")));
    CHECK(cli_test::read(folder.path() / "m" / "precious") == "mine");
}

TEST_CASE("a folder that cannot be used is named with the reason and the setting", "[cli][model]") {
    const cli_test::Folder folder;
    const Store store(folder.write("file", "x") / "store");
    const auto refused = store.prepare();
    REQUIRE_FALSE(refused);
    CHECK(refused.error().message.find((folder.path() / "file" / "store").string()) != std::string::npos);
    CHECK(refused.error().message.find("Not a directory") != std::string::npos);
    CHECK(refused.error().message.find("SLUICE_MODELS") != std::string::npos);
}

TEST_CASE("a manifest that cannot be read is an error and no model", "[cli][model]") {
    const cli_test::Folder folder;
    const Store store(folder.path());
    put(store, "m");
    for (const std::string& bad : {std::string("{"), std::string("{}"), std::string(R"({"form":2})")}) {
        folder.write("m/sluice.json", bad);
        const auto found = store.find("m");
        REQUIRE_FALSE(found);
        CHECK(found.error().code == base::ErrorCode::data_loss);
        CHECK(found.error().message.find("sluice model remove m") != std::string::npos);
        CHECK(store.list().empty());
    }
    // One that would lead out of the model's folder is none either.
    std::string text = format_manifest(manifest_of("m"));
    text.replace(text.find("\"entry\":\"m.gguf\""), 16, "\"entry\":\"../../x\"");
    CHECK_FALSE(parse_manifest(text));
}

TEST_CASE("the store is where the environment says", "[cli][model]") {
    const cli_test::Folder folder;
    const cli_test::Variable home("HOME", "/home/someone");
    const cli_test::Variable data("XDG_DATA_HOME", "/data");
    {
        const cli_test::Variable chosen("SLUICE_MODELS", "/models");
        CHECK(store_folder().value() == "/models");
    }
    const cli_test::Variable none("SLUICE_MODELS", "");
    CHECK(store_folder().value() == "/data/sluice/models");
    const cli_test::Variable relative("XDG_DATA_HOME", "data");
    CHECK(store_folder().value() == "/home/someone/.local/share/sluice/models");
    const cli_test::Variable homeless("HOME", "");
    CHECK(store_folder().error().code == base::ErrorCode::failed_precondition);
}

TEST_CASE("where no folder for models can be made, a private temporary one is used", "[cli][store]") {
    const cli_test::Folder folder;
    const std::string temporary = (folder.path() / "tmp").string();
    std::filesystem::create_directory(temporary);
    std::ofstream(folder.path() / "file") << "x";
    const cli_test::Variable place("TMPDIR", temporary);
    const cli_test::Variable data("XDG_DATA_HOME", "");
    const std::string own = temporary + "/sluice-" + std::to_string(::getuid()) + "/models";
    {
        const cli_test::Variable none("SLUICE_MODELS", "");
        const cli_test::Variable home("HOME", (folder.path() / "file").string());
        CHECK(usable_store_folder().value() == own);
        const cli_test::Variable homeless("HOME", "");
        CHECK(usable_store_folder().value() == own);
        const cli_test::Variable good("HOME", (folder.path() / "home").string());
        CHECK(usable_store_folder().value() == folder.path() / "home" / ".local" / "share" / "sluice" / "models");
    }
    // One that a person chose is not replaced: prepare() says what is wrong with it.
    const cli_test::Variable chosen("SLUICE_MODELS", (folder.path() / "file" / "models").string());
    CHECK(usable_store_folder().value() == folder.path() / "file" / "models");
    CHECK_FALSE(Store(usable_store_folder().value()).prepare());
}

TEST_CASE("numbers are written for people", "[cli][model]") {
    CHECK(format_bytes(999) == "999 bytes");
    CHECK(format_bytes(98'362'432) == "98.4 MB");
    CHECK(format_bytes(999'960) == "1.0 MB");
    CHECK(format_utc(1795852800) == "2026-11-28T08:00:00Z");
}
