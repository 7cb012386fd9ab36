#pragma once

#include <pthread.h>

#include <chrono>
#include <cstddef>
#include <functional>
#include <optional>
#include <stop_token>
#include <thread>
#include <utility>
#include <vector>

#include "base/bounded_queue.h"
#include "base/check.h"
#include "base/clock.h"

namespace kv_transfer {

/// A thread of its own, a bounded queue of commands for it, and timers: what KvSender and KvReceiver run on. `offer`,
/// `push` and `wake` may be called from any thread and do not wait.
template <class Command>
class CommandThread {
public:
    /// What the owner does, on the thread (in `tick` where there is none; `apply` also in `stop`).
    struct Work {
        std::function<void(Command&)> apply;
        /// Timers, and a little of what else can be done now, so that commands are not kept waiting. True when it did
        /// anything: it is called again at once.
        std::function<bool(base::TimePoint now)> proceed;
        /// When `proceed` must look again if nothing comes; empty: not before.
        std::function<std::optional<base::TimePoint>()> next_due;
    };
    struct Options {
        std::size_t messages_max = 0;  // > 0: `offer` refuses when so many commands wait
        std::size_t reserve = 0;       // room above it for what is pushed
        bool own_thread = true;        // false: `tick()` does the work (tests)
        const char* name = "";         // of the thread, for who looks at the process from outside; 15 characters
    };

    CommandThread(Options options, const base::Clock& clock, Work work)
        : options_(options),
          clock_(clock),
          work_(std::move(work)),
          commands_(options.messages_max + kOffering + options.reserve) {}

    /// Once, when everything that the work needs is there.
    void start() {
        if (options_.own_thread) {
            thread_ = std::jthread([this](std::stop_token stop) { run(stop); });
        }
    }

    /// For what may be dropped, because it is repeated or backed by a timer. False when too many commands wait.
    [[nodiscard]] bool offer(Command command) {
        return commands_.size() < options_.messages_max && commands_.push(std::move(command));
    }

    /// For what must not be dropped. Whoever pushes bounds how many can wait: `reserve` at most.
    void push(Command command) {
        CHECK(commands_.push(std::move(command)),
              "more than " << options_.reserve << " commands beside " << options_.messages_max << " messages");
    }

    /// Lets `proceed` look again.
    void wake() { commands_.wake(); }

    /// Joins the thread and applies what still waits; nothing happens on its own afterwards. Idempotent.
    void stop() {
        thread_ = {};
        apply_all();
    }

    /// Where there is no thread: does what is to be done now; true when it did anything.
    bool tick() { return options_.own_thread ? false : turn(); }

private:
    void run(std::stop_token stop) {
        pthread_setname_np(pthread_self(), options_.name);
        while (!stop.stop_requested()) {
            if (!turn()) { commands_.wait(stop, work_.next_due().value_or(clock_.now() + kIdle)); }
        }
    }
    bool turn() {
        const bool did = apply_all();
        return work_.proceed(clock_.now()) || did;
    }
    bool apply_all() {
        std::vector<Command> commands = commands_.drain();
        for (Command& command : commands) {
            work_.apply(command);
        }
        return !commands.empty();
    }

    static constexpr std::size_t kOffering = 64;                    // threads that may be inside `offer` at once
    static constexpr base::Duration kIdle = std::chrono::hours(1);  // nothing is due: it could be for ever

    const Options options_;
    const base::Clock& clock_;
    const Work work_;
    base::BoundedQueue<Command> commands_;
    std::jthread thread_;
};

}  // namespace kv_transfer
