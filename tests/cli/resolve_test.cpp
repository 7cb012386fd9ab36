#include "cli/model/resolve.h"

#include "cli/model/built_in.h"
#include "cli/model/store.h"
#include "tests/cli/folder.h"
#include "tests/support/catch.h"

using namespace cli::model;

namespace {

bool never() {
    return false;
}

const std::string kHash(64, 'a');

void put(const Store& store, const std::string& name, const std::string& entry) {
    REQUIRE(store.prepare());
    const auto stage = store.stage(name, "x");
    REQUIRE(stage);
    REQUIRE(write_small(*stage / entry, "GGUF"));
    REQUIRE(store.publish({.name = name, .source = name, .entry = entry, .files = {{entry, 4, kHash}}}));
}

}  // namespace

TEST_CASE("what is there as a path wins over any name", "[cli][model]") {
    const cli_test::Folder folder;
    const cli_test::Variable models("SLUICE_MODELS", (folder.path() / "store").string());
    const std::string path = (folder.path() / "here").string();
    std::filesystem::create_directory(path);
    const auto resolved = resolve_model(path, FirstUse::refuse, never);
    REQUIRE(resolved);
    CHECK(resolved->path == path);
    CHECK(resolved->name.empty());
    CHECK(resolve_model(path + "/none", FirstUse::pull, never).error().code == base::ErrorCode::not_found);
}

TEST_CASE("a name of the store is its file or folder, and keeps its name", "[cli][model]") {
    const cli_test::Folder folder;
    const cli_test::Variable models("SLUICE_MODELS", folder.path().string());
    const Store store(folder.path());
    put(store, "my-model", "m.gguf");
    const auto resolved = resolve_model("my-model", FirstUse::refuse, never);
    REQUIRE(resolved);
    CHECK(resolved->path == (folder.path() / "my-model" / "m.gguf").string());
    CHECK(resolved->name == "my-model");
}

TEST_CASE("a name of the catalogue that is not there is refused where nothing may be pulled", "[cli][model]") {
    const cli_test::Folder folder;
    const cli_test::Variable models("SLUICE_MODELS", folder.path().string());
    const auto refused = resolve_model(std::string(kDefaultModel), FirstUse::refuse, never);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().message.find("sluice model pull " + std::string(kDefaultModel)) != std::string::npos);
    const auto unknown = resolve_model("no-such-model", FirstUse::pull, never);
    REQUIRE_FALSE(unknown);
    CHECK(unknown.error().message.find(folder.path().string()) != std::string::npos);
}

TEST_CASE("the built-in model is written where it is missing or damaged", "[cli][model]") {
    const cli_test::Folder folder;
    const cli_test::Variable models("SLUICE_MODELS", (folder.path() / "store").string());
    const cli_test::Variable cache("XDG_CACHE_HOME", folder.path().string());
    const auto resolved = resolve_model(std::string(kBuiltInModel), FirstUse::refuse, never);
    REQUIRE(resolved);
    const std::filesystem::path path = resolved->path;
    const std::filesystem::path original = std::filesystem::path(SLUICE_SOURCE_DIR) / "models" / "stories260k";
    for (const char* name : {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}) {
        CHECK(cli_test::read(path / name) == cli_test::read(original / name));
    }
    std::ofstream(path / "config.json") << "{}";
    REQUIRE(resolve_model(std::string(kBuiltInModel), FirstUse::refuse, never));
    CHECK(cli_test::read(path / "config.json") == cli_test::read(original / "config.json"));
}
