// What `bench swap` says of copies follows from where blocks lie.
#include "bench/swap.h"

#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "tests/support/catch.h"

TEST_CASE("without others in the way a sequence is one copy; the paged layout takes one a block and plane", "[bench]") {
    bench::SwapOptions options;
    options.layers = 2;
    options.tokens = 160;
    options.sequences = 1;
    options.samples = 1;
    options.used_share = options.tier_used_share = 0;
    const auto figures = bench::measure_swaps(options);
    REQUIRE(figures.has_value());
    REQUIRE(figures->size() == 3);
    REQUIRE((*figures)[1].copies_per_sequence == 10 * 2 * 2);
    REQUIRE((*figures)[2].name == "groups");
    REQUIRE((*figures)[2].copies_per_sequence == 1);
}

TEST_CASE("where others lie in between a sequence is a few copies, on a disk as in memory", "[bench]") {
    std::string folder = (std::filesystem::temp_directory_path() / "sluice-swap-XXXXXX").string();
    REQUIRE(::mkdtemp(folder.data()) != nullptr);
    bench::SwapOptions options;
    options.layers = 2;
    options.sequences = 4;
    options.samples = 1;
    options.disk_folder = folder;
    const auto figures = bench::measure_swaps(options);
    REQUIRE(figures.has_value());
    // Copies; memory in two ways; a file in two, and in two more where the system lets files be read around its cache.
    REQUIRE((figures->size() == 5 || figures->size() == 7));
    for (const bench::SwapFigure& figure : *figures) {
        REQUIRE(figure.out_bytes_per_s > 0);
        REQUIRE(figure.in_bytes_per_s > 0);
        if (figure.name == "groups") {
            REQUIRE(figure.copies_per_sequence > 1);
            REQUIRE(figure.copies_per_sequence < 16);  // of 64 blocks
        }
    }
    REQUIRE(std::filesystem::is_empty(folder));
    std::filesystem::remove_all(folder);
}

TEST_CASE("with half of the pool and of the tier in use by others a sequence is four copies at most", "[bench]") {
    const bench::SwapOptions options;
    REQUIRE(options.used_share == 0.5);
    REQUIRE(options.tier_used_share == 0.5);
    const std::vector<double> copies = bench::count_copies(options);
    REQUIRE(copies.size() == 20);
    for (const double each : copies) {
        CHECK(each > 1);
        CHECK(each <= 4);
    }
}
