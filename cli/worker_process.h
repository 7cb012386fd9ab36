#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/clock.h"
#include "base/config.h"
#include "base/metrics.h"
#include "base/result.h"
#include "cli/kv_event_stack.h"
#include "cli/kv_plane.h"
#include "cli/kv_tier_stack.h"
#include "cli/process.h"
#include "engine/engine.h"
#include "gateway/http/ready_parts.h"
#include "text/text_process.h"
#include "worker/options.h"

namespace cli {

/// What one worker is made from.
struct WorkerSetup {
    worker::Role role = worker::Role::mixed;
    std::string name;                              // for logs and metrics, e.g. "prefill-0"
    std::string served_name;                       // model name that gateways use
    std::vector<std::string> scheduler_addresses;  // host:port of each scheduler
    std::string listen_host = "127.0.0.1";
    std::uint16_t listen_port = 0;
    std::uint64_t worker_id = 0;  // 0: drawn at random
    ClusterSettings cluster;
    engine::EngineOptions engine;
    worker::WorkerOptions limits;
    KvPlaneSettings kv_plane;
    KvTierSettings kv_tiers;
    std::uint64_t kv_prefault_ahead_bytes = 0;  // of a pool on the host (worker::PoolPrefault); 0: none
    KvEventSettings kv_events;
    text::TextProcessOptions text;              // in which the tokenizer is read, for grammars
    base::SpanSink* spans = nullptr;            // of parts whose requests are traced; borrowed; null: none
    bool may_turn = false;                      // to another role while it runs: the parts of all roles are on
    bool warm_up = true;                        // on a GPU: engine::warm_up() before requests are taken
    std::uint64_t device_lost_after_steps = 0;  // engine::make_fault_engine; 0: never (tests)
};

/// Reads the sections `engine` and `worker`. `model_dir`, threads and processors are the caller's.
/// Error comes from config.finish(), later.
void read_worker_config(base::Config& config, WorkerSetup& setup);

/// A model (a folder or a file) and what a worker of this role can run must go together. Error: invalid_argument.
base::Result<void> check_role(const std::string& model_dir, worker::Role role);

/// A worker of any role: engine, KV pool, step loop, both role parts, KV transport, gRPC server, registration. Owns
/// them all and their order of start and end.
class WorkerProcess {
public:
    /// Loads the model and starts. `progress` as load_engine's. Errors: of the model, of the address.
    static base::Result<std::unique_ptr<WorkerProcess>> start(
        WorkerSetup setup, const base::Clock& clock, base::Metrics& metrics,
        const std::function<void(std::uint64_t, std::uint64_t)>& progress);
    ~WorkerProcess();

    std::string control_address() const;
    /// What has to be in order before it is given work: a model, a scheduler that knows it, and that it does not drain.
    /// Any thread.
    gateway::ReadyParts ready_parts() const;
    /// One line for the banner: engine, KV pool, limits.
    std::string describe() const;
    /// Tokens that its KV pool has room for.
    std::uint64_t kv_pool_tokens() const;

    /// Set once the engine's device is lost: no request can be served any more, and ask_to_end() has been called. Any
    /// thread. After drain_and_stop() the process should end with an error, for a supervisor to start it again.
    std::optional<base::Error> device_lost() const;

    /// Takes no new work, finishes what runs within worker.drain_timeout_ms, then ends. Idempotent.
    void drain_and_stop();

private:
    WorkerProcess();
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace cli
