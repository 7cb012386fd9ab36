#include "sim/event_queue.h"

#include <random>
#include <set>
#include <tuple>

#include "tests/support/catch.h"

TEST_CASE("events come by time, then in the order in which they were put in, whatever comes in between",
          "[sim][property]") {
    const auto seed = GENERATE(range(0u, 50u));
    CAPTURE(seed);
    std::mt19937 random{seed};
    sim::EventQueue<int, std::int64_t> queue;
    std::set<std::tuple<std::int64_t, int>> model;  // (time, number)
    int next = 0;
    // Some seeds have many events at one instant, some have nearly none; some push mostly what comes soon.
    const std::uint64_t spread = seed % 3 == 0 ? 4 : 1'000'000;
    const std::uint32_t most = seed % 2 == 0 ? 5 : 2000;
    for (int step = 0; step < 5000; ++step) {
        const bool pushes = model.empty() || (model.size() < most && random() % 5 < 3);
        if (pushes) {
            const std::int64_t at = queue.now() + static_cast<std::int64_t>(random() % (spread / (1 + random() % 4)));
            queue.push(at, next);
            model.emplace(at, next++);
        } else {
            const auto [at, number] = *model.begin();
            REQUIRE(queue.next_at() == at);
            REQUIRE(*queue.soon(0) == number);
            REQUIRE(queue.pop() == number);
            REQUIRE(queue.now() == at);
            model.erase(model.begin());
        }
        REQUIRE(queue.size() == model.size());
        REQUIRE(queue.empty() == model.empty());
        // What is said to come soon does so, in that order.
        std::size_t number = 0;
        for (auto one = model.begin(); one != model.end(); ++one, ++number) {
            const int* const soon = queue.soon(number);
            if (soon == nullptr) { break; }
            REQUIRE(*soon == std::get<1>(*one));
        }
        REQUIRE(queue.soon(model.size()) == nullptr);
    }
    // Once something was taken, the next ones are known.
    while (model.size() > 1) {
        REQUIRE(queue.pop() == std::get<1>(*model.begin()));
        model.erase(model.begin());
        REQUIRE(queue.soon(std::min(model.size(), queue.kAhead) - 1) != nullptr);
    }
}
