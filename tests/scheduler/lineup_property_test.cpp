#include "scheduler/lineup.h"

#include <algorithm>
#include <map>
#include <random>
#include <vector>

#include "tests/support/catch.h"
#include "tests/support/seeds.h"

namespace {

struct Entry {
    double set_at = 0;
    double seconds = 0;  // for no tokens
    double per_token = 0;
    double until = 0;
    std::uint64_t id = 0;
    double at(double length, double now) const {
        return seconds + per_token * length - std::max(0.0, std::min(now, until) - set_at);
    }
};

}  // namespace

TEST_CASE("a lineup is in the order of what falls second by second", "[scheduler][property]") {
    const auto seed = GENERATE(range(0u, test_support::seeds_of(60)));
    CAPTURE(seed);
    std::mt19937 random{seed};
    const auto slots = static_cast<std::uint32_t>(1 + random() % 90);
    scheduler::Lineup lineup;
    std::map<std::uint32_t, Entry> model;
    double now = 100;
    for (int step = 0; step < 600; ++step) {
        now += static_cast<double>(random() % 4) / 4;
        const auto slot = static_cast<std::uint32_t>(random() % slots);
        if (random() % 5 == 0) {
            lineup.remove(slot);
            model.erase(slot);
        } else {
            // Quarters are exact, and so are their sums: equal times are equal, and ids decide.
            const Entry entry{.set_at = now,
                              .seconds = 10 + static_cast<double>(random() % 20) / 4,
                              .per_token = static_cast<double>(random() % 4) / 256,
                              .until = now + static_cast<double>(random() % 20) / 4 - 1,
                              .id = random() % 1000};
            scheduler::TimesByLength times;
            for (std::size_t i = 0; i < times.size(); ++i) {
                times[i] = entry.seconds + entry.per_token * scheduler::kLengths[i];
            }
            lineup.set(slot, base::WorkerId{entry.id}, times, now, entry.until);
            model[slot] = entry;
        }
        const auto part = static_cast<double>(random() % 64);  // of 64, of the way between two lengths
        const std::size_t from = random() % 2;
        const auto& lengths = scheduler::kLengths;
        const double length = lengths[from] + part * (lengths[from + 1] - lengths[from]) / 64;
        std::vector<std::uint32_t> expected;
        for (const auto& [one, entry] : model) {
            expected.push_back(one);
        }
        const auto key = [&](std::uint32_t one) { return std::pair{model.at(one).at(length, now), model.at(one).id}; };
        std::stable_sort(expected.begin(), expected.end(),
                         [&](std::uint32_t left, std::uint32_t right) { return key(left) < key(right); });
        const std::size_t wanted = random() % (slots + 3);
        const auto got = lineup.first({length}, now, wanted);
        REQUIRE(got.size() == std::min(model.size(), wanted));
        for (std::size_t i = 0; i < got.size(); ++i) {
            REQUIRE(key(got[i]) == key(expected[i]));  // of equals either may come first
            REQUIRE(lineup.seconds(got[i], {length}, now) == model.at(got[i]).at(length, now));
        }
        REQUIRE(lineup.is_empty() == model.empty());
        REQUIRE(lineup.has(slot) == (model.count(slot) > 0));
    }
    lineup.clear();
    REQUIRE(lineup.is_empty());
}
