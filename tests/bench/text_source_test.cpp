#include "bench/text_source.h"

#include <zlib.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "tests/engine/support.h"

#include "tests/support/catch.h"

namespace {

constexpr std::size_t kAll = 1u << 20;

void write(const std::string& path, const std::string& content) {
    std::ofstream(path, std::ios::binary) << content;
}

void write_gzip(const std::string& path, const std::string& content) {
    gzFile file = gzopen(path.c_str(), "wb");
    REQUIRE(file != nullptr);
    REQUIRE(gzwrite(file, content.data(), static_cast<unsigned>(content.size())) == static_cast<int>(content.size()));
    REQUIRE(gzclose(file) == Z_OK);
}

bench::TextSource read(const std::string& path, std::size_t bytes = kAll) {
    const auto source = bench::read_text_source(path, bytes);
    if (!source) { FAIL(source.error().message); }
    return *source;
}

base::Error refusal(const std::string& path) {
    const auto source = bench::read_text_source(path, kAll);
    REQUIRE(!source);
    CAPTURE(source.error().message);
    REQUIRE(source.error().message.find(path) != std::string::npos);
    return source.error();
}

}  // namespace

TEST_CASE("a plain text is read as it is, compressed or not", "[bench]") {
    const test_engine::TemporaryFolder folder;
    std::string text;
    for (int i = 0; i < 30000; ++i) {
        text += "line " + std::to_string(i) + "\r\n";
    }
    write(folder.file("a.txt"), text);
    write_gzip(folder.file("a.txt.gz"), text);
    for (const char* name : {"a.txt", "a.txt.gz"}) {
        const bench::TextSource source = read(folder.file(name));
        REQUIRE(source.text == text);
        REQUIRE(source.rows == 0);
        REQUIRE(!source.is_cut);
    }
}

TEST_CASE("rows give their texts with an empty line between two of them", "[bench]") {
    const test_engine::TemporaryFolder folder;
    const std::string rows =
        "{\"title\": \"x\", \"text\": \"one\\ntwo\"}\n\n  \n{\"text\": \"\\u00e4\"}\n{\"text\": \"end\"}";
    write(folder.file("a.jsonl"), rows);
    write_gzip(folder.file("a.jsonl.gz"), rows);
    for (const char* name : {"a.jsonl", "a.jsonl.gz"}) {
        const bench::TextSource source = read(folder.file(name));
        REQUIRE(source.text == "one\ntwo\n\n\xc3\xa4\n\nend");
        REQUIRE(source.rows == 3);
    }
}

TEST_CASE("a text is cut between two characters", "[bench]") {
    const test_engine::TemporaryFolder folder;
    write(folder.file("a.txt"),
          "ab\xe2\x82\xac"
          "c");
    write(folder.file("a.jsonl"),
          "{\"text\": \"ab\\u20acc\"}\n{\"text\": \"not reached\"}\nno JSON, not reached either\n");
    for (const char* name : {"a.txt", "a.jsonl"}) {
        for (const std::size_t bytes : {2u, 3u, 4u}) {
            const bench::TextSource source = read(folder.file(name), bytes);
            REQUIRE(source.text == "ab");
            REQUIRE(source.is_cut);
        }
        REQUIRE(read(folder.file(name), 5).text == "ab\xe2\x82\xac");
    }
    const bench::TextSource whole = read(folder.file("a.txt"), 6);
    REQUIRE(whole.text.size() == 6);
    REQUIRE(!whole.is_cut);
}

TEST_CASE("a row that spans many reads is one row", "[bench]") {
    const test_engine::TemporaryFolder folder;
    const std::string longest(300'000, 'x');
    write(folder.file("a.jsonl"), "{\"text\": \"" + longest + "\"}\n{\"text\": \"y\"}\n");
    REQUIRE(read(folder.file("a.jsonl")).text == longest + "\n\ny");
}

TEST_CASE("what is no text to read is refused with its place", "[bench]") {
    const test_engine::TemporaryFolder folder;
    REQUIRE(refusal(folder.file("none.txt")).code == base::ErrorCode::not_found);
    for (const char* line : {"no JSON", "[1]", "{\"body\": \"x\"}", "{\"text\": 1}"}) {
        write(folder.file("a.jsonl"), std::string("{\"text\": \"good\"}\n") + line + "\n");
        const base::Error error = refusal(folder.file("a.jsonl"));
        REQUIRE(error.code == base::ErrorCode::invalid_argument);
        REQUIRE(error.message.find("line 2") != std::string::npos);
    }
    std::string noise;  // does not shrink, so that half a file is half a stream
    for (std::uint32_t i = 0, x = 1; i < 200'000; ++i) {
        x = x * 1664525u + 1013904223u;
        noise += static_cast<char>('a' + (x >> 28));
    }
    write_gzip(folder.file("cut.txt.gz"), noise);
    std::filesystem::resize_file(folder.file("cut.txt.gz"), std::filesystem::file_size(folder.file("cut.txt.gz")) / 2);
    REQUIRE(refusal(folder.file("cut.txt.gz")).code == base::ErrorCode::data_loss);
}
