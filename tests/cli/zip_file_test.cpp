#include "cli/model/zip_file.h"

#include "tests/cli/folder.h"
#include "tests/cli/make_zip.h"
#include "tests/support/catch.h"

using namespace cli::model;

TEST_CASE("a member is read whole, packed or not", "[cli][model]") {
    const cli_test::Folder folder;
    const std::string large(1'000'000, 'x');
    cli_test::make_zip(folder.path() / "z.zip", {{"a.txt", "hello"}, {"sub/large", large}});
    const auto zip = ZipFile::open(folder.path() / "z.zip");
    REQUIRE(zip);
    CHECK(zip->members() == std::vector<std::string>{"a.txt", "sub/large"});
    CHECK(zip->bytes_of("sub/large").value() == large.size());
    CHECK(zip->read_text("a.txt", 100).value() == "hello");
    CHECK(zip->read_text("sub/large", large.size()).value() == large);
    CHECK(zip->read_text("sub/large", 100).error().code == base::ErrorCode::resource_exhausted);
    CHECK(zip->read_text("none", 100).error().code == base::ErrorCode::not_found);
}

TEST_CASE("members that would leave the folder, links and doubles are not offered", "[cli][model]") {
    const cli_test::Folder folder;
    const auto path = folder.path() / "z.zip";
    cli_test::make_zip(path, {{"../evil", "x"}, {"/abs", "x"}, {"sub/", ""}, {"link", "/etc/passwd"}, {"ok", "x"}},
                       {"link"});
    const auto zip = ZipFile::open(path);
    REQUIRE(zip);
    CHECK(zip->members() == std::vector<std::string>{"ok"});
    CHECK(zip->read_text("../evil", 10).error().code == base::ErrorCode::not_found);
}

TEST_CASE("broken data is an error, wherever it is broken", "[cli][model]") {
    const cli_test::Folder folder;
    const auto path = folder.path() / "z.zip";
    cli_test::make_zip(path, {{"a.txt", std::string(10'000, 'x') + "end"}});
    const std::string whole = cli_test::read(path);
    CHECK(ZipFile::open(folder.path() / "none.zip").error().code == base::ErrorCode::not_found);
    std::size_t refused = 0;
    for (std::size_t at = 0; at < whole.size(); ++at) {
        std::string broken = whole;
        broken[at] = static_cast<char>(broken[at] ^ 0x55);
        const auto zip = ZipFile::open(folder.write("broken.zip", broken));
        const auto text = zip ? zip->read_text("a.txt", 20'000) : base::Result<std::string>(base::pass_on(zip));
        // Times and attributes may be anything; what is read is what was packed, or there is an error.
        if (text) {
            CHECK(*text == std::string(10'000, 'x') + "end");
        } else {
            ++refused;
        }
    }
    CHECK(refused > whole.size() / 2);
    for (std::size_t length = 0; length < whole.size(); ++length) {
        CHECK_FALSE(ZipFile::open(folder.write("short.zip", whole.substr(0, length))));
    }
}
