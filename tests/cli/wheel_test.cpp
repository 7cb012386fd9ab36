#include "cli/model/wheel.h"

#include "tests/cli/folder.h"
#include "tests/cli/make_zip.h"
#include "tests/support/catch.h"

using namespace cli::model;
using Paths = std::vector<std::string>;

TEST_CASE("the model of a wheel is found where nobody names it", "[cli][model]") {
    const auto gguf = find_model({"pkg/__init__.py", "pkg/m.Q4_0.gguf", "pkg-1.dist-info/METADATA"});
    REQUIRE(gguf);
    CHECK(gguf->paths == Paths{"m.Q4_0.gguf"});
    CHECK(gguf->members == Paths{"pkg/m.Q4_0.gguf"});
    const auto folder =
        find_model({"pkg/m/config.json", "pkg/m/model.safetensors", "pkg/m/1_Pooling/config.json", "pkg/x.py"});
    REQUIRE(folder);
    CHECK(folder->paths == Paths{"1_Pooling/config.json", "config.json", "model.safetensors"});
    CHECK(folder->members.front() == "pkg/m/1_Pooling/config.json");
    CHECK_FALSE(find_model({"pkg/a/x.gguf", "pkg/b/y.gguf"}));
    CHECK(find_model({"pkg/model.bin"}).error().code == base::ErrorCode::not_found);
}

TEST_CASE("a wheel's licence is the one that its metadata name", "[cli][model]") {
    const cli_test::Folder folder;
    const auto licence = [&](const std::string& metadata) {
        cli_test::make_zip(folder.path() / "w.whl", {{"x-1.dist-info/METADATA", metadata}});
        return licence_of_wheel(ZipFile::open(folder.path() / "w.whl").value());
    };
    CHECK(licence("Name: x\nLicense: Apache-2.0\n\ntext\n") == "Apache-2.0");
    CHECK(licence("License: MIT\r\nLicense-Expression: Apache-2.0\r\n\r\n") == "Apache-2.0");
    CHECK(licence("Name: x\n\nLicense: not this\n").empty());
    CHECK(licence("").empty());
}

TEST_CASE("what pip prints becomes one clear line", "[cli][model]") {
    CHECK(explain_pip(127, "", "x==1").code == base::ErrorCode::failed_precondition);
    CHECK(
        explain_pip(1, "/usr/bin/python3: No module named pip\n", "x==1").message.find("apt-get install python3-pip") !=
        std::string::npos);
    const std::string offline =
        "WARNING: Retrying (Retry(total=4)) after connection broken by 'NewConnectionError: Failed to establish a new "
        "connection: [Errno -3] Temporary failure in name resolution'\nERROR: Could not find a version that satisfies "
        "the "
        "requirement x==1 (from versions: none)\nERROR: No matching distribution found for x==1\n";
    CHECK(explain_pip(1, offline, "x==1").code == base::ErrorCode::unavailable);
    const auto missing = explain_pip(1, offline.substr(offline.find("ERROR")), "x==1");
    CHECK(missing.code == base::ErrorCode::not_found);
    CHECK(missing.message.find("No matching distribution found for x==1") != std::string::npos);
    CHECK(explain_pip(2, "ERROR: odd\n", "x==1").message == "pip could not fetch x==1 (status 2): odd");
}
