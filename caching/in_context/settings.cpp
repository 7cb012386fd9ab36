#include <string>

#include "base/config.h"
#include "caching/in_context/options.h"

namespace caching {

void read_in_context_options(base::Config& config, InContextOptions& options) {
    const std::string root = "caching.in_context.";
    const auto count = [&](const char* key, std::size_t fallback, std::int64_t low, std::int64_t high) {
        return static_cast<std::size_t>(config.integer(root + key, static_cast<std::int64_t>(fallback), low, high));
    };
    const auto number = [&](const char* key, double& value, double low, double high) {
        value = config.number(root + key, value, low, high);
    };
    options.examples_max = count("examples_max", options.examples_max, 0, 1'000'000);
    options.bytes_max = count("bytes_max", options.bytes_max, 0, std::int64_t{1} << 36);
    number("tenant_share", options.tenant_share, 0, 1);
    options.example_bytes_max = count("example_bytes_max", options.example_bytes_max, 1, 1 << 20);
    options.examples_each = count("examples_each", options.examples_each, 0, 32);
    options.pack_examples = count("pack_examples", options.pack_examples, 0, 32);
    options.prompt_bytes_max = count("prompt_bytes_max", options.prompt_bytes_max, 0, 1 << 20);
    number("similarity_min", options.similarity_min, 0, 1);
    number("helpfulness_min", options.helpfulness_min, 0, 1);
    options.replay_trials = count("replay_trials", options.replay_trials, 1, 16);
    number("replay_better_min", options.replay_better_min, 0, 1);
    const std::string route = config.choice(root + "route", "learnt", {"learnt", "small", "large"});
    options.route = route == "small" ? RouteMode::small : route == "large" ? RouteMode::large : RouteMode::learnt;
    number("small_cost", options.small_cost, 0, 1);
    number("loss_target", options.loss_target, 0, 0.5);
    number("load_price", options.load_price, 0, 1);
    number("load_threshold", options.load_threshold, 0, 100);
    number("compare_share", options.compare_share, 0, 1);
    number("compare_idle_share", options.compare_idle_share, 0, 1);
    number("compare_unsure_share", options.compare_unsure_share, 0, 1);
}

}  // namespace caching
