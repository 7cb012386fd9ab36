#include "cli/autopilot_rules.h"

#include <random>
#include <string>
#include <vector>

#include "tests/support/catch.h"

namespace {

using cli::Autopilot;
using cli::LiveCluster;
using cli::LiveLayout;
using cli::LiveWorker;
using cli::NextTurn;
using proto::Role;

LiveCluster cluster(double rate, double prompt, double output, LiveLayout layout = {.prefill = 2, .decode = 2}) {
    LiveCluster live;
    live.model = "m";
    live.requests_per_s = live.answered_per_s = rate;
    live.prompt_tokens = prompt;
    live.output_tokens = output;
    live.layout = layout;
    return live;
}

std::vector<LiveWorker> workers(const std::string& roles) {
    std::vector<LiveWorker> all;
    for (const char role : roles) {
        all.push_back({.id = all.size() + 1,
                       .incarnation = all.size() + 100,
                       .role = role == 'p'   ? Role::prefill
                               : role == 'd' ? Role::decode
                                             : Role::mixed,
                       .is_ready = true,
                       .requests = 0});
    }
    return all;
}

}  // namespace

TEST_CASE("what has changed by more than a quarter is told, and nothing else", "[cli][autopilot]") {
    const LiveCluster planned = cluster(10, 500, 60);
    CHECK(cli::drift(planned, cluster(12, 420, 70)).empty());
    CHECK(cli::drift(planned, cluster(13, 500, 60)).find("13 requests a second, not 10") != std::string::npos);
    CHECK(cli::drift(planned, cluster(10, 300, 60)).find("prompts of 300 tokens, not 500") != std::string::npos);
    CHECK(cli::drift(planned, cluster(10, 500, 120)).find("answers of 120 tokens, not 60") != std::string::npos);
    CHECK(cli::drift(planned, cluster(10, 500, 60, {.prefill = 1, .decode = 2})).find("1 prefill, 2 decode, not") !=
          std::string::npos);
    LiveCluster found = planned;
    found.cached_share = 0.05;
    CHECK(cli::drift(planned, found).empty());
    found.cached_share = 0.3;
    CHECK(cli::drift(planned, found).find("30 % of the prompts' tokens found, not 0") != std::string::npos);
}

TEST_CASE("lengths that are others around the same mean are told where enough requests were seen", "[cli][autopilot]") {
    LiveCluster even = cluster(10, 500, 60);
    even.seconds = 10;
    even.prompt_quantiles = {480, 490, 500, 510, 520};
    even.output_quantiles = {60, 60, 60, 60, 60};
    LiveCluster odd = even;
    odd.prompt_quantiles = {20, 40, 60, 90, 2300};  // half are short questions, a few are documents
    CHECK(cli::drift(even, even).empty());
    CHECK(cli::drift(even, odd) == "prompts: half of them below 60 tokens, not 500");
    LiveCluster tail = even;
    tail.output_quantiles = {10, 20, 60, 90, 900};
    CHECK(cli::drift(even, tail) == "answers: nine tenths of them below 900 tokens, not 60");
    odd.seconds = 4;  // forty requests
    CHECK(cli::drift(even, odd).empty());
    odd.prompt_quantiles.clear();  // a gateway that tells no histogram
    odd.seconds = 10;
    CHECK(cli::drift(even, odd).empty());
}

TEST_CASE("workers turn one after the other, the idlest first, and somebody always serves", "[cli][autopilot]") {
    auto all = workers("ppdd");
    all[2].requests = 5;
    all[3].requests = 2;
    const auto first = cli::next_turn(all, {.prefill = 3, .decode = 1});
    REQUIRE(std::holds_alternative<NextTurn>(first));
    CHECK(std::get<NextTurn>(first).worker == 3);
    CHECK(std::get<NextTurn>(first).to == Role::prefill);

    all[0].is_ready = false;
    CHECK(std::get<std::string>(cli::next_turn(all, {.prefill = 3, .decode = 1})).find("is not ready") !=
          std::string::npos);
    CHECK(std::get<std::string>(cli::next_turn(workers("ppd"), {.prefill = 3, .decode = 1})).find("3 workers") !=
          std::string::npos);
    // The only decode worker cannot go while nobody else decodes; who computes prompts can, since it does that, too.
    const auto pair = cli::next_turn(workers("dp"), {.mixed = 2});
    REQUIRE(std::holds_alternative<NextTurn>(pair));
    CHECK(std::get<NextTurn>(pair).worker == 1);
    CHECK(std::get<NextTurn>(cli::next_turn(workers("dm"), {.mixed = 2})).worker == 0);
    CHECK(std::get<NextTurn>(cli::next_turn(workers("pmm"), {.prefill = 2, .decode = 1})).to == Role::decode);
    CHECK(std::holds_alternative<std::string>(cli::next_turn(workers("m"), {.decode = 1})));
}

