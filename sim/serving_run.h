#pragma once

#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "sim/event_queue.h"
#include "sim/leaders.h"
#include "sim/modelled_worker.h"
#include "sim/placer.h"
#include "sim/request_owner.h"
#include "sim/serving.h"
#include "sim/virtual_clock.h"

namespace sim {

/// One run of simulate_serving(): its workers, links and faults, and what happens when.
class ServingRun final : public WorkerListener, public AttemptPort {
public:
    /// `targets[i]`: the worker of fault i. All are borrowed.
    ServingRun(const ServingOptions& options, const ServingTrace& trace, std::vector<std::uint32_t> targets);
    ServingResult play();

    void on_admitted(std::uint32_t worker, AttemptKey key) override;
    void on_room_granted(std::uint32_t worker, AttemptKey key, std::uint32_t tokens_held) override;
    void on_token(std::uint32_t worker, AttemptKey key, std::uint32_t generated_tokens, std::uint32_t cached_tokens,
                  bool is_last) override;
    void on_failed(std::uint32_t worker, AttemptKey key, base::ErrorCode code) override;
    void fetch(AttemptKey key) const override { owner_.fetch(key); }

    void start(std::uint32_t worker, const LightStart& start, std::uint32_t peer) override;
    void go_on(std::uint32_t worker, AttemptKey key, std::uint32_t generated_tokens) override;
    void cancel(std::uint32_t worker, AttemptKey key) override;
    std::uint64_t incarnation(std::uint32_t worker) const override;
    void wake(AttemptKey key, base::TimePoint at) override;

private:
    struct Event {
        enum class Kind : std::uint8_t {
            arrival,
            step_end,
            copy_end,  // to or from a level below the pool
            heartbeat,
            attach,
            tick,
            wake,
            failed,  // `number`: error code
            relay,   // a hand-off is tried again
            kv_arrived,
            kv_overdue,  // decode computes what has not come
            handoff_overdue,
            fault,
            fault_end,
            stream_lost,  // `number`: of the partition
            look,         // of a scheduler at the lease; `worker`: its seat, `number`: its life
            host_end,     // of the work beside the engines
        } kind = Kind::arrival;
        std::uint32_t worker = 0;  // or fault
        AttemptKey key;
        std::uint64_t number = 0;  // of the worker's life, where nothing else is said
    };
    /// What a gateway sent to a worker that it cannot reach, or the worker to it.
    struct Held {
        enum class Kind { start, go_on, cancel, token } kind = Kind::start;
        LightStart start;
        AttemptKey key;
        std::uint32_t tokens = 0;
        std::uint32_t cached_tokens = 0;
    };
    struct alignas(64) Node {
        // What every step reads stands first, in one cache line.
        std::unique_ptr<ModelledWorker> worker;  // null: dead
        std::uint64_t life = 1;
        double slowness = 1;
        double pace = 1;  // at which the step that runs advances, where workers share cores
        base::TimePoint next_report{};
        base::TimePoint reported{};
        base::TimePoint step_awaited{};   // the event of its next end of a step
        const void* sequences = nullptr;  // where the list of its sequences lay, to be fetched
        bool is_dirty = false;
        bool is_cut = false;
        bool is_stream_lost = false;
        const ServingPool* pool = nullptr;
        base::TimePoint copy_awaited{};  // the same of copies to and from levels
        std::uint64_t cuts = 0;
        std::uint64_t cut_life = 0;  // its life when it was cut off
        double link_slowness = 1;
        base::TimePoint link_free{};
        std::vector<Held> held;  // in order
    };
    struct HandOff {
        std::uint32_t prefill = 0;
        std::uint32_t decode = 0;
        std::uint64_t prefill_life = 0;
        std::uint64_t decode_life = 0;
        std::uint32_t kv_tokens = 0;
        std::uint32_t tokens_held = 0;  // on decode, when it granted room
        bool is_asked = false;
        std::optional<base::TimePoint> granted = std::nullopt;
        std::optional<base::TimePoint> first_token = std::nullopt;
        base::TimePoint last_step_began{};
        std::optional<base::TimePoint> began = std::nullopt;
        std::uint32_t others = 0;  // whose KV decode waited for when this one's prompt was computed
    };
    using HandOffs = std::map<AttemptKey, HandOff>;

