#include "gateway/cache/in_context_options.h"

#include <algorithm>

#include "gateway/request/models.h"

namespace gateway {

InContextSettings InContextSettings::read(base::Config& config) {
    InContextSettings settings;
    const std::string root = "caching.in_context.";
    const auto count = [&](const char* key, std::size_t fallback, std::int64_t low, std::int64_t high) {
        return static_cast<std::size_t>(config.integer(root + key, static_cast<std::int64_t>(fallback), low, high));
    };
    settings.enabled = config.boolean(root + "enabled", settings.enabled);
    settings.name = config.string(root + "name", settings.name);
    settings.small = config.string(root + "small", settings.small);
    settings.large = config.string(root + "large", settings.large);
    settings.large_sequences = count("large_sequences", settings.large_sequences, 1, 1 << 20);
    settings.comparisons_max = count("comparisons_max", settings.comparisons_max, 0, 1024);
    settings.replays_per_hour = count("replays_per_hour", settings.replays_per_hour, 0, 3600);
    settings.replay_idle =
        std::chrono::milliseconds(config.integer(root + "replay_idle_ms", 60'000, 0, std::int64_t{7} * 24 * 3'600'000));
    settings.replay_temperature = config.number(root + "replay_temperature", settings.replay_temperature, 0, 2);
    settings.replay_forms_max = count("replay_forms_max", settings.replay_forms_max, 0, 65'536);
    settings.stores = config.boolean(root + "store", settings.stores);
    settings.tasks_max = count("tasks_max", settings.tasks_max, 1, 1 << 16);
    caching::read_in_context_options(config, settings.learning);
    return settings;
}

base::Result<void> check_in_context(const InContextSettings& settings, bool cache_is_on,
                                    const std::vector<ServedModel>& models) {
    if (!settings.enabled) { return {}; }
    const auto refuse = [](std::string message) {
        return base::fail(base::ErrorCode::invalid_argument, "caching.in_context: " + std::move(message));
    };
    if (!cache_is_on) { return refuse("enabled needs caching.enabled: true, too"); }
    std::string served;
    for (const ServedModel& model : models) {
        served += (served.empty() ? "" : ", ") + model.name;
    }
    for (const auto& [key, name] : {std::pair("small", &settings.small), std::pair("large", &settings.large)}) {
        const auto found = std::find_if(models.begin(), models.end(),
                                        [&, wanted = name](const ServedModel& model) { return model.name == *wanted; });
        if (name->empty()) { return refuse(std::string(key) + " must name a model; served here: " + served); }
        if (found == models.end()) {
            return refuse(std::string(key) + " names '" + *name +
                          "', which is not served here (serve it with --model " + *name +
                          "=FOLDER, or name one of: " + served + ")");
        }
        if (found->kind != ModelKind::text) {
            return refuse(std::string(key) + " names '" + *name + "', which gives embeddings and no text");
        }
    }
    if (settings.small == settings.large) {
        return refuse("small and large are both '" + settings.small + "'; they must be two models");
    }
    if (settings.name.empty()) { return refuse("name must not be empty: it is what clients ask for"); }
    for (const ServedModel& model : models) {
        if (model.name == settings.name) {
            return refuse("name is '" + settings.name +
                          "', which is a served model's own; choose another one, like auto");
        }
    }
    return {};
}

}  // namespace gateway
