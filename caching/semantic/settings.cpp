#include <algorithm>
#include <iterator>

#include "caching/semantic/semantic_cache.h"

namespace caching {

void read_semantic_options(base::Config& config, SemanticCacheOptions& options) {
    const std::string root = "caching.semantic.";
    const auto count = [&](const char* key, std::size_t fallback, std::int64_t low, std::int64_t high) {
        return static_cast<std::size_t>(config.integer(root + key, static_cast<std::int64_t>(fallback), low, high));
    };
    options.semantic = config.boolean(root + "similarity", options.semantic);
    options.rules.allow_temperature = config.boolean(root + "allow_temperature", options.rules.allow_temperature);
    options.rules.allow_tools = config.boolean(root + "allow_tools", options.rules.allow_tools);
    options.rules.allow_personal = config.boolean(root + "allow_personal", options.rules.allow_personal);
    options.entries_max = count("entries_max", options.entries_max, 0, 100'000'000);
    options.bytes_max = count("bytes_max", options.bytes_max, 0, std::int64_t{1} << 40);
    options.tenant_share = config.number(root + "tenant_share", options.tenant_share, 0, 1);
    options.shadow_share = config.number(root + "shadow_share", options.shadow_share, 0, 1);
    options.judges = config.boolean(root + "judge", options.judges);
    options.relieves = config.boolean("caching.load.enabled", options.relieves);
    options.relief_load.from = config.number("caching.load.from", options.relief_load.from, 0, 10);
    options.relief_load.full = config.number("caching.load.full", options.relief_load.full, 0, 20);
    if (options.relief_load.full <= options.relief_load.from) {
        config.problem("caching.load.full", "must be above caching.load.from");
    }
    options.relief_reserve.share = config.number("caching.load.reserve", options.relief_reserve.share, 0, 0.95);
    options.relief_reserve.wrong_chance_most =
        config.number("caching.load.wrong_chance_max", options.relief_reserve.wrong_chance_most, 0, 0.5);
    options.relief_ttl_growth = config.number("caching.load.ttl_growth", options.relief_ttl_growth, 0, 100);
    const std::string categories = root + "categories";
    for (const std::string& name : config.children(categories)) {
        const auto same = [&](const CategoryPolicy& policy) { return policy.name == name; };
        auto policy = std::find_if(options.categories.begin(), options.categories.end(), same);
        if (policy == options.categories.end()) {
            if (options.categories.size() >= kCategoriesMost) {
                config.problem(categories, "names more than " + std::to_string(kCategoriesMost) + " categories");
                return;
            }
            options.categories.push_back({});
            policy = std::prev(options.categories.end());
            policy->name = name;
        }
        const std::string at = categories + "." + name + ".";
        policy->semantic = config.boolean(at + "similarity", policy->semantic);
        policy->error_target = config.number(at + "error_target", policy->error_target, 0, 0.5);
        policy->similarity_min = config.number(at + "similarity_min", policy->similarity_min, 0, 1);
        policy->ttl_ms = config.integer(at + "ttl_ms", policy->ttl_ms, 0, std::int64_t{365} * 86'400'000);
        policy->ttl_longest_ms =
            config.integer(at + "ttl_longest_ms", policy->ttl_longest_ms, 0, std::int64_t{365} * 86'400'000);
        policy->ttl_growth = config.number(at + "ttl_growth", policy->ttl_growth, 0, 100);
        policy->quota_share = config.number(at + "quota_share", policy->quota_share, 0, 1);
        policy->prototypes = config.strings(at + "prototypes", policy->prototypes);
        const auto index = static_cast<std::size_t>(policy - options.categories.begin());
        if (index >= kBuiltInCategories && policy->prototypes.empty()) {
            config.problem(at + "prototypes", "a category of your own needs questions that are typical of it");
        }
    }
}

}  // namespace caching
