#pragma once

#include <chrono>
#include <functional>
#include <mutex>
#include <optional>
#include <stop_token>
#include <thread>

#include "base/result.h"
#include "worker/options.h"

namespace worker {

/// The role of a worker, and how it becomes another while the worker runs. It is given nothing new until what it has
/// has ended, or `patience` is over: what is left then goes on all the same, since a worker that may turn has the parts
/// of all roles. Then it registers again. No weights are loaded, no stream is ended. Thread-safe; a thread of its own
/// while it turns.
class RoleTurn {
public:
    struct Setup {
        Role role = Role::mixed;  // to begin with
        bool may_turn = false;    // worker.may_turn: the parts of all roles are on
        std::chrono::milliseconds patience{30'000};
        /// Whether this process may run as that (its certificate). Empty: as anything.
        std::function<base::Result<void>(Role)> allows = {};
        /// Whether schedulers are to send it nothing new, from now on.
        std::function<void(bool)> set_draining;
        /// Waits until nothing is left to finish, or until the time has passed. Whether nothing is left.
        std::function<bool(std::chrono::milliseconds)> wait_idle;
        std::function<void(Role)> register_as;
    };
    explicit RoleTurn(Setup setup);
    ~RoleTurn();
    RoleTurn(const RoleTurn&) = delete;
    RoleTurn& operator=(const RoleTurn&) = delete;

    struct State {
        Role role = Role::mixed;  // as which it is registered
        std::optional<Role> turns_to = std::nullopt;
    };
    /// Begins, and returns at once. Of the role that it has, or turns to: no effect. Errors: failed_precondition
    /// (worker.may_turn is off; the worker drains for good; it encodes), invalid_argument (no role for text), aborted
    /// (it turns to another role), those of `allows`.
    base::Result<State> turn(Role role);
    State state() const;
    /// The worker drains for good: what has begun is left as it is, and nothing begins any more. Returns at once; any
    /// thread.
    void give_up();

private:
    void run(std::stop_token stop, Role role);

    const Setup setup_;
    mutable std::mutex mutex_;  // guards the next three
    State state_;
    bool is_over_ = false;
    std::jthread thread_;
};

}  // namespace worker
