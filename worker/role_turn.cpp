#include "worker/role_turn.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/log.h"

namespace worker {
namespace {

using base::ErrorCode;
using base::fail;

/// How long the thread may take to see that it should end.
constexpr std::chrono::milliseconds kLook{50};

}  // namespace

RoleTurn::RoleTurn(Setup setup) : setup_(std::move(setup)) {
    state_.role = setup_.role;
}

RoleTurn::~RoleTurn() {
    give_up();
    std::jthread thread;
    {
        const std::scoped_lock lock(mutex_);
        thread = std::move(thread_);
    }
}

RoleTurn::State RoleTurn::state() const {
    const std::scoped_lock lock(mutex_);
    return state_;
}

void RoleTurn::give_up() {
    const std::scoped_lock lock(mutex_);
    is_over_ = true;
    thread_.request_stop();
}

base::Result<RoleTurn::State> RoleTurn::turn(Role role) {
    if (role == Role::encode) {
        return fail(ErrorCode::invalid_argument, "a worker turns to prefill, decode or mixed, and to nothing else");
    }
    if (!setup_.may_turn || setup_.role == Role::encode) {
        return fail(ErrorCode::failed_precondition, setup_.role == Role::encode
                                                        ? "a worker that encodes stays one"
                                                        : "this worker keeps its role: worker.may_turn is off");
    }
    if (setup_.allows) {
        if (auto allowed = setup_.allows(role); !allowed) { return base::pass_on(allowed); }
    }
    const std::scoped_lock lock(mutex_);
    if (is_over_) { return fail(ErrorCode::failed_precondition, "this worker drains, and will end"); }
    if (state_.turns_to && *state_.turns_to != role) {
        return fail(ErrorCode::aborted,
                    "this worker turns to " + std::string(role_name(*state_.turns_to)) + " now: ask again when it has");
    }
    if (state_.turns_to || state_.role == role) { return state_; }
    state_.turns_to = role;
    spdlog::info("turns from {} to {}: gets nothing new until what it has has ended", role_name(state_.role),
                 role_name(role));
    setup_.set_draining(true);
    thread_ = std::jthread([this, role](const std::stop_token& stop) { run(stop, role); });
    return state_;
}

void RoleTurn::run(std::stop_token stop, Role role) {
    const auto give_up = std::chrono::steady_clock::now() + setup_.patience;
    bool is_idle = false;
    while (!is_idle && !stop.stop_requested() && std::chrono::steady_clock::now() < give_up) {
        is_idle = setup_.wait_idle(kLook);
    }
    const std::scoped_lock lock(mutex_);
    if (is_over_) { return; }
    state_ = {.role = role, .turns_to = std::nullopt};
    setup_.register_as(role);
    setup_.set_draining(false);
    spdlog::info("is of role {} now{}", role_name(role), is_idle ? "" : ", with what it had before");
}

}  // namespace worker
