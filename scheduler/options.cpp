#include "scheduler/options.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace scheduler {

SchedulerOptions SchedulerOptions::read(base::Config& config) {
    SchedulerOptions options;
    const auto count = [&config](std::string_view key, std::uint32_t fallback, std::uint32_t low, std::uint32_t high) {
        return static_cast<std::uint32_t>(config.integer(key, fallback, low, high));
    };
    const auto milliseconds = [&config](std::string_view key, std::int64_t fallback, std::int64_t low) {
        return std::chrono::milliseconds(config.integer(key, std::max(fallback, low), low, 600'000));
    };
    options.models = config.strings("scheduler.models", options.models);
    options.heartbeat = milliseconds("scheduler.heartbeat_ms", options.heartbeat.count(), 10);
    // A single late heartbeat is no reason to suspect a worker.
    options.suspect_after =
        milliseconds("scheduler.suspect_ms", options.suspect_after.count(), 2 * options.heartbeat.count());
    options.lease = milliseconds("scheduler.lease_ms", options.lease.count(), options.suspect_after.count());
    options.eject_after_failures = count("scheduler.eject_after_failures", options.eject_after_failures, 0, 1000);
    options.eject_percent_max = count("scheduler.eject_percent_max", options.eject_percent_max, 0, 100);
    options.eject_time = milliseconds("scheduler.eject_ms", options.eject_time.count(), 100);
    options.gateway_lease = milliseconds("scheduler.gateway_lease_ms", options.gateway_lease.count(), 1000);
    options.leader_lease = config.string("scheduler.leader_lease", options.leader_lease);
    options.leader_silence = milliseconds("scheduler.leader_lease_ms", options.leader_silence.count(), 200);
    options.gather_max = milliseconds("scheduler.gather_ms", options.gather_max.count(), 0);
    options.rules.allow_mixed_numerics =
        config.boolean("scheduler.allow_mixed_numerics", options.rules.allow_mixed_numerics);
    options.rules.local_prefill_by_prediction =
        config.boolean("scheduler.local_prefill_by_prediction", options.rules.local_prefill_by_prediction);
    const std::vector<std::string> given = config.children("scheduler");
    if (std::find(given.begin(), given.end(), "local_prefill_tokens_max") != given.end()) {
        static_cast<void>(config.integer("scheduler.local_prefill_tokens_max", 0));
        config.problem("scheduler.local_prefill_tokens_max",
                       "is gone: whether a decode worker prefills is predicted now; set "
                       "scheduler.local_prefill_by_prediction to true or false");
    }
    options.scan_workers_max = count("scheduler.scan_workers_max", options.scan_workers_max, 0, 65'536);
    options.rules.fetch_tokens_min =
        count("scheduler.fetch_tokens_min", options.rules.fetch_tokens_min, 0, 1'000'000'000);
    options.rules.admit_by_prediction =
        config.boolean("scheduler.admit_by_prediction", options.rules.admit_by_prediction);
    const double probe_ms = options.rules.probe_after_seconds * 1e3;
    const std::int64_t probe = config.integer("scheduler.probe_after_ms", std::llround(probe_ms), 0, 86'400'000);
    options.rules.probe_after_seconds =
        probe == 0 ? std::numeric_limits<double>::infinity() : static_cast<double>(probe) * 1e-3;
    for (const std::string& name : config.children("scheduler.tenant_weights")) {
        options.tenant_weights[name] = config.number("scheduler.tenant_weights." + name, 1, 0.001, 1000);
    }
    options.attainment_window = milliseconds("slo.attainment_window_ms", options.attainment_window.count(), 1000);
    for (const std::string& name : config.children("slo_classes")) {
        const std::string key = "slo_classes." + name + ".priority";
        SchedulerOptions::ClassRule& rule = options.classes[name];
        rule.priority = static_cast<std::int32_t>(config.integer(key, 0, -100, 100));
        const std::vector<std::string> said = config.children("slo_classes." + name);
        if (std::find(said.begin(), said.end(), "attainment") == said.end()) { continue; }
        rule.attainment = config.number("slo_classes." + name + ".attainment", 0.9, 0.5, 1);
    }
    options.workers_max = count("scheduler.workers_max", options.workers_max, 1, 65'536);
    options.models_max = count("scheduler.models_max", options.models_max, 1, 65'536);
    options.prefix_blocks_max = count("scheduler.prefix_blocks_max", options.prefix_blocks_max, 1, 1 << 30);
    options.placements_max = count("scheduler.placements_max", options.placements_max, 1, 10'000'000);
    options.affinity_names_max = count("scheduler.affinity_names_max", options.affinity_names_max, 0, 10'000'000);
    options.tenants_max = count("scheduler.tenants_max", options.tenants_max, 0, 10'000);
    options.calls_max = count("scheduler.calls_max", options.calls_max, 1, 1'000'000);
    return options;
}

}  // namespace scheduler
