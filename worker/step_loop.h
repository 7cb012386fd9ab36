#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "base/block_hash.h"
#include "base/bounded_queue.h"
#include "base/clock.h"
#include "base/metrics.h"
#include "base/trace.h"
#include "engine/engine.h"
#include "engine/grammars.h"
#include "kv_cache/kv_cache.h"
#include "worker/board.h"
#include "worker/options.h"
#include "worker/plan_batch.h"
#include "worker/plan_memory.h"
#include "worker/role_part.h"
#include "worker/running_step.h"
#include "worker/sequence.h"
#include "worker/step_forecast.h"
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

/// No later request shall find a prefix that was computed until now (proto DropPrefixes).
struct DropRequest {
    std::function<void(std::uint32_t blocks)> done;  // called on the step thread; must not block
};

/// What I/O threads ask of the step thread.
using Command = std::variant<StartRequest, ContinueRequest, CancelRequest, GatewayGone, DropRequest>;

/// Where outputs go. Called on the step thread; must not block.
class OutputSink {
public:
    virtual ~OutputSink() = default;
    /// What one step (or one command) gave for the sequences of one gateway.
    virtual void deliver(GatewayId gateway, std::vector<SequenceOutput> outputs) = 0;
};

/// Owns the batch and the KV pool of a worker and says what its engine computes. Takes commands, admits, plans,
/// launches, emits. Nothing in here waits or has a thread: run_steps() drives it over a real engine, the simulator over
/// a modelled one and a virtual clock.
///
/// A step has two halves, begin_step() and finish_step(). Between them the engine computes, and work() does what does
/// not need the step's tokens: it applies commands, admits, reserves memory and makes the next step ready, so that from
/// finish_step() to the next begin_step() little is left to do. settle() does after the launch what can wait till then.
///
/// A sequence is a list of tokens and a count of those whose KV is computed. Whatever is missing is computed next: a
/// prompt, the rest of a prompt, what a preemption or a lost hand-off took away, or one decoded token. So there is one
/// path for all.
///
/// The loop of an encoder (Engine::keeps_kv() is false) takes texts of Part::encode only: they need no memory, each
/// goes through one step as a whole, and its vector is its only output.
///
/// One thread calls (the step thread), except where a function says otherwise.
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
        /// Makes the masks of sequences with a grammar; must outlive their end. Null: such sequences are refused.
        engine::Grammars* grammars = nullptr;
        /// Where the span of a part goes whose request is traced. Null: nowhere.
        base::SpanSink* spans = nullptr;
    };

    /// All references must outlive the loop. `clock` also stamps step durations.
    StepLoop(Options options, engine::Engine& engine, kv_cache::KvCache& cache, OutputSink& sink, ReportBoard& board,
             const base::Clock& clock, base::Metrics& metrics);
    ~StepLoop() override;

    /// Before the first work(). A part that is null is off: its starts get failed_precondition.
    void attach(Part part, RolePart* role_part);
    /// Before the first work(): something for the sequences of all parts. Borrowed.
    void add_helper(RolePart* helper) { helpers_.push_back(helper); }

    /// Before the first work(): blocks of this tier need not be computed here, which the scheduler is told. Borrowed.
    void add_tier(kv_cache::KvCache& slots) { reporter_.known_blocks().add(slots); }

    /// Any thread. False when the queue is full (starts leave half of it to other commands) or closed.
    [[nodiscard]] bool post_command(Command command);

    /// What can be done at any time, also while a step runs: commands, events of transfers, deadlines, the parts'
    /// timers, admission; while a step runs also the plan of the next one and its memory. True when settle() has
    /// something to tell.
    bool work();
    /// Launches the next step; none may run (CHECK). Empty when there is nothing to compute. `done`: as Engine::launch.
    std::optional<engine::Ticket> begin_step(engine::StepDone done = {});
    /// Takes what Engine::collect gave for the step that runs. deadline_exceeded: it has been given up, the device
    /// counts as lost.
    void finish_step(base::Result<engine::StepResult> result);
    /// What can wait until the engine has its next step: delivers outputs, makes computed blocks findable, reports.
    void settle();

    /// When work() wants to run again at the latest.
    base::TimePoint next_wake() const;
    /// Until there is something for work() or wake() was called, stop is requested or `until` passes.
    void wait(std::stop_token stop, base::TimePoint until) { commands_.wait(std::move(stop), until); }
    /// Any thread: ends one wait().
    void wake() { commands_.wake(); }

    /// Any thread: no new starts (they get unavailable); what runs goes on.
    void begin_drain() { draining_ = true; }
    /// Every sequence that is left gets its final answer (unavailable), and so does every later Start. No step may run.
    /// Transfers may still touch blocks: work() and settle() go on until parts_busy() is false.
    void end_all();
    bool parts_busy() const;
    /// Takes nothing more; Starts that are still queued get their answer.
    void close();
    /// Any thread: nothing is left to finish (sequences, steps, transfers).
    bool idle() const { return idle_; }
    /// Any thread: waits until that is so, or until `give_up`. Whether it is.
    bool wait_idle(base::TimePoint give_up) const;

    engine::Engine& engine() { return engine_; }
    const WorkerOptions& limits() const { return options_.limits; }

    // StepControl, for role parts.
    Sequence* find(RequestKey key) override;
    void finish(Sequence& sequence, Finish finish, std::optional<base::Error> error) override;
    void make_running(Sequence& sequence) override;
    void make_waiting(Sequence& sequence) override;
    void publish(Sequence& sequence) override;
    void want_room(Sequence& sequence, std::uint32_t kv_tokens) override;
    void make_loading(Sequence& sequence) override;
    void load_from_end(Sequence& sequence, const KvFromEnd& range) override;
    void loaded(RequestKey key, base::Result<std::uint32_t> kv_tokens) override;
    std::optional<base::Duration> predict_prefill(std::uint32_t computed_tokens, std::uint32_t tokens) const override;
    kv_cache::KvCache& cache() override { return cache_; }
    const base::Clock& clock() const override { return clock_; }
    [[nodiscard]] bool post(std::function<void()> task) override;
    void add_transfer_sample(const MeasuredHandoff& handoff) override;
    void tell_load_price(std::size_t level, double seconds_per_token) override;

