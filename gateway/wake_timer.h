#pragma once

#include <boost/asio/io_context.hpp>
#include <functional>
#include <memory>
#include <optional>

#include "base/clock.h"

namespace gateway {

/// Gives whoever has timers a turn on the event loop, at the latest when it was asked for: an event loop that has
/// nothing to do sleeps until then. Used on the thread of its io_context, which it must not outlive.
class WakeTimer {
public:
    /// What is due; returns when the next is. Empty: nothing is, until by() says otherwise.
    using Turn = std::function<std::optional<base::TimePoint>(base::TimePoint now)>;

    /// `clock`, borrowed, says what is due. The loop sleeps by the machine's: no longer than a second, since the other
    /// need not run like it (a test's stands still, and jumps).
    WakeTimer(boost::asio::io_context& io, const base::Clock& clock, Turn turn);
    /// No turn comes any more.
    ~WakeTimer();
    WakeTimer(const WakeTimer&) = delete;
    WakeTimer& operator=(const WakeTimer&) = delete;

    /// There is a turn at the latest at `at`; never from inside this call.
    void by(base::TimePoint at);
    void stop();

private:
    struct State;
    std::shared_ptr<State> state_;
};

}  // namespace gateway
