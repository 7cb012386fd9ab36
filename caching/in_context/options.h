#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/block_hash.h"
#include "base/clock.h"

namespace base {
class Config;
}

namespace caching {

/// Who answers: the small model, with examples in its prompt where there are good ones, or the large one without.
enum class Arm { small, large };
std::string_view arm_name(Arm arm);

/// How it is decided: by what was learnt; or always the same, which is the comparison and the way out.
enum class RouteMode { learnt, small, large };

/// Bounds and constants of the in-context cache. "IC-Cache": Yu et al., SOSP 2025, arXiv 2501.12689; what it leaves
/// open is marked "ours".
struct InContextOptions {
    // The examples.
    std::size_t examples_max = 20'000;  // IC-Cache: ten thousand-odd saturate
    std::size_t bytes_max = std::size_t{64} << 20;
    double tenant_share = 1.0;             // of bytes_max and examples_max that one tenant may fill
    std::size_t example_bytes_max = 4096;  // question and answer; a longer one is no example
    double hourly_decay = 0.9;             // of an example's value: IC-Cache
    std::uint32_t replays_max = 5;         // replayed more often, an example is an outlier: IC-Cache

    // Which of them a request gets.
    std::size_t examples_each = 5;        // IC-Cache: up to five in its motivation
    std::size_t prompt_bytes_max = 6000;  // of all of them, rendered
    std::size_t candidates = 16;          // that the second stage looks at; ours
    std::size_t probes = 3;               // clusters that the first stage looks into; ours
    double similarity_min = 0.35;         // of a candidate; ours
    double similarity_twin = 0.98;        // two examples that are more alike say the same: one goes; ours
    double helpfulness_min = 0.5;         // the threshold to begin with: IC-Cache's example
    double threshold_share = 0.1;         // of requests try another threshold; ours
    std::uint32_t pack_uses = 64;         // so often a pack is used before it may change; ours
    std::size_t pack_examples = 3;        // of examples_each at the most; the others are chosen for the request; ours

    // Which are asked of the large model again, when there is little to do (the gateway: how many, and how).
    std::size_t replay_trials = 2;    // questions that the small model is asked with the old and the new answer; ours
    double replay_better_min = 0.05;  // quality that a new answer must be worth more there; ours

    // Who answers.
    RouteMode route = RouteMode::learnt;
    double small_cost = 0.2;      // of a request at the small model; at the large one it is 1
    double loss_target = 0.01;    // of quality, that offloading may cost on average; ours
    double rest_price = 0.01;     // quality that a whole cost is worth without load; ours
    double load_price = 0.3;      // lambda0 of IC-Cache's Theorem 4, which does not give it
    double load_steepness = 4.0;  // gamma, likewise
    double load_threshold = 0.8;  // of the large model's capacity, likewise
    base::Duration load_half_life = std::chrono::seconds(5);  // of the mean of the load, likewise
    double compare_share = 0.02;        // of requests go to both; IC-Cache: feedback on 1 % is enough
    double compare_unsure_share = 0.2;  // of those that could go either way
    double compare_idle_share = 0.1;    // while the large model is idle; ours
    double unsure_below = 0.1;          // standard deviation of the confidences: IC-Cache
    double forgetting = 0.999;          // of what was learnt, an observation; ours

    std::uint64_t seed = 1;
    base::HashKey key{};  // the cluster's: names of partitions cannot be computed without it
};

/// Asks for the keys of `caching.in_context` that are the module's; what is wrong with them comes from config.finish().
void read_in_context_options(base::Config& config, InContextOptions& options);

}  // namespace caching