    void push(base::TimePoint at, Event event) { events_.push(at, event); }
    void happen(const Event& event);
    void fetch_ahead() const;
    void arrive(std::uint32_t request);
    void mark(std::uint32_t worker);
    ModelledWorker& up_to_date(Node& node);
    void await_step(std::uint32_t worker);
    void await_copy(std::uint32_t worker);
    void end_copy(std::uint32_t worker, std::uint64_t life);
    void count_work_of(const ModelledWorker& worker);
    void run_marked();
    void end_step(std::uint32_t worker, std::uint64_t life);
    void report(std::uint32_t worker);
    void report_by(std::uint32_t worker, base::TimePoint at);
    void attach(std::uint32_t worker, std::uint64_t life);
    void make_worker(std::uint32_t worker);
    bool reaches(std::uint32_t worker) const { return !nodes_[worker].is_cut; }

    // serving_cores.cpp: cores of one machine.
    void share_cores();
    void add_host_work(double seconds) {
        if (options_.cores > 0 && seconds > 0) { put_host_work(seconds); }
    }
    void put_host_work(double seconds);
    void do_host_work();

    // serving_faults.cpp: hand-offs, faults.
    bool is_alive(const HandOff& hand_off) const;
    void relay(AttemptKey key);
    void begin_transfer(AttemptKey key, HandOff& hand_off);
    void kv_arrived(AttemptKey key);
    void begin_fault(std::uint32_t fault);
    void end_fault(std::uint32_t fault);
    void kill(std::uint32_t worker);
    void cut(std::uint32_t worker);
    void heal(std::uint32_t worker);
    void lose_stream(std::uint32_t worker);
    void apply(std::uint32_t worker, const Held& held);
    void check(std::uint32_t worker);

    // serving_leaders.cpp: schedulers that fail.
    void begin_leaders();
    void look(std::uint32_t seat, std::uint64_t life);
    void follow_leader();
    void gather();
    void begin_scheduler_fault(std::uint32_t fault);
    void end_scheduler_fault(std::uint32_t fault);

    std::uint64_t incarnation_of(std::uint32_t worker, std::uint64_t life) const {
        return (life << 32u) | (std::uint64_t{worker} + 1);
    }

    const ServingOptions& options_;
    const ServingTrace& trace_;
    const std::vector<std::uint32_t> targets_;
    VirtualClock clock_;
    std::mt19937_64 random_;
    ServingResult result_;
    Placer placer_;
    RequestOwner owner_;
    ModelledWorker::Workspace workspace_;
    std::vector<Node> nodes_;
    HandOffs hand_offs_;
    EventQueue<Event, base::TimePoint> events_;  // of what happens at one time, ends of steps come first, by worker
    std::vector<std::uint32_t> marked_;
    double host_left_ = 0;  // seconds on a core of its own
    double host_pace_ = 0;  // of which so many are done in a second
    base::TimePoint host_since_{};
    bool host_grew_ = false;          // since its end was last foreseen
    base::TimePoint host_awaited_{};  // the event of its end
    std::uint32_t next_arrival_ = 0;
    std::uint32_t faults_left_ = 0;     // that begin or end later
    std::unique_ptr<Leaders> leaders_;  // null: no fault is of a scheduler, and there is one
    std::uint64_t led_serial_ = 0;      // of the term by which the placer's scheduler leads
    std::uint32_t workers_awaited_ = 0;
    std::optional<base::TimePoint> gathers_since_;
    struct FailedSeat {
        std::uint32_t seat = 0;
        std::uint64_t life = 0;
    };
    std::map<std::uint32_t, FailedSeat> failed_seats_;  // by fault
};

}  // namespace sim