private:
    /// A step that has been collected, as far as settle() has not reported it.
    struct Unreported {
        std::vector<StepShare> shares;
        base::Duration duration{};
        std::optional<base::Duration> idle_before;  // how long the engine stood still although the step was due
    };

    // step_commands.cpp: what gateways ask.
    bool apply_commands();
    void apply(Command& command);
    void start(StartRequest&& request);
    void go_on(const ContinueRequest& request);
    void refuse(const StartRequest& request, base::ErrorCode code, std::string message);

    void tell_span(const Sequence& sequence, Finish finish, const std::optional<base::Error>& error) const;

    // step_halves.cpp: from plan to result.
    std::optional<RunningStep> plan_step();
    bool ends_with_step(const Sequence& sequence) const;
    PlanCandidate candidate_of(const Sequence& sequence, base::TimePoint step_begin) const;
    void step_failed(RunningStep&& step, const base::Error& error);
    void lose_device(const base::Error& error);
    Finish append(Sequence& sequence, base::TokenId token) const;
    void append_forced(Sequence& sequence, SequenceOutput& output);
    void apply_result(const StepEntry& entry, engine::EntryResult& result);
    static std::vector<StepShare> shares_of(const RunningStep& step);
    void trace_step(const RunningStep& step, base::TimePoint ended);

    // step_memory.cpp: who gets KV memory, who waits for it, who gives it up.
    std::vector<MemoryCandidate> memory_candidates() const;
    MemoryCounts memory_counts() const;
    kv_cache::PrefixMatch match_newcomer(const Sequence& sequence);
    std::uint32_t blocks_wanted(Sequence& sequence);
    std::uint32_t awaited_prefix(const Sequence& newcomer) const;
    void look_up_prefix(Sequence& sequence);
    /// What the pool has of some who wait, by candidate, in the order in which they get memory.
    using LookedAhead = std::vector<std::pair<std::uint32_t, kv_cache::PrefixMatch>>;
    RolePart* loads_ahead() const;
    LookedAhead look_ahead(const RolePart& helper, std::vector<MemoryCandidate>& candidates);
    void give_memory();
    void open_kv(Sequence& sequence);
    bool grow(std::vector<StepEntry>& entries);

    // step_loop.cpp
    bool run_tasks();
    bool expire_deadlines();
    void extend_chain(Sequence& sequence);
    void publish_all();
    void emit(Sequence& sequence, SequenceOutput output);
    void end(Sequence& sequence);
    /// Its KV memory is given up now.
    void leave(Sequence& sequence, bool for_good);
    void flush_outputs();
    void publish_board();
    template <class Visit>
    void each_part(const Visit& visit) const {
        for (RolePart* part : parts_) {
            if (part != nullptr) { visit(*part); }
        }
        for (RolePart* helper : helpers_) {
            visit(*helper);
        }
    }
    RolePart* part_of(const Sequence& sequence) const {
        return parts_[static_cast<std::size_t>(sequence.request.part)];
    }

    const Options options_;
    engine::Engine& engine_;
    kv_cache::KvCache& cache_;
    OutputSink& sink_;
    ReportBoard& board_;
    const base::Clock& clock_;
    std::array<RolePart*, kParts> parts_{};  // by Part
    std::vector<RolePart*> helpers_;         // in the order in which they are called, after the part
    base::BoundedQueue<Command> commands_;
    /// Events of transfers, apart from what gateways can fill: a lost one would strand blocks.
    base::BoundedQueue<std::function<void()>> tasks_;

    std::vector<std::unique_ptr<Sequence>> sequences_;  // in order of arrival
    std::unordered_map<RequestKey, Sequence*> by_key_;
    std::unordered_map<GatewayId, std::vector<SequenceOutput>> outputs_;  // since the last settle()
    std::uint64_t next_sequence_ = 1;
    std::uint64_t next_room_turn_ = 0;
    std::uint32_t rotation_ = 0;

    std::optional<RunningStep> running_;
    engine::Batch spare_batch_;  // of the last step: its memory
    /// The step after it, ready to launch; gone as soon as anything that it builds on changes.
    std::optional<RunningStep> next_;
    bool more_to_publish_ = false;  // of the prefix index, which goes out in parts
    bool others_give_way_ = false;  // to somebody who waits, when the running step has ended: no step is made ready
    bool freed_ = false;            // memory may have become free since those who wait for it were asked
    std::optional<base::TimePoint> last_ended_;  // of the step before, while one follows the other at once
    base::TimePoint step_ended_at_{};            // of the step before, whenever that was
    std::optional<Unreported> unreported_;
    StepForecast forecast_;

    bool device_lost_ = false;
    std::optional<RunningStep> given_up_;  // has never ended: the engine may still touch what it holds

    std::atomic<bool> draining_{false};
    std::atomic<bool> idle_{true};  // changed under idle_mutex_
    mutable std::mutex idle_mutex_;
    mutable std::condition_variable idle_changed_;

    StepReporter reporter_;
};

}  // namespace worker
