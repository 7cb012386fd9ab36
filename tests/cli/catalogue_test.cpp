#include "cli/model/catalogue.h"

#include "cli/model/built_in.h"
#include "cli/model/needed_files.h"
#include "cli/model/resolve.h"
#include "tests/cli/folder.h"
#include "tests/support/catch.h"

using namespace cli::model;

namespace {

const std::string kHash(64, 'a');
const std::string kGood =
    "tiny:\n  title: t\n  licence: MIT\n  home: https://x\n  files:\n    - {path: m.gguf, bytes: 12, sha256: " + kHash +
    "}\n  places:\n    - hub: org/repo@abc\n    - packages: [\"a==1/x/{path}\"]\n      bytes: 5\n";

std::string with(const std::string& from, const std::string& to) {
    std::string text = kGood;
    text.replace(text.find(from), from.size(), to);
    return text;
}

}  // namespace

TEST_CASE("the catalogue that is built in is whole, has the default model, and its hub places are pinned to commits",
          "[cli][model]") {
    const auto catalogue = parse_catalogue(built_in_catalogue(), "catalogue.yaml");
    REQUIRE(catalogue);
    const CatalogueEntry* chosen = find_entry(*catalogue, kDefaultModel);
    REQUIRE(chosen != nullptr);
    CHECK(chosen->licence == "Apache-2.0");
    REQUIRE(find_entry(*catalogue, "all-minilm-l6-v2") != nullptr);
    for (const CatalogueEntry& entry : *catalogue) {
        CAPTURE(entry.name);
        CHECK(entry.bytes() > 0);
        CHECK(std::holds_alternative<HubSource>(entry.places.front()));
        for (const Place& place : entry.places) {
            if (const auto* hub = std::get_if<HubSource>(&place)) { CHECK(hub->revision.size() == 40); }
        }
    }
    CHECK(find_entry(*catalogue, "no-such-model") == nullptr);
}

TEST_CASE("a catalogue says in which line it is wrong", "[cli][model]") {
    REQUIRE(parse_catalogue(kGood, "c.yaml"));
    for (const std::string& bad :
         {with("licence: MIT", "license: MIT"), with("  title: t\n", ""), with(kHash, "123"),
          with("bytes: 12", "bytes: x"), with("m.gguf", "../m.gguf"), with("m.gguf", "m.bin"),
          with("org/repo@abc", "repo"), with("a==1/x/{path}", "a==1"), with("hub: org/repo@abc", "url: https://x"),
          std::string("- a\n"), std::string("tiny: [\n")}) {
        CAPTURE(bad);
        const auto refused = parse_catalogue(bad, "c.yaml");
        REQUIRE_FALSE(refused);
        CHECK(refused.error().code == base::ErrorCode::invalid_argument);
        CHECK(refused.error().message.find("c.yaml") != std::string::npos);
    }
    CHECK(parse_catalogue(with("bytes: 12", "bytes: x"), "c.yaml").error().message.find("c.yaml:6") == 0);
}

TEST_CASE("the members of a file are named by its path", "[cli][model]") {
    const auto catalogue =
        parse_catalogue(with("[\"a==1/x/{path}\"]", "[\"a==1/m.zip!/{path}\", b==2/tail]"), "c.yaml");
    REQUIRE(catalogue);
    const auto& place = std::get<PackagePlace>(catalogue->front().places[1]);
    CHECK(parts_of(place, "1_Pooling/config.json") ==
          std::vector<PackagePart>{{"a", "1", "m.zip", "1_Pooling/config.json"}, {"b", "2", "tail", ""}});
    CHECK(describe(catalogue->front().places[1]) == "pip:a==1+b==2");
    CHECK(describe(catalogue->front().places[0]) == "hf:org/repo@abc");
}

TEST_CASE("another catalogue can be named", "[cli][model]") {
    const cli_test::Folder folder;
    {
        const cli_test::Variable other("SLUICE_CATALOGUE", folder.write("c.yaml", kGood).string());
        CHECK(load_catalogue().value().front().name == "tiny");
    }
    const cli_test::Variable missing("SLUICE_CATALOGUE", (folder.path() / "none.yaml").string());
    CHECK(load_catalogue().error().code == base::ErrorCode::not_found);
}
