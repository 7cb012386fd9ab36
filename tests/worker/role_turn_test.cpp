#include "worker/role_turn.h"

#include <condition_variable>
#include <mutex>
#include <string>
#include <vector>

#include "base/log.h"

#include "tests/support/catch.h"

using namespace std::chrono_literals;
using worker::Role;
using worker::RoleTurn;

namespace {

constexpr auto kPatience = 60s;  // a hang is a failure, not a wait for ever

/// A worker that is idle when the test says so, and writes down what it is told.
struct Told {
    Told() { base::init_log({.role = "test", .level = "off"}); }
    RoleTurn::Setup setup(Role role, std::chrono::milliseconds patience = kPatience) {
        return {.role = role,
                .may_turn = true,
                .patience = patience,
                .allows = {},
                .set_draining = [this](bool is_draining) { tell(is_draining ? "drains" : "takes work"); },
                .wait_idle =
                    [this](std::chrono::milliseconds wait) {
                        std::unique_lock lock(mutex);
                        return changed.wait_for(lock, wait, [this] { return is_idle; });
                    },
                .register_as = [this](Role as) { tell("is " + std::string(worker::role_name(as))); }};
    }
    void tell(const std::string& what) {
        const std::scoped_lock lock(mutex);
        told.push_back(what);
        changed.notify_all();
    }
    void become_idle() {
        const std::scoped_lock lock(mutex);
        is_idle = true;
        changed.notify_all();
    }
    std::vector<std::string> wait_for(std::size_t count) {
        std::unique_lock lock(mutex);
        REQUIRE(changed.wait_for(lock, kPatience, [&] { return told.size() >= count; }));
        return told;
    }

    std::mutex mutex;  // guards the rest
    std::condition_variable changed;
    bool is_idle = false;
    std::vector<std::string> told;
};

using Lines = std::vector<std::string>;

}  // namespace

TEST_CASE("a worker finishes what it has before it is of another role", "[worker][turn]") {
    Told told;
    RoleTurn turn(told.setup(Role::decode));
    const auto begun = turn.turn(Role::prefill);
    REQUIRE(begun.has_value());
    CHECK(begun->role == Role::decode);
    CHECK(begun->turns_to == Role::prefill);
    CHECK(told.wait_for(1) == Lines{"drains"});
    CHECK(turn.turn(Role::prefill)->turns_to == Role::prefill);  // asked again
    CHECK(turn.turn(Role::mixed).error().code == base::ErrorCode::aborted);
    told.become_idle();
    CHECK(told.wait_for(3) == Lines{"drains", "is prefill", "takes work"});
    CHECK(turn.state().role == Role::prefill);
    CHECK(turn.turn(Role::prefill)->turns_to == std::nullopt);
    // And on to the next.
    REQUIRE(turn.turn(Role::mixed).has_value());
    CHECK(told.wait_for(6) == Lines{"drains", "is prefill", "takes work", "drains", "is mixed", "takes work"});
}

TEST_CASE("what does not end in time goes on in the other role", "[worker][turn]") {
    Told told;
    RoleTurn turn(told.setup(Role::mixed, 1ms));
    REQUIRE(turn.turn(Role::decode).has_value());
    CHECK(told.wait_for(3) == Lines{"drains", "is decode", "takes work"});
}

TEST_CASE("a worker that drains for good stays what it is, and takes nothing any more", "[worker][turn]") {
    Told told;
    {
        RoleTurn turn(told.setup(Role::decode));
        REQUIRE(turn.turn(Role::prefill).has_value());
        told.wait_for(1);
        turn.give_up();
        told.become_idle();
        CHECK(turn.turn(Role::mixed).error().code == base::ErrorCode::failed_precondition);
    }
    CHECK(told.wait_for(1) == Lines{"drains"});
}

TEST_CASE("who may not turn says why", "[worker][turn]") {
    Told told;
    auto setup = told.setup(Role::decode);
    setup.may_turn = false;
    RoleTurn fixed(setup);
    CHECK(fixed.turn(Role::prefill).error().message.find("worker.may_turn") != std::string::npos);
    RoleTurn encoder(told.setup(Role::encode));
    CHECK(encoder.turn(Role::prefill).error().code == base::ErrorCode::failed_precondition);
    setup = told.setup(Role::decode);
    setup.allows = [](Role role) -> base::Result<void> {
        if (role == Role::decode) { return {}; }
        return base::fail(base::ErrorCode::invalid_argument, "the certificate is of decode");
    };
    RoleTurn certified(setup);
    CHECK(certified.turn(Role::mixed).error().message == "the certificate is of decode");
    CHECK(certified.turn(Role::encode).error().code == base::ErrorCode::invalid_argument);
    CHECK(certified.turn(Role::decode).has_value());
    const std::scoped_lock lock(told.mutex);
    CHECK(told.told.empty());
}
