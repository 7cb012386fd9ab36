#include "base/bounded_queue.h"

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <stop_token>
#include <thread>
#include <utility>
#include <vector>

#include "tests/support/catch.h"

namespace {

base::TimePoint never() {
    return base::SystemClock().now() + std::chrono::hours(24);
}

}  // namespace

TEST_CASE("a full queue refuses and leaves the value with the caller", "[base]") {
    base::BoundedQueue<std::unique_ptr<int>> queue(2);
    REQUIRE(queue.push(std::make_unique<int>(1)));
    REQUIRE(queue.push(std::make_unique<int>(2)));
    auto third = std::make_unique<int>(3);
    REQUIRE_FALSE(queue.push(std::move(third)));
    REQUIRE(third != nullptr);
    REQUIRE(queue.size() == 2);
    REQUIRE(queue.capacity() == 2);
    REQUIRE(**queue.pop({}) == 1);
    REQUIRE(queue.push(std::move(third)));
    REQUIRE(**queue.pop({}) == 2);
    REQUIRE(**queue.pop({}) == 3);
}

TEST_CASE("drain takes everything in order of arrival", "[base]") {
    base::BoundedQueue<int> queue(4);
    REQUIRE(queue.drain().empty());
    for (int i = 0; i < 4; ++i) {
        REQUIRE(queue.push(int{i}));
    }
    REQUIRE(queue.drain() == std::vector<int>{0, 1, 2, 3});
    REQUIRE(queue.size() == 0);
}

TEST_CASE("a closed queue refuses new elements and gives out the old ones", "[base]") {
    base::BoundedQueue<int> queue(4);
    REQUIRE(queue.push(1));
    queue.close();
    REQUIRE_FALSE(queue.push(2));
    REQUIRE(queue.pop({}) == 1);
    REQUIRE_FALSE(queue.pop({}).has_value());
}

TEST_CASE("pop ends at its deadline and when it is told to stop", "[base]") {
    base::BoundedQueue<int> queue(1);
    REQUIRE_FALSE(queue.pop({}, base::SystemClock().now()).has_value());
    std::stop_source stop;
    stop.request_stop();
    REQUIRE_FALSE(queue.pop(stop.get_token()).has_value());
    REQUIRE(queue.push(5));
    REQUIRE(queue.pop(stop.get_token()) == 5);  // what is there is given out even then
}

TEST_CASE("a consumer that waits is woken by an element, by close, by stop and by wake", "[base]") {
    base::BoundedQueue<int> queue(1);
    SECTION("element") {
        std::optional<int> taken;
        std::jthread consumer([&](std::stop_token stop) { taken = queue.pop(stop, never()); });
        REQUIRE(queue.push(1));
        consumer = {};  // joins; a stop request does not hide what is there
        if (!taken) { taken = queue.pop({}, base::SystemClock().now()); }
        REQUIRE(taken == 1);
    }
    SECTION("close") {
        std::optional<int> taken = 1;
        std::jthread consumer([&] { taken = queue.pop({}); });
        queue.close();
        consumer.join();
        REQUIRE_FALSE(taken.has_value());
    }
    SECTION("stop") {
        std::jthread consumer([&](std::stop_token stop) { queue.wait(stop, never()); });
        consumer.request_stop();
    }
    SECTION("wake before the wait") {
        queue.wake();
        queue.wait({}, never());
    }
    SECTION("wake ends one wait only") {
        queue.wake();
        queue.wait({}, never());
        queue.wait({}, base::SystemClock().now());  // would hang if the deadline did not end it
        REQUIRE(queue.size() == 0);
    }
    SECTION("wake during the wait") {
        std::jthread consumer([&] { queue.wait({}, never()); });
        queue.wake();
    }
}

TEST_CASE("with many producers nothing is lost, doubled or reordered", "[base]") {
    constexpr int kProducers = 4;
    constexpr int kEach = 2000;
    base::BoundedQueue<std::pair<int, int>> queue(16);
    std::atomic<int> refused = 0;
    std::vector<std::jthread> producers;
    for (int producer = 0; producer < kProducers; ++producer) {
        producers.emplace_back([&, producer] {
            for (int number = 0; number < kEach;) {
                if (queue.push({producer, number})) {
                    ++number;
                } else {
                    ++refused;
                    std::this_thread::yield();
                }
            }
        });
    }
    std::vector<int> next(kProducers, 0);
    int taken = 0;
    bool in_order = true;
    const auto take = [&](const std::pair<int, int>& element) {
        in_order = in_order && element.second == next[static_cast<std::size_t>(element.first)]++;
        ++taken;
    };
    while (taken < kProducers * kEach) {
        if (taken % 2 == 0) {
            if (const auto element = queue.pop({})) { take(*element); }
        } else {
            queue.wait({}, never());
            for (const auto& element : queue.drain()) {
                take(element);
            }
        }
    }
    producers.clear();
    REQUIRE(in_order);
    REQUIRE(taken == kProducers * kEach);
    REQUIRE(queue.size() == 0);
}
