#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <unordered_map>
#include <variant>
#include <vector>

#include "base/block_hash.h"
#include "base/bounded_queue.h"
#include "base/clock.h"
#include "base/metrics.h"
#include "engine/engine.h"
#include "kv_cache/kv_cache.h"
#include "worker/board.h"
#include "worker/options.h"
#include "worker/plan_batch.h"
#include "worker/role_part.h"
#include "worker/sequence.h"
#include "worker/step_reporter.h"

namespace worker {

/// All generated tokens so far: decode may go on (proto Continue).
struct ContinueRequest {
    RequestKey key;
    GatewayId gateway{};
    std::vector<base::TokenId> generated;
};

/// The gateway does not want it any more (proto Cancel).
struct CancelRequest {
    RequestKey key;
    GatewayId gateway{};
    std::string reason;
};

/// A gateway's stream has ended: nobody waits for its sequences.
struct GatewayGone {
    GatewayId gateway{};
};

/// What I/O threads ask of the step thread.
using Command = std::variant<StartRequest, ContinueRequest, CancelRequest, GatewayGone>;

/// Where outputs go. Called on the step thread; must not block.
class OutputSink {
public:
    virtual ~OutputSink() = default;
    /// What one step (or one command) gave for the sequences of one gateway.
    virtual void deliver(GatewayId gateway, std::vector<SequenceOutput> outputs) = 0;
};

/// The one thread that touches the KV pool, the batch and the engine. Takes commands, admits, plans, runs steps, emits.
///
/// A sequence is a list of tokens and a count of those whose KV is computed. Whatever is missing is computed next: a
/// prompt, the rest of a prompt, what a preemption or a lost hand-off took away, or one decoded token. So there is one
/// path for all.
class StepLoop final : public StepControl {
public:
    struct Options {
        WorkerOptions limits;
        base::HashKey hash_key;
        std::string model;   // label of the metrics
        std::string worker;  // label of this worker's gauges (several may live in one process)
        Role role = Role::mixed;
        /// Tasks (events of transfers) that can wait: at least kv_transfer::events_max() of what posts them.
        std::size_t tasks_max = 16384;
        /// Called once, on the step thread, when the engine's device is lost: must only hand the news on. The loop
        /// takes no more requests then; this process should end and be started again.
        std::function<void(const base::Error&)> device_lost = {};
    };

    /// All references must outlive the loop. `clock` also stamps step durations.
    StepLoop(Options options, engine::Engine& engine, kv_cache::KvCache& cache, OutputSink& sink, ReportBoard& board,
             const base::Clock& clock, base::Metrics& metrics);
    ~StepLoop() override;

    /// Before run(). A part that is null is off: its starts get failed_precondition.
    void attach(Part part, RolePart* role_part);

    /// Any thread. False when the queue is full (starts leave half of it to other commands) or closed.
    [[nodiscard]] bool post_command(Command command);

    /// Until stop is requested; then every sequence gets its final answer (unavailable).
    void run(std::stop_token stop);

    /// One turn: commands, admission, at most one step. True when there was something to do. For tests and run().
    bool turn();

    /// Any thread: no new starts (they get unavailable); what runs goes on.
    void begin_drain() { draining_ = true; }
    /// Any thread: nothing is left to finish (sequences, transfers).
    bool idle() const { return idle_; }

    // StepControl, for role parts.
    Sequence* find(RequestKey key) override;
    void finish(Sequence& sequence, Finish finish, std::optional<base::Error> error) override;
    void make_running(Sequence& sequence) override;
    void make_waiting(Sequence& sequence) override;
    void publish(Sequence& sequence) override;
    bool has_waiting_before(const Sequence& sequence) const override;
    [[nodiscard]] base::Result<kv_cache::SequenceKv> open_kv(kv_cache::PrefixMatch&& prefix,
                                                             std::uint32_t tokens) override;
    kv_cache::KvCache& cache() override { return cache_; }
    const base::Clock& clock() const override { return clock_; }
    [[nodiscard]] bool post(std::function<void()> task) override;
    void add_transfer_sample(std::uint64_t bytes, base::Duration duration) override;

private:
    struct Planned {  // one entry of the running step
        Sequence* sequence = nullptr;
        std::uint32_t tokens = 0;
        bool samples = false;
    };

    void apply(Command& command);
    bool run_tasks();
    void start(StartRequest&& request);
    void go_on(const ContinueRequest& request);
    void refuse(const StartRequest& request, base::ErrorCode code, std::string message);

    void expire_deadlines();
    void admit_waiting();
    bool admit(Sequence& sequence);
    void look_up_prefix(Sequence& sequence);
    void step();
    void step_failed(const std::vector<Planned>& planned, base::Error error);
    void lose_device(const base::Error& error);
    std::uint32_t holding_kv() const;  // sequences that have KV memory
    bool reserve_for(Sequence& sequence, std::uint32_t tokens);
    Sequence* preemption_victim(const Sequence& beneficiary);
    engine::Batch build_batch(const std::vector<Planned>& planned);
    void apply_result(Planned& planned, engine::EntryResult& result);
    void extend_chain(Sequence& sequence);
    static std::vector<StepShare> shares_of(const std::vector<Planned>& planned);

    void emit(const Sequence& sequence, SequenceOutput output);
    void flush_outputs();
    bool publish_board();
    RolePart* part_of(const Sequence& sequence) const {
        return parts_[static_cast<std::size_t>(sequence.request.part)];
    }
    base::TimePoint next_wake() const;
    void erase(Sequence& sequence);

    const Options options_;
    engine::Engine& engine_;
    kv_cache::KvCache& cache_;
    OutputSink& sink_;
    ReportBoard& board_;
    const base::Clock& clock_;
    RolePart* parts_[3] = {nullptr, nullptr, nullptr};  // by Part
    base::BoundedQueue<Command> commands_;
    /// Events of transfers, apart from what gateways can fill: a lost one would strand blocks.
    base::BoundedQueue<std::function<void()>> tasks_;

    std::vector<std::unique_ptr<Sequence>> sequences_;  // in order of arrival
    std::unordered_map<RequestKey, Sequence*> by_key_;
    std::unordered_map<GatewayId, std::vector<SequenceOutput>> outputs_;  // of this turn
    std::uint64_t next_sequence_ = 1;
    std::uint32_t rotation_ = 0;
    std::vector<LaunchedChunk> launched_chunks_;  // prefill parts of the running step; read by layers_done
    engine::Batch spare_batch_;                   // of the last step: its memory

    bool device_lost_ = false;

    std::atomic<bool> draining_{false};
    std::atomic<bool> idle_{true};

    StepReporter reporter_;
};

}  // namespace worker
