#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/config.h"
#include "scheduler/cluster_view.h"

namespace scheduler {

/// Settings of the scheduler: section `scheduler` of the config.
struct SchedulerOptions {
    /// `scheduler.models`: names of the models that workers may serve here. Empty: whatever they serve.
    std::vector<std::string> models = {};
    /// `scheduler.heartbeat_ms`: how often workers report; they are told when they register. Who has nothing new to say
    /// does so half of `suspect_ms` apart, if that is longer.
    std::chrono::milliseconds heartbeat{250};
    /// `scheduler.suspect_ms`: nothing new is sent to a worker that was silent for this long (while there are others).
    std::chrono::milliseconds suspect_after{1500};
    /// `scheduler.lease_ms`: a worker that was silent for this long is gone.
    std::chrono::milliseconds lease{5000};
    /// `scheduler.eject_after_failures`, `scheduler.eject_ms`: a worker that fails so many requests in a row gets
    /// nothing new for so long, and for twice as long each time that the next one fails, too (ejections.h); 0: never.
    /// `scheduler.eject_percent_max`: of a role that are out at once; one of several always may be.
    std::uint32_t eject_after_failures = 5;
    std::uint32_t eject_percent_max = 30;
    std::chrono::milliseconds eject_time{30'000};
    /// `scheduler.gateway_lease_ms`: what was placed for a gateway that was silent for this long counts no more. A
    /// gateway asks for a description every `gateway.describe_interval_ms`, and that is heard.
    std::chrono::milliseconds gateway_lease{10000};
    /// `scheduler.leader_lease`: folder by which the schedulers of one machine agree on who leads (folder_lease.h).
    /// Empty: this one is alone, and leads.
    std::string leader_lease = {};
    /// `scheduler.leader_lease_ms`: a leader that was silent for this long leads no more.
    std::chrono::milliseconds leader_silence{2000};
    /// `scheduler.gather_ms`: a new leader waits at most so long for the workers of the one before it.
    std::chrono::milliseconds gather_max{1500};
    /// `scheduler.allow_mixed_numerics`, `scheduler.local_prefill_by_prediction`, `scheduler.fetch_tokens_min`,
    /// `scheduler.admit_by_prediction`, `scheduler.probe_after_ms` (0: never).
    PlaceRules rules = {};
    /// `scheduler.scan_workers_max`: up to so many workers of a model, all are looked at for each request; with more,
    /// only the likeliest (shortlist.h).
    std::uint32_t scan_workers_max = 32;
    /// `scheduler.tenant_weights`: shares of service among tenants with requests at hand, by name; 1 for all others.
    std::map<std::string, double> tenant_weights = {};
    struct ClassRule {
        std::int32_t priority = 0;                        // those of a higher one are let in first
        std::optional<double> attainment = std::nullopt;  // share of its requests that shall meet their targets
    };
    /// `slo_classes.NAME.priority`, `.attainment` (empty where it is not said).
    std::map<std::string, ClassRule, std::less<>> classes = {};
    /// `slo.attainment_window_ms`: the share is of the requests of so long.
    std::chrono::milliseconds attainment_window{300'000};
    /// `scheduler.workers_max`, `scheduler.models_max`, `scheduler.prefix_blocks_max`, `scheduler.placements_max`,
    /// `scheduler.affinity_names_max`, `scheduler.tenants_max`, `scheduler.calls_max`: bounds.
    std::uint32_t workers_max = 1024;           // of all models together
    std::uint32_t models_max = 64;              // that have workers, or had some lately
    std::uint32_t prefix_blocks_max = 1 << 20;  // different block hashes in the prefix index of one model
    std::uint32_t placements_max = 65'536;      // placements of one model remembered until their release
    std::uint32_t affinity_names_max = 65'536;  // conversations and prompt groups of one model; 0: none are remembered
    std::uint32_t tenants_max = 64;             // that are told apart in metrics; the others are "other"
    std::uint32_t calls_max = 4096;             // Place, Release and Describe calls at once

    /// Asks `config` for its keys; bad values are reported by config.finish().
    static SchedulerOptions read(base::Config& config);
};

}  // namespace scheduler
