#include "sim/event_queue.h"

#include <iterator>
#include <map>
#include <random>
#include <utility>

#include "tests/support/catch.h"
#include "tests/support/seeds.h"

TEST_CASE("events come by time, and in the order in which they were put in where times are equal", "[sim][property]") {
    const auto seed = GENERATE(range(0u, test_support::seeds_of(20)));
    CAPTURE(seed);
    std::mt19937 random{seed};
    // With a byte for the order it is numbered anew many times.
    constexpr int kOwn = 20;  // events with a number of their own
    sim::EventQueue<int, int, std::uint8_t> queue{kOwn};
    std::map<std::pair<int, int>, int> model;  // by time and number; those with their own come first
    int now = 0;
    int next = 0;
    for (int step = 0; step < 5000; ++step) {
        if (!model.empty() && (model.size() > 180 || random() % 2 == 0)) {
            REQUIRE(queue.next_at() == model.begin()->first.first);
            auto expected = model.begin();
            for (std::size_t ahead = 0; ahead <= queue.kSoon; ++ahead) {
                if (ahead == queue.kSoon || expected == model.end()) {
                    // None, or more of them than are promised.
                    REQUIRE((expected != model.end() || queue.soon(ahead) == nullptr));
                    break;
                }
                REQUIRE(queue.soon(ahead) != nullptr);
                REQUIRE(*queue.soon(ahead) == (expected++)->second);
            }
            REQUIRE(queue.pop() == model.begin()->second);
            now = model.begin()->first.first;
            REQUIRE(queue.now() == now);
            model.erase(model.begin());
        } else {
            const int at = now + static_cast<int>(random() % 20);
            const int own = static_cast<int>(random() % kOwn) - kOwn;
            if (random() % 4 == 0 && model.count({at, own}) == 0) {
                queue.push_as(static_cast<std::uint8_t>(own + kOwn), at, own);
                model[{at, own}] = own;
            } else {
                queue.push(at, next);
                model[{at, next}] = next;
                ++next;
            }
        }
        REQUIRE(queue.size() == model.size());
    }
    REQUIRE(next > 1000);
}
