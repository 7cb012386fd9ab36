#include "base/log_limit.h"

#include <spdlog/sinks/ostream_sink.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <sstream>
#include <string>

#include "tests/support/catch.h"

namespace {

using namespace std::chrono_literals;

/// What is logged while this lives.
struct Recorded {
    Recorded() : before(spdlog::default_logger()) {
        auto logger = std::make_shared<spdlog::logger>("test", std::make_shared<spdlog::sinks::ostream_sink_mt>(text));
        logger->set_pattern("%l %v");
        spdlog::set_default_logger(std::move(logger));
    }
    ~Recorded() { spdlog::set_default_logger(before); }
    std::ostringstream text;
    std::shared_ptr<spdlog::logger> before;
};

}  // namespace

TEST_CASE("of each kind a few messages are written in a period, and the next says how many were not", "[base][log]") {
    base::LogLimit limit({.messages_max = 2, .period = 10s, .kinds_max = 8});
    const base::TimePoint start{};
    REQUIRE(limit.admit("a", start) == 0u);
    REQUIRE(limit.admit("a", start + 1s) == 0u);
    for (int message = 0; message < 100; ++message) {
        REQUIRE_FALSE(limit.admit("a", start + 9s));
    }
    REQUIRE(limit.admit("b", start + 9s) == 0u);  // a kind of its own
    REQUIRE(limit.admit("a", start + 10s) == 100u);
    REQUIRE(limit.admit("a", start + 10s) == 0u);
    REQUIRE_FALSE(limit.admit("a", start + 19s));
    REQUIRE(limit.admit("a", start + 20s) == 1u);
}

TEST_CASE("kinds beyond the table's size count as one", "[base][log]") {
    base::LogLimit limit({.messages_max = 1, .period = 10s, .kinds_max = 3});
    const base::TimePoint now{};
    REQUIRE(limit.admit("a", now));
    REQUIRE(limit.admit("b", now));
    REQUIRE(limit.admit("c", now));
    for (int kind = 0; kind < 1000; ++kind) {
        REQUIRE_FALSE(limit.admit(std::to_string(kind), now));
    }
}

TEST_CASE("a flood of one kind is a few lines in the log", "[base][log]") {
    const Recorded recorded;
    for (int message = 0; message < 1000; ++message) {
        base::warn_limited("flood of a test", "peer {} is gone", message);
    }
    const std::string text = recorded.text.str();
    REQUIRE(text.starts_with("warning peer 0 is gone\n"));
    REQUIRE(std::count(text.begin(), text.end(), '\n') <= 10);  // 5 in a period; it may end meanwhile
    REQUIRE(base::left_out_text(0).empty());
    REQUIRE(base::left_out_text(995) == " (995 more of this kind were left out)");
}
