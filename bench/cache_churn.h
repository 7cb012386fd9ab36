#pragma once

#include <CLI/CLI.hpp>
#include <boost/json.hpp>
#include <cstdint>
#include <string>

#include "caching/semantic/partition.h"

namespace bench {

/// `sluice bench cache-churn`: the whole semantic cache, filled and then asked for hours on a virtual clock, so that
/// what it keeps is replaced by and by: hits by the hour, times, memory.
struct CacheChurnOptions {
    std::uint64_t entries = 1'000'000;  // that it may keep
    std::uint64_t tenants = 1000;
    double tenant_skew = 0;       // of their shares: rank^-skew; 0: all alike
    std::uint64_t labels = 4000;  // different answers of a tenant; all of them together well above `entries`
    std::uint64_t wordings = 4;   // of the question of each
    double label_skew = 0.8;      // of how often a label is asked for, by rank; wordings: all alike
    double hours = 24;
    double per_second = 20;
    std::uint64_t graph_from = caching::Partition::kGraphFrom;  // of a partition; very large: all are scanned
    double ttl_hours = 36;  // of every answer; what is stored in that time is more than `entries`
    std::uint64_t seed = 1;
    std::string out_path = "-";
};
void add_bench_cache_churn(CLI::App& app, CacheChurnOptions& options);
/// The figures of a run.
boost::json::object play_cache_churn(const CacheChurnOptions& options);
int bench_cache_churn_main(const CacheChurnOptions& options);

}  // namespace bench
