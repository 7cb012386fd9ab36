// FastSwitch's experiment over a modelled GPU: the same bytes for the same seed, and the order that its mechanisms
// promise.
#include "bench/switching.h"

#include <map>

#include "tests/support/catch.h"

using bench::SwapMode;
using bench::SwitchingFigure;

namespace {

bench::SwitchingOptions small() {
    bench::SwitchingOptions options;
    options.users = 12;
    options.conversations = 24;
    options.user_tokens = 80;
    options.answer_tokens = 60;
    options.think_s = 2;
    return options;
}

}  // namespace

TEST_CASE("contexts are switched in every mode, each answer comes whole, and better modes move less", "[bench]") {
    bench::SwitchingOptions options = small();
    options.pattern = GENERATE("random", "markov");
    CAPTURE(options.pattern);
    const auto figures = bench::measure_switching(options);
    REQUIRE(figures);
    REQUIRE(figures->size() == 7);
    std::map<SwapMode, SwitchingFigure> by_mode;
    for (const SwitchingFigure& figure : *figures) {
        by_mode[figure.mode] = figure;
        REQUIRE(figure.turns == figures->front().turns);
        REQUIRE(figure.tokens == figures->front().tokens);  // all of every answer
        REQUIRE(figure.ttft.count == figure.turns);
        REQUIRE(figure.tbt.count == figure.tokens - figure.turns);
        REQUIRE(figure.preemptions > 0);
    }
    const SwitchingFigure& recompute = by_mode[SwapMode::recompute];
    const SwitchingFigure& paged = by_mode[SwapMode::paged];
    const SwitchingFigure& groups = by_mode[SwapMode::groups];
    const SwitchingFigure& async = by_mode[SwapMode::async];
    const SwitchingFigure& reuse = by_mode[SwapMode::reuse];
    REQUIRE(recompute.swaps.blocks_out + recompute.swaps.blocks_in == 0);
    REQUIRE(recompute.tokens_recomputed > 4 * reuse.tokens_recomputed);
    REQUIRE(paged.swaps.copies_out == 64 * paged.swaps.blocks_out);  // 32 layers, K and V
    REQUIRE(groups.swaps.copies_out < paged.swaps.copies_out / 64);
    REQUIRE(groups.stall_seconds < paged.stall_seconds);
    REQUIRE(async.stall_seconds < paged.stall_seconds);
    REQUIRE(reuse.swaps.blocks_out < async.swaps.blocks_out);
    const SwitchingFigure& ahead = by_mode[SwapMode::ahead];
    REQUIRE(by_mode[SwapMode::through].ahead_used_bytes + by_mode[SwapMode::through].ahead_wasted_bytes == 0);
    REQUIRE(ahead.ahead_used_bytes > 0);
    REQUIRE(ahead.ahead_used_bytes + ahead.ahead_wasted_bytes <=
            static_cast<double>(ahead.swaps.blocks_in) * ahead.block_bytes);
}

TEST_CASE("the same seed gives the same figures", "[bench]") {
    bench::SwitchingOptions options = small();
    options.modes = {"async", "through", "ahead"};
    options.seed = 7;
    const auto first = bench::measure_switching(options);
    const auto second = bench::measure_switching(options);
    REQUIRE(first);
    REQUIRE(second);
    for (std::size_t i = 0; i < first->size(); ++i) {
        REQUIRE((*first)[i].seconds == (*second)[i].seconds);
        REQUIRE((*first)[i].tbt.p999 == (*second)[i].tbt.p999);
        REQUIRE((*first)[i].swaps.copies_out == (*second)[i].swaps.copies_out);
    }
}

TEST_CASE("a mode that does not exist is refused with those that do", "[bench]") {
    bench::SwitchingOptions options = small();
    options.modes = {"swap"};
    const auto figures = bench::measure_switching(options);
    REQUIRE_FALSE(figures);
    REQUIRE(figures.error().message.find("recompute, paged") != std::string::npos);
}