TEST_CASE("from any roles to any others somebody serves at every step", "[cli][autopilot][property]") {
    std::mt19937 random{19};
    for (int round = 0; round < 2000; ++round) {
        const auto count = static_cast<std::uint32_t>(2 + random() % 5);
        std::string roles;
        for (std::uint32_t i = 0; i < count; ++i) {
            roles += "pdm"[random() % 3];
        }
        roles[0] = "dm"[random() % 2];
        auto all = workers(roles);
        for (LiveWorker& worker : all) {
            worker.requests = static_cast<std::uint32_t>(random() % 4);
        }
        LiveLayout wanted{.mixed = count};
        if (random() % 2 == 0) {
            wanted.prefill = 1 + static_cast<std::uint32_t>(random() % (count - 1));
            wanted = {.prefill = wanted.prefill, .decode = count - wanted.prefill, .mixed = 0};
        }
        CAPTURE(roles, wanted.text());
        std::uint32_t decoding = 0;
        for (const LiveWorker& worker : all) {
            decoding += proto::can_decode(worker.role) ? 1 : 0;
        }
        std::uint32_t turns = 0;
        while (!(cli::layout_of(all) == wanted)) {
            const auto next = cli::next_turn(all, wanted);
            if (std::holds_alternative<std::string>(next)) { break; }
            const auto [worker, to] = std::get<NextTurn>(next);
            bool decodes = false;
            for (std::size_t i = 0; i < all.size(); ++i) {
                decodes = decodes || (i != worker && proto::can_decode(all[i].role));
            }
            REQUIRE(decodes);
            all[worker].role = to;
            REQUIRE(++turns <= count);
        }
        // The only one that decodes may have to stay.
        if (decoding > 1) { CHECK(cli::layout_of(all) == wanted); }
    }
}

TEST_CASE("a plan is made when something has changed, and done when it is said twice", "[cli][autopilot]") {
    Autopilot pilot({.hold_s = 30, .confirmations = 2, .attainment = 0.9});
    const LiveCluster prompts = cluster(10, 500, 8);
    const LiveLayout better{.prefill = 3, .decode = 1};
    CHECK_FALSE(pilot.wants_plan(prompts).empty());
    CHECK_FALSE(pilot.planned(prompts, std::nullopt, 0));
    CHECK(pilot.wants_plan(prompts).empty());

    const LiveCluster shifted = cluster(10, 2000, 8);
    CHECK_FALSE(pilot.wants_plan(shifted).empty());
    CHECK_FALSE(pilot.planned(shifted, better, 10));
    CHECK_FALSE(pilot.wants_plan(shifted).empty());  // to be said again
    CHECK_FALSE(pilot.planned(shifted, LiveLayout{.mixed = 4}, 20));
    CHECK_FALSE(pilot.planned(shifted, better, 30));
    CHECK(pilot.planned(shifted, better, 40));
    CHECK(pilot.wanted() == better);
    pilot.arrived(50);
    CHECK_FALSE(pilot.wanted().has_value());
    CHECK(pilot.wants_plan(cluster(10, 2000, 8, better)).empty());

    // Back again: not before the hold is over, however often it is said.
    const LiveLayout former{.prefill = 2, .decode = 2};
    const LiveCluster back = cluster(10, 500, 8, better);
    CHECK_FALSE(pilot.planned(back, former, 60));
    CHECK_FALSE(pilot.planned(back, former, 70));
    CHECK_FALSE(pilot.planned(back, former, 79));
    CHECK(pilot.planned(back, former, 81));
}

TEST_CASE("targets that are missed ask for a plan once", "[cli][autopilot]") {
    Autopilot pilot({.hold_s = 0, .confirmations = 1, .attainment = 0.9});
    LiveCluster live = cluster(10, 500, 8);
    live.attainment = 0.97;
    CHECK_FALSE(pilot.planned(live, std::nullopt, 0));
    live.attainment = 0.7;
    CHECK(pilot.wants_plan(live).find("70.0 % met their targets") != std::string::npos);
    CHECK_FALSE(pilot.planned(live, std::nullopt, 1));
    CHECK(pilot.wants_plan(live).empty());
}
