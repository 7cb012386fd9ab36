#include "gateway/wake_timer.h"

#include <algorithm>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <utility>

namespace gateway {
namespace {

constexpr base::Duration kSleepMax = std::chrono::seconds(1);
constexpr base::Duration kSleepMin = std::chrono::milliseconds(1);  // between two turns: a clock may stand still

}  // namespace

struct WakeTimer::State : std::enable_shared_from_this<State> {
    State(boost::asio::io_context& io, const base::Clock& given_clock, Turn given_turn)
        : timer(io), clock(given_clock), turn(std::move(given_turn)) {}

    void sleep(base::TimePoint until, base::Duration at_least) {
        if (stopped || (set_for && *set_for <= until)) { return; }
        set_for = until;
        timer.expires_after(std::clamp(until - clock.now(), at_least, kSleepMax));
        timer.async_wait([weak = weak_from_this()](const boost::system::error_code& error) {
            const auto self = weak.lock();
            if (error || !self || self->stopped) { return; }
            self->set_for.reset();
            if (const auto next = self->turn(self->clock.now())) { self->sleep(*next, kSleepMin); }
        });
    }

    boost::asio::steady_timer timer;
    const base::Clock& clock;
    const Turn turn;
    std::optional<base::TimePoint> set_for;  // the turn that is waited for
    bool stopped = false;
};

WakeTimer::WakeTimer(boost::asio::io_context& io, const base::Clock& clock, Turn turn)
    : state_(std::make_shared<State>(io, clock, std::move(turn))) {}

WakeTimer::~WakeTimer() {
    stop();
}

void WakeTimer::by(base::TimePoint at) {
    state_->sleep(at, base::Duration::zero());
}

void WakeTimer::stop() {
    state_->stopped = true;
    state_->timer.cancel();
}

}  // namespace gateway
