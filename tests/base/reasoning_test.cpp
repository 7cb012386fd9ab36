#include "base/reasoning.h"

#include <vector>

#include "tests/support/catch.h"

using base::ReasoningRule;
using base::ReasoningState;
using base::TokenId;

namespace {

constexpr TokenId kBegin = 7;
constexpr TokenId kEnd = 8;

ReasoningState after(const ReasoningRule& rule, const std::vector<TokenId>& generated) {
    ReasoningState state(rule);
    state.follow(generated);
    return state;
}

}  // namespace

TEST_CASE("reasoning is what stands between its two tokens at the beginning of an answer", "[base]") {
    const ReasoningRule rule{.begin = kBegin, .end = kEnd};
    REQUIRE(after(rule, {}).may_begin());
    REQUIRE_FALSE(after(rule, {}).is_inside());
    REQUIRE(after(rule, {kBegin}).is_inside());
    REQUIRE(after(rule, {kBegin, 1, 2}).tokens() == 2);
    REQUIRE(after(rule, {kBegin, 1, 2}).answer_begin() == 0);
    const auto whole = after(rule, {kBegin, 1, 2, kEnd, 3, kBegin, 4});
    REQUIRE_FALSE(whole.is_inside());
    REQUIRE(whole.tokens() == 2);
    REQUIRE(whole.answer_begin() == 4);
    const auto none = after(rule, {1, kBegin, 2});
    REQUIRE_FALSE(none.is_inside());
    REQUIRE_FALSE(none.may_begin());
    REQUIRE(none.tokens() == 0);
    const ReasoningRule begun{.begin = kBegin, .end = kEnd, .is_begun = true};
    REQUIRE_FALSE(after(begun, {}).may_begin());
    REQUIRE(after(begun, {1, 2, kEnd, 3}).tokens() == 2);
    REQUIRE(after(begun, {1, 2, kEnd, 3}).answer_begin() == 3);
}

TEST_CASE("a budget that is spent wants the closing token, and never a second one", "[base]") {
    const ReasoningRule rule{.begin = kBegin, .end = kEnd, .is_begun = false, .tokens_max = 2};
    REQUIRE_FALSE(after(rule, {}).forced());
    REQUIRE_FALSE(after(rule, {kBegin, 1}).forced());
    REQUIRE(after(rule, {kBegin, 1, 2}).forced() == kEnd);
    REQUIRE_FALSE(after(rule, {kBegin, 1, 2, kEnd}).forced());
    REQUIRE_FALSE(after(rule, {1, 2, 3}).forced());
    const ReasoningRule nothing{.begin = kBegin, .end = kEnd, .is_begun = true, .tokens_max = 0};
    REQUIRE(after(nothing, {}).forced() == kEnd);
}

TEST_CASE("the state does not depend on how many tokens it is told at a time", "[base]") {
    const ReasoningRule rule{.begin = kBegin, .end = kEnd, .is_begun = false, .tokens_max = 3};
    const std::vector<TokenId> answer = {kBegin, 1, 2, 3, kEnd, 4, 5};
    ReasoningState step_by_step(rule);
    for (std::size_t count = 0; count <= answer.size(); ++count) {
        const std::span<const TokenId> so_far = std::span(answer).first(count);
        step_by_step.follow(so_far);
        ReasoningState at_once(rule);
        at_once.follow(so_far);
        REQUIRE(step_by_step.forced() == at_once.forced());
        REQUIRE(step_by_step.tokens() == at_once.tokens());
        REQUIRE(step_by_step.answer_begin() == at_once.answer_begin());
    }
}
