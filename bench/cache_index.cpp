#include "bench/cache_index.h"

#include <algorithm>
#include <boost/json.hpp>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <random>
#include <vector>

#include "bench/cpu_times.h"
#include "caching/semantic/embedder.h"
#include "caching/semantic/partition.h"

namespace bench {
namespace {

namespace json = boost::json;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kDimensions = 192;  // the hashed embedder's
constexpr std::size_t kNearest = 24;      // what the cache looks at closely
constexpr float kSpread = 0.45F;          // of the questions of one answer, where answers spread by 1

/// Questions around answers: a label's centre, and a draw around it, of length 1.
class Questions {
public:
    Questions(std::uint64_t labels, std::uint64_t seed) : labels_(labels), seed_(seed), random_(seed) {}

    std::uint64_t draw_label() { return random_() % labels_; }
    std::vector<float> draw(std::uint64_t label) {
        std::mt19937_64 of_label(seed_ * 0x9e3779b97f4a7c15ULL + label);
        std::vector<float> vector(kDimensions);
        std::normal_distribution<float> normal;
        for (float& value : vector) {
            value = normal(of_label);
        }
        for (float& value : vector) {
            value += kSpread * normal(random_);
        }
        caching::normalise(vector);
        return vector;
    }
    std::uint64_t pick(std::uint64_t below) { return random_() % below; }

private:
    std::uint64_t labels_;
    std::uint64_t seed_;
    std::mt19937_64 random_;
};

}  // namespace

int bench_cache_index_main(const CacheIndexOptions& options) {
    const std::size_t partitions = std::max<std::uint64_t>(options.partitions, 1);
    Questions questions(std::max<std::uint64_t>(options.labels, 1), options.seed);
    std::vector<caching::Partition> all;
    for (std::size_t count = 0; count < partitions; ++count) {
        all.emplace_back(kDimensions, caching::best_dot_rows());
    }
    std::vector<std::uint64_t> label_of{0};  // by entry
    CpuTimes adds;
    CpuTimes removals;
    const auto add = [&](caching::Partition& partition) {
        const std::uint64_t label = questions.draw_label();
        const std::vector<float> vector = questions.draw(label);
        label_of.push_back(label);
        adds.timed([&] { return partition.add(caching::EntryId{label_of.size() - 1}, vector); });
    };
    const auto began = Clock::now();
    for (std::uint64_t count = 0; count < options.entries; ++count) {
        add(all[count % partitions]);
    }
    const double build_s = std::chrono::duration<double>(Clock::now() - began).count();
    for (std::uint64_t count = 0; count < options.churn && options.entries > 0; ++count) {
        caching::Partition& partition = all[questions.pick(partitions)];
        if (partition.size() == 0) { continue; }
        const auto row = static_cast<std::uint32_t>(questions.pick(partition.size()));
        removals.timed([&] { return partition.remove(row); });
        add(partition);
    }
    CpuTimes lookups;
    CpuTimes scans;
    std::uint64_t right = 0;
    std::uint64_t right_by_scan = 0;
    std::uint64_t same_nearest = 0;
    std::uint64_t compared = 0;
    std::uint64_t right_compared = 0;
    const std::uint64_t scan_every =
        std::max<std::uint64_t>(options.lookups / std::max<std::uint64_t>(options.scans, 1), 1);
    for (std::uint64_t count = 0; count < options.lookups; ++count) {
        const caching::Partition& partition = all[questions.pick(partitions)];
        const std::uint64_t label = questions.draw_label();
        const std::vector<float> query = questions.draw(label);
        const auto found = lookups.timed([&] { return partition.nearest(query, kNearest); });
        const bool is_right = !found.empty() && label_of[static_cast<std::size_t>(found.front().entry)] == label;
        right += is_right ? 1 : 0;
        if (count % scan_every != 0) { continue; }
        // Beyond the graph's limit all rows are looked at.
        const auto scanned = scans.timed([&] { return partition.nearest(query, caching::Partition::kGraphLimit + 1); });
        ++compared;
        right_compared += is_right ? 1 : 0;
        if (scanned.empty() || found.empty()) { continue; }
        right_by_scan += label_of[static_cast<std::size_t>(scanned.front().entry)] == label ? 1 : 0;
        same_nearest += scanned.front().entry == found.front().entry ? 1 : 0;
    }
    std::size_t bytes = 0;
    std::size_t rows = 0;
    std::size_t by_graph = 0;
    for (const caching::Partition& partition : all) {
        bytes += partition.bytes();
        rows += partition.size();
        by_graph += partition.has_graph() ? 1 : 0;
    }
    const auto share = [](std::uint64_t of, std::uint64_t total) {
        return total == 0 ? 0.0 : static_cast<double>(of) / static_cast<double>(total);
    };
    const json::object report{{"entries", rows},
                              {"partitions", partitions},
                              {"partitions_by_graph", by_graph},
                              {"dimensions", kDimensions},
                              {"churn", options.churn},
                              {"bytes_per_entry", share(bytes, rows)},
                              {"build_s", build_s},
                              {"add_us", adds.wall()},
                              {"add_cpu_us", adds.cpu()},
                              {"remove_us", removals.wall()},
                              {"remove_cpu_us", removals.cpu()},
                              {"lookup_us", lookups.wall()},
                              {"lookup_cpu_us", lookups.cpu()},
                              {"scan_us", scans.wall()},
                              {"scan_cpu_us", scans.cpu()},
                              {"label_hits", share(right, options.lookups)},
                              {"compared", compared},
                              {"label_hits_compared", share(right_compared, compared)},
                              {"label_hits_by_scan", share(right_by_scan, compared)},
                              {"same_nearest", share(same_nearest, compared)}};
    const std::string text = json::serialize(report);
    if (options.out_path == "-") {
        std::printf("%s\n", text.c_str());
        return 0;
    }
    std::ofstream file{options.out_path};
    file << text << '\n';
    file.close();
    if (!file) { std::fprintf(stderr, "bench cache-index: cannot write %s\n", options.out_path.c_str()); }
    return file ? 0 : 1;
}

void add_bench_cache_index(CLI::App& app, CacheIndexOptions& options) {
    app.add_option("--entries", options.entries, "of all partitions together")
        ->check(CLI::Range(std::uint64_t{1}, std::uint64_t{100'000'000}))
        ->capture_default_str();
    app.add_option("--partitions", options.partitions, "of equal size; 1,000: a tenant each")
        ->check(CLI::Range(std::uint64_t{1}, std::uint64_t{1'000'000}))
        ->capture_default_str();
    app.add_option("--churn", options.churn, "entries that are removed and replaced before it is measured")
        ->capture_default_str();
    app.add_option("--lookups", options.lookups, "after the churn")->capture_default_str();
    app.add_option("--scans", options.scans, "lookups that are compared with the scan")->capture_default_str();
    app.add_option("--labels", options.labels, "different answers; questions of one are near each other")
        ->capture_default_str();
    app.add_option("--seed", options.seed, "of the questions")->capture_default_str();
    app.add_option("--out", options.out_path, "JSON; -: standard output")->capture_default_str();
}

}  // namespace bench
