#include "scheduler/fair_share.h"

#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "tests/support/catch.h"
#include "tests/support/seeds.h"

using namespace std::chrono_literals;
using scheduler::FairShare;
using scheduler::TenantId;

namespace {

/// A worker that computes prompts one after another, and lets in what is predicted to be in time.
struct Queue {
    static constexpr double kTargetSeconds = 1;
    static constexpr double kTokenSeconds = 1e-4;
    double seconds = 0;

    bool lets_in(double prompt_tokens, double fraction) {
        const double own = prompt_tokens * kTokenSeconds;
        if (seconds > fraction * (kTargetSeconds - own)) { return false; }
        seconds += own;
        return true;
    }
};

}  // namespace

TEST_CASE("tenants with requests at hand are served by their weights", "[scheduler][fair][property]") {
    const auto seed = GENERATE(range(0u, test_support::seeds_of(20)));
    CAPTURE(seed);
    std::mt19937 random{seed};
    const std::size_t tenants = 2 + random() % 3;
    std::vector<double> weights;
    for (std::size_t i = 0; i < tenants; ++i) {
        weights.push_back(1 + static_cast<double>(random() % 4));
    }
    constexpr double kAheadMax = 8192;
    constexpr std::uint32_t kPromptMax = 2000;
    constexpr std::uint32_t kAnswerMax = 500;
    FairShare share({.weights = weights, .tokens_ahead_max = kAheadMax});
    base::FakeClock clock;
    Queue queue;
    std::vector<double> served(tenants);
    std::vector<TenantId> order;
    for (std::uint32_t i = 0; i < tenants; ++i) {
        order.push_back(TenantId{i});
    }
    for (const TenantId tenant : order) {
        share.asks(tenant, 0, clock.now());
    }
    constexpr double kMostOfOne = kPromptMax + FairShare::kAnswerWeight * kAnswerMax;
    for (int tick = 0; tick < 60'000; ++tick) {
        clock.advance(5ms);
        queue.seconds = std::max(0.0, queue.seconds - 0.005);
        std::shuffle(order.begin(), order.end(), random);
        for (const TenantId tenant : order) {
            // The first one asks ten times as often and takes more each time.
            const bool is_greedy = tenant == TenantId{0};
            for (int attempt = 0; attempt < (is_greedy ? 10 : 1); ++attempt) {
                const double prompt = is_greedy ? kPromptMax : 1 + static_cast<double>(random() % kPromptMax);
                const double answer = is_greedy ? kAnswerMax : static_cast<double>(random() % kAnswerMax);
                share.asks(tenant, 0, clock.now());
                if (!queue.lets_in(prompt, share.fraction(tenant, 0, clock.now()))) { continue; }
                share.charge(tenant, prompt, answer);
                served[base::raw(tenant)] += prompt + FairShare::kAnswerWeight * answer;
            }
        }
        for (std::size_t a = 0; a < tenants; ++a) {
            for (std::size_t b = 0; b < tenants; ++b) {
                REQUIRE(served[a] / weights[a] - served[b] / weights[b] <= kAheadMax + kMostOfOne / weights[a]);
            }
        }
    }
    // All of it was used: a second of work each second.
    double prompt_share = 0;
    for (const double one : served) {
        prompt_share += one;
    }
    REQUIRE(prompt_share > 0.9 * 60'000 * 0.005 / Queue::kTokenSeconds);
    // And nobody was left out: each by its weight, within what the bound says.
    const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
    for (std::size_t a = 0; a < tenants; ++a) {
        REQUIRE(served[a] / prompt_share == Approx(weights[a] / total).margin(0.02));
    }
}

TEST_CASE("a tenant that comes new or comes back is lifted to the least active one", "[scheduler][fair]") {
    FairShare share({.window = 10s});
    base::FakeClock clock;
    const TenantId old{0};
    const TenantId other{1};
    const TenantId fresh{2};
    share.asks(old, 0, clock.now());
    share.charge(old, 1000, 0);
    share.asks(other, 0, clock.now());
    REQUIRE(share.counter(other) == 1000);  // new ones do not begin at 0
    share.charge(other, 500, 250);
    REQUIRE(share.counter(other) == 2000);
    share.asks(fresh, 0, clock.now());
    REQUIRE(share.counter(fresh) == 1000);

    clock.advance(9s);
    share.asks(old, 0, clock.now());
    share.charge(old, 10'000, 0);
    clock.advance(9s);  // the others are silent for 18 s
    share.asks(old, 0, clock.now());
    REQUIRE(share.fraction(old, 0, clock.now()) == 1);  // alone: nobody is kept from anything
    share.asks(other, 0, clock.now());
    REQUIRE(share.counter(other) == 11'000);  // not what it saved up meanwhile
    REQUIRE(share.counter(fresh) == 1000);

    clock.advance(20s);  // nobody is active
    share.charge(other, 5000, 0);
    share.asks(fresh, 0, clock.now());
    REQUIRE(share.counter(fresh) == 16'000);  // as much as who was here last
}

TEST_CASE("a tenant that is ahead may fill less of a queue, and a lower class less than that", "[scheduler][fair]") {
    FairShare share({.tokens_ahead_max = 1000, .fraction_min = 0.5});
    const base::FakeClock clock;
    const auto now = clock.now();
    const TenantId a{0};
    const TenantId b{1};
    share.asks(a, 0, now);
    share.charge(a, 50'000, 0);
    REQUIRE(share.fraction(a, 0, now) == 1);
    share.asks(b, 0, now);
    REQUIRE(share.fraction(a, 0, now) == 1);  // b was lifted
    share.charge(a, 500, 0);
    REQUIRE(share.tokens_ahead(a, 0, now) == 500);
    REQUIRE(share.fraction(a, 0, now) == Approx(0.75));
    REQUIRE(share.fraction(b, 0, now) == 1);
    share.charge(a, 5000, 0);
    REQUIRE(share.fraction(a, 0, now) == Approx(0.5));
    share.charge(a, 0, -2750);  // its answers were shorter than predicted
    REQUIRE(share.fraction(a, 0, now) == 1);
    share.asks(b, 5, now);
    REQUIRE(share.fraction(b, 5, now) == 1);
    REQUIRE(share.fraction(a, 0, now) == Approx(0.5));  // requests of a higher class are at hand
    share.charge(a, 100'000, 0);
    REQUIRE(share.fraction(a, 5, now) == Approx(0.5));  // of b's class, but far ahead of it
    REQUIRE(share.fraction(a, 0, now) == Approx(0.25));
}
