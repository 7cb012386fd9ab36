#include "worker/run_steps.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

namespace worker {
namespace {

constexpr std::chrono::minutes kStepMax{10};  // a step that takes longer hangs

/// Wakes the loop when a step is done, from the engine's thread. Outlives run_steps() with a step that hangs.
class DoneSignal {
public:
    explicit DoneSignal(StepLoop& loop) : loop_(&loop) {}
    void send() {
        const std::scoped_lock lock(mutex_);
        if (loop_ != nullptr) { loop_->wake(); }
    }
    void disconnect() {
        const std::scoped_lock lock(mutex_);
        loop_ = nullptr;
    }

private:
    std::mutex mutex_;
    StepLoop* loop_;  // guarded by mutex_
};

/// The step that runs.
struct Launched {
    engine::Ticket ticket{};
    base::TimePoint give_up;  // then it counts as hung
};

}  // namespace

void run_steps(StepLoop& loop, std::stop_token stop) {
    engine::Engine& engine = loop.engine();
    const base::Clock& clock = loop.clock();
    const auto signal = std::make_shared<DoneSignal>(loop);
    std::optional<Launched> step;
    const auto begin = [&] {
        const auto ticket = loop.begin_step([signal] { signal->send(); });
        if (ticket) { step = Launched{*ticket, clock.now() + kStepMax}; }
    };

    bool is_stopping = false;
    while (step || !stop.stop_requested()) {
        const bool was_running = step.has_value();
        const bool is_news = loop.work();
        if (!step) { begin(); }
        if (is_news || !was_running) { loop.settle(); }
        if (!step) {
            loop.wait(stop, loop.next_wake());
            continue;
        }
        if (stop.stop_requested() && !std::exchange(is_stopping, true)) {
            step->give_up = std::min(step->give_up, clock.now() + loop.limits().handoff_timeout);
        }
        if (!engine.ready(step->ticket)) {
            loop.wait(is_stopping ? std::stop_token{} : stop, std::min(loop.next_wake(), step->give_up));
        }
        if (!engine.ready(step->ticket) && clock.now() < step->give_up) { continue; }
        loop.finish_step(engine.collect(step->ticket, step->give_up));
        step.reset();
        if (!stop.stop_requested()) { begin(); }  // nothing else first: the engine stands still meanwhile
        loop.settle();
    }
    signal->disconnect();

    loop.end_all();
    loop.settle();
    // Transfers that still read or write blocks end on their own deadlines or aborts; their events arrive as tasks.
    const base::TimePoint give_up = clock.now() + loop.limits().handoff_timeout;
    while (loop.parts_busy() && clock.now() < give_up) {
        loop.wait({}, std::min(loop.next_wake(), give_up));
        loop.work();
        loop.settle();
    }
    loop.close();
}

}  // namespace worker
