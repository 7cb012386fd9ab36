#include "scheduler/lineup.h"

#include <algorithm>
#include <map>
#include <random>
#include <set>
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
        const std::size_t from = random() % (scheduler::kLengths.size() - 1);
        const auto& lengths = scheduler::kLengths;
        const double length = lengths[from] + part * (lengths[from + 1] - lengths[from]) / 64;
        const auto key = [&](std::uint32_t one) { return std::pair{model.at(one).at(length, now), model.at(one).id}; };
        const std::size_t wanted = random() % (slots + 3);
        const auto got = lineup.first({length}, now, wanted);
        REQUIRE(got.size() == std::min(model.size(), wanted));
        const std::set<std::uint32_t> found(got.begin(), got.end());
        REQUIRE(found.size() == got.size());
        for (std::size_t i = 0; i < got.size(); ++i) {
            REQUIRE(lineup.seconds(got[i], {length}, now) == model.at(got[i]).at(length, now));
            if (i > 0) { REQUIRE(key(got[i - 1]) <= key(got[i])); }
        }
        for (const auto& [one, entry] : model) {
            if (got.empty() || found.contains(one)) { continue; }
            // Who is left out is no better than the last, but for what is alike; ids decide between equals.
            const double last = model.at(got.back()).at(length, now);
            const double alike = std::min(last * scheduler::kAlikeShare, scheduler::kAlikeSecondsMax);
            REQUIRE(entry.at(length, now) >= last - alike);
        }
        REQUIRE(lineup.is_empty() == model.empty());
        REQUIRE(lineup.has(slot) == (model.count(slot) > 0));
    }
    lineup.clear();
    REQUIRE(lineup.is_empty());
}

TEST_CASE("who is first among equals is the one with the lowest id", "[scheduler][lineup]") {
    scheduler::Lineup lineup;
    scheduler::TimesByLength times;
    times.fill(0.25);
    for (std::uint32_t slot = 0; slot < 1000; ++slot) {
        lineup.set(slot, base::WorkerId{slot * 7919u % 1000}, times, 5, 0);
    }
    const auto first = lineup.first({700}, 6, 8);
    REQUIRE(first.size() == 8);
    REQUIRE(first[0] * 7919u % 1000 == 0);
}

TEST_CASE("a search looks at as many workers among ten thousand that are nearly alike as among a thousand",
          "[scheduler][lineup]") {
    // Learned costs are a few percent apart; a third of the workers have something to do first.
    const auto looks_a_search = [](std::uint32_t slots) {
        std::mt19937 random{slots};
        const auto unit = [&] { return static_cast<double>(random()) / 4294967296.0; };
        scheduler::Lineup lineup;
        const auto put = [&](std::uint32_t slot, double now) {
            const double begin = 2e-3 * (1 + 0.03 * unit());
            const double token = 3e-5 * (1 + 0.03 * unit());
            const double queue = random() % 3 == 0 ? 0.05 * unit() : 0;
            scheduler::TimesByLength times;
            for (std::size_t i = 0; i < times.size(); ++i) {
                times[i] = queue + begin + token * scheduler::kLengths[i];
            }
            lineup.set(slot, base::WorkerId{slot + 1}, times, now, now + queue);
        };
        for (std::uint32_t slot = 0; slot < slots; ++slot) {
            put(slot, 1);
        }
        const std::uint64_t before = lineup.looked_at();
        constexpr int kSearches = 2000;
        for (int i = 0; i < kSearches; ++i) {
            const double now = 1 + i * 1e-4;
            const auto first = lineup.first({static_cast<double>(1 + random() % 2000)}, now, 8);
            REQUIRE(first.size() == 8);
            put(first[0], now);
            put(static_cast<std::uint32_t>(random() % slots), now);
        }
        return static_cast<double>(lineup.looked_at() - before) / kSearches;
    };
    const double of_thousand = looks_a_search(1'000);
    const double of_ten_thousand = looks_a_search(10'000);
    CAPTURE(of_thousand, of_ten_thousand);
    CHECK(of_ten_thousand < 2 * of_thousand);
    CHECK(of_ten_thousand < 1'000);
}
