#include "caching/semantic/load_relief.h"

#include <cmath>
#include <string>

#include "caching/semantic/budget.h"
#include "caching/semantic/semantic_cache.h"
#include "tests/support/catch.h"

using namespace std::chrono_literals;
using caching::ErrorBudget;
using caching::HitKind;
using caching::LoadRelief;
using caching::Question;

namespace {

struct Pool {
    LoadRelief relief{{.from = 0.8, .full = 1.2}};
    base::FakeClock clock;
    void stays(double load, int seconds) {
        for (int second = 0; second < seconds; ++second) {
            clock.advance(1s);
            relief.see(load, clock.now());
        }
    }
    double now() const { return relief.at(clock.now()); }
};

Question ask(const std::string& text, const std::string& tenant = "acme") {
    Question question;
    question.tenant = tenant;
    question.model = "m";
    question.messages = {{"user", text}};
    return question;
}

caching::Answer say(const std::string& content) {
    caching::Answer answer;
    answer.content = content;
    return answer;
}

struct Cache {
    explicit Cache(caching::SemanticCacheOptions options) : cache(std::move(options), clock, hashed, hashed) {}
    base::FakeClock clock;
    caching::HashedEmbedder hashed;
    caching::SemanticCache cache;
    void answer(const std::string& text, const std::string& content) {
        cache.store(ask(text), cache.lookup(ask(text)).probe, say(content));
    }
};

caching::SemanticCacheOptions relieving() {
    caching::SemanticCacheOptions options;
    options.relieves = true;
    return options;
}

}  // namespace

TEST_CASE("bounds give way under load that lasts, a tenth a second, and come back", "[caching][load]") {
    Pool pool;
    pool.stays(0.5, 60);
    CHECK(pool.now() == 0);
    pool.stays(5.0, 1);
    CHECK(pool.now() <= 0.1);
    pool.stays(5.0, 20);
    CHECK(pool.now() == 1);
    pool.stays(0.0, 3);
    CHECK(pool.now() > 0.9);  // the mean falls slowly
    pool.stays(0.0, 300);
    CHECK(pool.now() == 0);
}

TEST_CASE("a load between the bounds gives way in part, and does not tremble", "[caching][load]") {
    Pool pool;
    pool.stays(1.0, 120);
    const double half = pool.now();
    CHECK(std::abs(half - 0.5) <= 0.05 + 1e-9);
    for (int turn = 0; turn < 20; ++turn) {
        pool.stays(turn % 2 == 0 ? 1.01 : 0.99, 1);
        CHECK(pool.now() == half);
    }
}

TEST_CASE("an unknown load relaxes nothing", "[caching][load]") {
    Pool pool;
    CHECK(pool.now() == 0);
    pool.stays(3.0, 60);
    REQUIRE(pool.now() == 1);
    pool.clock.advance(20s);
    CHECK(pool.now() == 0);
    pool.relief.see(3.0, pool.clock.now());  // and it begins anew
    CHECK(pool.now() == 0);
    pool.relief.see(std::nan(""), pool.clock.now());
    CHECK(pool.now() == 0);
}

TEST_CASE("the budget under load is the same one: rest keeps a part of it, load spends it", "[caching][load]") {
    const auto spent = [](double relief_until, double relief_then) {
        ErrorBudget budget(0.01, {.share = 0.5, .wrong_chance_most = 0.25});
        for (int hit = 0; hit < 20'000; ++hit) {
            const double chance = budget.wrong_chance_max(hit < 10'000 ? relief_until : relief_then);
            chance > 0 ? budget.semantic_hit(chance) : budget.exact_hit();
        }
        return budget.expected_wrong();
    };
    const double allowed = 0.01 * (20'000 + 100);
    CHECK(spent(0, 0) <= 0.5 * allowed + 0.25);
    CHECK(spent(0, 0) > 0.4 * allowed);
    CHECK(spent(0, 1) <= allowed + 0.25);
    CHECK(spent(0, 1) > 0.9 * allowed);
    CHECK(spent(1, 1) <= allowed + 0.25);
    ErrorBudget plain(0.01);
    CHECK(plain.wrong_chance_max(1.0) == plain.wrong_chance_max(0.0));  // nothing is kept back, nothing gives way
}

TEST_CASE("an answer beyond its time is served under load once such answers were seen to last", "[caching][load]") {
    Cache one(relieving());
    const std::string asked = "How do I list hidden files in a folder?";
    one.answer(asked, "ls -a");
    const auto category = one.cache.lookup(ask(asked)).probe.category;
    const auto ttl = std::chrono::milliseconds(one.cache.options().categories[category].ttl_ms);
    one.clock.advance(ttl + 1s);
    CHECK(one.cache.lookup(ask(asked), 1.0).kind == HitKind::none);  // nobody knows whether it has changed
    for (int more = 0; more < 12; ++more) {                          // it never does
        one.answer(asked, "ls -a");
        one.clock.advance(ttl + 1s);
    }
    CHECK(one.cache.lookup(ask(asked), 0.0).kind == HitKind::none);
    const auto late = one.cache.lookup(ask(asked), 1.0);
    CHECK(late.kind == HitKind::exact);
    CHECK(late.is_late);
    CHECK(late.is_relieved);
    one.clock.advance(ttl);  // twice its time is too much under any load
    CHECK(one.cache.lookup(ask(asked), 1.0).kind == HitKind::none);

    Cache strict({});
    for (int more = 0; more < 12; ++more) {
        strict.answer(asked, "ls -a");
        strict.clock.advance(ttl + 1s);
    }
    CHECK(strict.cache.lookup(ask(asked), 1.0).kind == HitKind::none);
}

TEST_CASE("answers that were seen to change are not served beyond their time", "[caching][load]") {
    Cache one(relieving());
    const std::string asked = "How do I list hidden files in a folder?";
    one.answer(asked, "ls -a");
    const auto category = one.cache.lookup(ask(asked)).probe.category;
    const auto ttl = std::chrono::milliseconds(one.cache.options().categories[category].ttl_ms);
    for (int more = 0; more < 40; ++more) {
        one.clock.advance(ttl + 1s);
        one.answer(asked, "ls -a " + std::to_string(more / 2));
    }
    one.clock.advance(ttl + 1s);
    CHECK(one.cache.lookup(ask(asked), 1.0).kind == HitKind::none);
}
