#include "caching/exact/common_answers.h"

#include <functional>
#include <string>

#include "tests/support/catch.h"

using caching::CommonAnswer;
using caching::CommonAnswers;

namespace {

constexpr std::int64_t kHour = 3'600'000'000;

base::BlockHash name(std::uint64_t number) {
    return {number, 1};
}

CommonAnswer answered(const std::string& tenant, const std::string& text, std::int64_t at = 0) {
    CommonAnswer given;
    given.answer.id = 7;
    given.answer.key = {std::hash<std::string>{}(tenant), 2};
    given.answer.tenant = tenant;
    given.answer.model = "m";
    given.answer.revision = "r1";
    given.answer.created_unix_us = at;
    given.answer.expires_unix_us = at + kHour;
    given.answer.answer.text = text;
    given.answer.answer.cached_tokens = 5;
    given.pieces = {{.bytes = static_cast<std::uint32_t>(text.size()), .tokens = 1, .after = base::Duration(9)}};
    given.kv = "raw";
    return given;
}

}  // namespace

TEST_CASE("what three tenants were answered alike is anybody's, and not before", "[caching][common]") {
    CommonAnswers common({.tenants_least = 3});
    common.see(name(1), answered("a", "yes"));
    common.see(name(1), answered("b", "yes"));
    for (int time = 0; time < 5; ++time) {
        common.see(name(1), answered("b", "yes"));  // the same tenant is no further one, however often
    }
    CHECK(common.find(name(1)) == nullptr);
    common.see(name(2), answered("c", "yes"));  // of another request
    CHECK(common.find(name(1)) == nullptr);
    common.see(name(1), answered("c", "yes", kHour / 2));
    const CommonAnswer* found = common.find(name(1));
    REQUIRE(found != nullptr);
    CHECK(found->answer.answer.text == "yes");
    CHECK(found->answer.tenant.empty());  // nothing says whose it was,
    CHECK(found->answer.key == base::BlockHash{});
    CHECK(found->answer.id == 0);
    CHECK(found->answer.answer.cached_tokens == 0);  // nor what the giver had cached
    CHECK(found->answer.expires_unix_us == kHour / 2 + kHour);
    CHECK(found->pieces.size() == 1);
    CHECK(found->kv == "raw");
    CHECK(common.find(name(2)) == nullptr);
    CHECK(common.counts().common == 1);
    CHECK(common.counts().waiting == 1);
}

TEST_CASE("other words, or the end of its time, begin anew", "[caching][common]") {
    CommonAnswers common({.tenants_least = 2});
    common.see(name(1), answered("a", "yes"));
    common.see(name(1), answered("b", "no"));  // they do not agree: one voice for no
    CHECK(common.find(name(1)) == nullptr);
    common.see(name(1), answered("c", "no"));
    REQUIRE(common.find(name(1)) != nullptr);
    common.see(name(1), answered("d", "yes"));  // what is anybody's is contradicted: it is nobody's any more
    CHECK(common.find(name(1)) == nullptr);
    common.see(name(1), answered("e", "yes", 2 * kHour));  // too late to agree with d
    CHECK(common.find(name(1)) == nullptr);
    CHECK(common.counts().common == 0);
    CHECK(common.counts().waiting == 1);
}

TEST_CASE("answers agree in all that goes out, not in the text alone", "[caching][common]") {
    const auto agrees_with_plain = [](const std::function<void(CommonAnswer&)>& change) {
        CommonAnswers common({.tenants_least = 2});
        common.see(name(1), answered("a", "yes"));
        CommonAnswer other = answered("b", "yes");
        change(other);
        common.see(name(1), other);
        return common.find(name(1)) != nullptr;
    };
    CHECK(agrees_with_plain([](CommonAnswer&) {}));
    CHECK(agrees_with_plain([](CommonAnswer& one) { one.answer.answer.cached_tokens = 1; }));
    CHECK_FALSE(agrees_with_plain([](CommonAnswer& one) { one.answer.answer.is_cut = true; }));
    CHECK_FALSE(agrees_with_plain([](CommonAnswer& one) { one.answer.answer.stop_string = ""; }));
    CHECK_FALSE(agrees_with_plain([](CommonAnswer& one) { one.answer.answer.stop_token = base::TokenId{0}; }));
    CHECK_FALSE(agrees_with_plain([](CommonAnswer& one) { one.answer.answer.completion_tokens = 2; }));
    CHECK_FALSE(agrees_with_plain([](CommonAnswer& one) { one.answer.answer.reasoning_tokens = 2; }));
}

