#include "cli/model/digest.h"

#include "cli/model/part_file.h"
#include "tests/cli/folder.h"
#include "tests/support/catch.h"

using namespace cli::model;

TEST_CASE("a digest of pieces is that of the whole, as the standard gives it", "[cli][model]") {
    Digest digest(Digest::Kind::sha256);
    digest.update("a");
    digest.update("bc");
    // Source: FIPS 180-4, example "abc".
    CHECK(digest.finish() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST_CASE("git's name of a file is the one that git gives it", "[cli][model]") {
    const cli_test::Folder folder;
    // git hash-object of a file with "hello\n"
    CHECK(git_blob_sha1_of_file(folder.write("hello", "hello\n")).value() ==
          "ce013625030ba8dba906f756967f9e9ca394464a");
    CHECK(git_blob_sha1_of_file(folder.path() / "none").error().code == base::ErrorCode::not_found);
}

TEST_CASE("a part goes on behind what an earlier try has left, and its hash covers both", "[cli][model]") {
    const cli_test::Folder folder;
    const auto path = folder.path() / "x.part";
    {
        auto first = PartFile::open(path);
        REQUIRE(first);
        REQUIRE(first->append(std::as_bytes(std::span(std::string_view("ab")))));
    }
    auto second = PartFile::open(path);
    REQUIRE(second);
    CHECK(second->bytes() == 2);
    REQUIRE(second->append(std::as_bytes(std::span(std::string_view("c")))));
    CHECK(second->finish().value() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    CHECK(cli_test::read(path) == "abc");
    CHECK(sha256_of_file(path).value() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST_CASE("a part that begins again forgets what it had", "[cli][model]") {
    const cli_test::Folder folder;
    auto part = PartFile::open(folder.write("x.part", "rubbish"));
    REQUIRE(part);
    REQUIRE(part->clear());
    REQUIRE(part->append(std::as_bytes(std::span(std::string_view("abc")))));
    CHECK(part->finish().value() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    CHECK(cli_test::read(folder.path() / "x.part") == "abc");
}

TEST_CASE("a hash is 64 lower-case digits", "[cli][model]") {
    CHECK(is_sha256(std::string(64, 'a')));
    CHECK_FALSE(is_sha256(std::string(64, 'A')));
    CHECK_FALSE(is_sha256(std::string(63, 'a')));
    CHECK_FALSE(is_sha256(std::string(64, 'g')));
}
