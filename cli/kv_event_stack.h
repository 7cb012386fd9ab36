#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/config.h"
#include "base/metrics.h"
#include "base/result.h"
#include "cli/process.h"
#include "kv_cache/kv_cache.h"
#include "worker/kv_event_publisher.h"
#include "worker/kv_events.h"

namespace cli {

/// KV events for routers of other systems (section `worker.kv_events`, docs/kv-events.md). Off by default.
struct KvEventSettings {
    std::string endpoint;         // tcp://host:port or ipc://path; empty: no events
    std::string replay_endpoint;  // likewise; empty: nothing is sent again
    std::string topic;
    std::uint32_t queue_batches_max = 0;
    std::uint32_t subscriber_batches_max = 0;
    std::uint32_t kept_batches_max = 0;
    std::uint64_t kept_bytes_max = 0;
    std::uint32_t rank = 0;  // of the worker among those of its process

    bool is_on() const { return !endpoint.empty(); }
};

/// Bad values are reported by config.finish(), later.
KvEventSettings read_kv_events(base::Config& config);

/// Events show prompts to whoever connects: beyond this host they need a trusted network. Error: permission_denied.
base::Result<void> check_kv_events(const KvEventSettings& settings, const ClusterSettings& cluster);

/// The endpoint of a process's worker number `rank`, as vLLM numbers them: so many ports further; of ipc, with a
/// suffix. A port that is `*` stays.
std::string endpoint_of_rank(const std::string& endpoint, std::uint32_t rank);

/// One worker's events: their book, a helper of its step loop, and who sends them. Outlives the step thread.
class KvEventStack {
public:
    /// `caches`: the pool, then the levels below it, named by `levels` ("host", "disk", "s3"). All references must
    /// outlive it. Errors: of an address, with its setting.
    static base::Result<std::unique_ptr<KvEventStack>> start(const KvEventSettings& settings, const std::string& worker,
                                                             const std::vector<kv_cache::KvCache*>& caches,
                                                             const std::vector<std::string>& levels,
                                                             const base::Clock& clock, base::Metrics& metrics);

    worker::KvEvents& helper() { return *events_; }

private:
    KvEventStack() = default;

    std::unique_ptr<worker::KvEventPublisher> publisher_;
    std::unique_ptr<worker::KvEvents> events_;
};

}  // namespace cli