TEST_CASE("what depends on a tenant's documents, and what says nothing, is never common", "[caching][common]") {
    CommonAnswers common({.tenants_least = 2});
    for (const char* tenant : {"a", "b", "c"}) {
        CommonAnswer tagged = answered(tenant, "yes");
        tagged.answer.tags = {"handbook"};
        common.see(name(1), tagged);
        common.see(name(2), answered(tenant, ""));
    }
    CHECK(common.counts().waiting == 0);
    CHECK(common.counts().common == 0);
}

TEST_CASE("a purge takes what any of its tenants gave", "[caching][common]") {
    CommonAnswers common({.tenants_least = 2});
    const auto fill = [&] {
        for (const char* tenant : {"a", "b"}) {
            common.see(name(1), answered(tenant, "yes"));
        }
        common.see(name(2), answered("c", "alone"));
    };
    fill();
    CHECK(common.purge({.tenant = "b"}, true) == 1);
    CHECK(common.find(name(1)) != nullptr);
    CHECK(common.purge({.tenant = "b"}, false) == 1);
    CHECK(common.find(name(1)) == nullptr);
    fill();
    CHECK(common.purge({.key = answered("b", "").answer.key}, false) == 1);  // one tenant's own entry was wrong
    CHECK(common.find(name(1)) == nullptr);
    fill();
    CHECK(common.purge({.tenant = "z"}, false) == 0);
    CHECK(common.purge({.revision = "r1"}, false) == 2);
    fill();
    CHECK(common.purge({.created_before_unix_us = 0}, false) == 0);
    CHECK(common.purge({}, false) == 2);
    CHECK(common.counts().bytes == 0);
    CHECK(common.counts().common == 0);
    CHECK(common.counts().waiting == 0);
}

TEST_CASE("requests that wait for more tenants push out none that anybody may have", "[caching][common]") {
    CommonAnswers common({.tenants_least = 2, .bytes_max = 64 << 10});
    for (std::uint64_t number = 0; number < 3; ++number) {
        common.see(name(number), answered("a", "yes"));
        common.see(name(number), answered("b", "yes"));
    }
    for (std::uint64_t number = 100; number < 5000; ++number) {
        common.see(name(number), answered("hostile", std::string(2000, 'x')));
        REQUIRE(common.counts().bytes <= 64 << 10);
    }
    CHECK(common.counts().waiting > 3);
    CHECK(common.counts().common == 3);
    // The latest that wait are there: one more tenant is enough.
    common.see(name(4999), answered("b", std::string(2000, 'x')));
    CHECK(common.find(name(4999)) != nullptr);
    common.see(name(100), answered("b", std::string(2000, 'x')));
    CHECK(common.find(name(100)) == nullptr);
}

TEST_CASE("of what anybody may have, what was used longest ago makes room", "[caching][common]") {
    CommonAnswers common({.tenants_least = 2, .bytes_max = 64 << 10});
    const auto share = [&](std::uint64_t number) {
        common.see(name(number), answered("a", std::string(5000, 'x')));
        common.see(name(number), answered("b", std::string(5000, 'x')));
    };
    share(0);
    share(1);
    for (std::uint64_t number = 2; number < 40; ++number) {
        share(number);
        REQUIRE(common.find(name(0)) != nullptr);  // it is asked for again and again
        REQUIRE(common.counts().bytes <= 64 << 10);
    }
    CHECK(common.find(name(1)) == nullptr);
    // What is larger than all there is room for is not kept, and nothing else goes wrong.
    common.see(name(99), answered("a", std::string(80'000, 'x')));
    common.see(name(99), answered("b", std::string(80'000, 'x')));
    CHECK(common.find(name(99)) == nullptr);
    share(1);
    CHECK(common.find(name(1)) != nullptr);
}
