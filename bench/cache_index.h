#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>

namespace bench {

/// `sluice bench cache-index`: the search of similar questions in partitions that are full and churn, beside the scan.
struct CacheIndexOptions {
    std::uint64_t entries = 1'000'000;
    std::uint64_t partitions = 1000;  // of equal size
    std::uint64_t churn = 100'000;    // entries that are removed and replaced before it is measured
    std::uint64_t lookups = 2000;
    std::uint64_t scans = 200;      // lookups that are also answered by looking at all
    std::uint64_t labels = 20'000;  // different answers; questions of one are near each other
    std::uint64_t seed = 1;
    std::string out_path = "-";
};
void add_bench_cache_index(CLI::App& app, CacheIndexOptions& options);
int bench_cache_index_main(const CacheIndexOptions& options);

}  // namespace bench
