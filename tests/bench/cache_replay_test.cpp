#include "bench/cache_replay.h"

#include <unistd.h>
#include <zlib.h>

#include <filesystem>
#include <fstream>

#include "tests/support/catch.h"

namespace {

/// A file that goes with the test.
struct Written {
    explicit Written(const std::string& text)
        : path((std::filesystem::temp_directory_path() / ("sluice-cache-" + std::to_string(::getpid()))).string()) {
        std::ofstream(path) << text;
    }
    ~Written() { std::filesystem::remove(path); }
    Written(const Written&) = delete;
    Written& operator=(const Written&) = delete;
    std::string path;
};

std::string line(int t_ms, const std::string& tenant, const std::string& text, const std::string& equiv, int version,
                 bool cacheable = true) {
    return R"({"t_ms":)" + std::to_string(t_ms) + R"(,"tenant":")" + tenant + R"(","category":"faq","messages":[)" +
           R"({"role":"user","content":")" + text + R"("}],"temperature":)" + (cacheable ? "0.0" : "1.0") +
           R"(,"tools":false,"equiv":")" + equiv + R"(","scope":"tenant","version":)" + std::to_string(version) +
           R"(,"cacheable":)" + (cacheable ? "true" : "false") + "}\n";
}

}  // namespace

TEST_CASE("a trace is judged by its oracle, what must not be served with it (GPTCache #600: positives only)",
          "[bench]") {
    const std::string asked = "How do I close my old account?";
    const Written trace(line(0, "a", asked, "close", 0) +            // a miss
                        line(100, "a", asked, "close", 0) +          // while it is answered: coalesced
                        line(5000, "a", asked, "close", 0) +         // exact
                        line(6000, "b", asked, "close", 0) +         // another tenant: a miss
                        line(7000, "a", asked, "close", 1) +         // the answer has changed: stale
                        line(8000, "a", asked, "other", 0) +         // the oracle says another question: false
                        line(9000, "a", asked, "close", 0, false));  // never
    bench::CacheBenchOptions options;
    options.trace_path = trace.path;
    caching::HashedEmbedder embedder;
    const auto report = bench::replay_trace(options, embedder);
    REQUIRE(report);
    const auto number = [&](const char* name) { return report->at(name).to_number<std::int64_t>(); };
    CHECK(number("requests") == 7);
    CHECK(number("hits_exact") == 3);
    CHECK(number("coalesced") == 1);
    CHECK(number("true_hits") == 2);
    CHECK(number("wrong_stale") == 1);
    CHECK(number("wrong_false") == 1);
    CHECK(number("leaks") == 0);
    CHECK(number("uncacheable_served") == 0);
    CHECK(report->at("lookup_us").at("p99").to_number<double>() >= 0.0);
}

TEST_CASE("files that are no traces are refused with the line", "[bench]") {
    caching::HashedEmbedder embedder;
    bench::CacheBenchOptions options;
    options.trace_path = "/nonexistent";
    CHECK_FALSE(bench::replay_trace(options, embedder));
    const Written broken(line(0, "a", "x", "x", 0) + "{\"t_ms\":1}\n");
    options.trace_path = broken.path;
    const auto refused = bench::replay_trace(options, embedder);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().message.find("line 2") != std::string::npos);
    options.pairs_path = broken.path;
    CHECK_FALSE(bench::score_pairs(options, embedder));
}

TEST_CASE("a packed file that ends too early is refused, not read in part", "[bench]") {
    const Written packed("");
    const gzFile file = gzopen(packed.path.c_str(), "wb");
    REQUIRE(file != nullptr);
    for (int i = 0; i < 2000; ++i) {
        const std::string one = line(i, "a", std::to_string(i * 7919 % 10007), "x", 0);
        REQUIRE(gzwrite(file, one.data(), static_cast<unsigned>(one.size())) > 0);
    }
    REQUIRE(gzclose(file) == Z_OK);
    const auto whole = bench::read_lines(packed.path);
    REQUIRE(whole);
    CHECK(whole->size() == 2000);
    std::filesystem::resize_file(packed.path, std::filesystem::file_size(packed.path) / 2);
    const auto half = bench::read_lines(packed.path);
    REQUIRE_FALSE(half);
    CHECK(half.error().code == base::ErrorCode::data_loss);
}
