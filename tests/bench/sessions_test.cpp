#include "bench/sessions.h"

#include <algorithm>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "tests/support/catch.h"

namespace {

using bench::BlockRun;
using bench::PlannedRequest;
using bench::Seconds;

constexpr const char* kConversations = R"({"conv":"a","block_size":64,"n_requests":3}
{"conv":"a","agent":[],"i":0,"in":640,"out":64,"think":0.0,"keep":0,"new":[[1,10]]}
{"conv":"a","agent":[],"i":1,"in":832,"out":128,"think":12.0,"keep":8,"new":[[20,5]]}
{"conv":"a","agent":[1],"meta":{"t":30.0}}
{"conv":"a","agent":[1],"i":0,"in":320,"out":32,"think":0.0,"keep":2,"new":[[50,3]]}
{"conv":"a","agent":[],"i":2,"in":900,"out":64,"think":500.0,"keep":13,"new":[]}

{"conv":"b","block_size":64}
{"conv":"b","agent":[],"i":0,"in":64,"out":64,"think":0.0,"keep":0,"new":[[1,1]]}
)";

std::vector<PlannedRequest> parse(const char* text, const bench::SessionTraceOptions& options = {}) {
    auto plan = bench::parse_session_trace(text, options);
    if (!plan) { FAIL(plan.error().message); }
    return std::move(*plan);
}

std::vector<std::uint64_t> ids(const PlannedRequest& request) {
    std::vector<std::uint64_t> all;
    for (const BlockRun& run : request.blocks) {
        for (std::uint32_t i = 0; i < run.count; ++i) {
            all.push_back(run.first + i);
        }
    }
    return all;
}

}  // namespace

TEST_CASE("turns wait for each other and conversations begin at the rate", "[bench]") {
    const bench::TurnsWorkload workload{.arrival = bench::Arrival::constant,
                                        .rate = 2,
                                        .requests = 7,
                                        .turns = 3,
                                        .think = Seconds(0.25),
                                        .prompt_tokens = 10,
                                        .output_tokens = 5};
    const auto plan = bench::plan_turns(workload);
    REQUIRE(plan.size() == 7u);
    for (std::size_t i = 0; i < plan.size(); ++i) {
        CAPTURE(i);
        REQUIRE(plan[i].session == i / 3 + 1);
        REQUIRE(plan[i].due.count() == Approx(0.5 * static_cast<double>(plan[i].session)));
        REQUIRE(plan[i].think.count() == Approx(0.25));
        if (i % 3 == 0) {
            REQUIRE_FALSE(plan[i].after);
        } else {
            REQUIRE(plan[i].after == i - 1);
        }
    }
    bench::TurnsWorkload random = workload;
    random.arrival = bench::Arrival::poisson;
    REQUIRE(bench::plan_turns(random)[1].think != bench::plan_turns(random)[2].think);
    REQUIRE(bench::plan_turns(random)[5].think == bench::plan_turns(random)[5].think);
}

TEST_CASE("conversations are read with their agents, blocks and think times", "[bench]") {
    const auto plan = parse(kConversations, {.rate = 0.01, .arrival = bench::Arrival::constant});
    REQUIRE(plan.size() == 5u);
    // a: three turns, its agent 30 s later, b 100 s later.
    REQUIRE(plan[0].due == Seconds(0));
    REQUIRE(plan[1].after == 0u);
    REQUIRE(plan[1].think == Seconds(12));
    REQUIRE(plan[2].after == 1u);
    REQUIRE(plan[3].due.count() == Approx(30));
    REQUIRE_FALSE(plan[3].after);
    REQUIRE(plan[4].due.count() == Approx(100));
    REQUIRE(std::set{plan[0].session, plan[3].session, plan[4].session}.size() == 3u);
    REQUIRE(plan[1].prompt_tokens == 832u);
    const auto first = ids(plan[0]);
    const auto second = ids(plan[1]);
    const auto agent = ids(plan[3]);
    REQUIRE(second.size() == 13u);
    REQUIRE(std::equal(second.begin(), second.begin() + 8, first.begin()));
    REQUIRE(ids(plan[2]) == second);
    REQUIRE(agent.size() == 5u);
    REQUIRE(std::equal(agent.begin(), agent.begin() + 2, ids(plan[2]).begin()));
    REQUIRE(ids(plan[4])[0] != first[0]);  // ids are a conversation's own
}

TEST_CASE("lengths and blocks of a trace are divided, times scaled, turns and requests bounded", "[bench]") {
    const auto plan = parse(kConversations, {.rate = 1,
                                             .time_scale = 0.5,
                                             .think_max = Seconds(100),
                                             .length_divisor = 32,
                                             .prompt_tokens_max = 25,
                                             .output_tokens_max = 3});
    REQUIRE(plan[0].prompt_tokens == 20u);
    REQUIRE(plan[0].output_tokens == 2u);
    REQUIRE(plan[0].block_tokens == 2u);
    REQUIRE(plan[1].prompt_tokens == 25u);
    REQUIRE(plan[1].output_tokens == 3u);
    REQUIRE(plan[1].think == Seconds(6));
    REQUIRE(plan[2].think == Seconds(100));
    REQUIRE(parse(kConversations, {.requests = 2}).size() == 2u);
    REQUIRE(parse(kConversations, {.turns_max = 1}).size() == 3u);
}

TEST_CASE("Mooncake's rows share blocks everywhere, and sessions wait", "[bench]") {
    const auto plan = parse(R"({"timestamp":5000,"input_length":600,"output_length":5,"hash_ids":[7,8]}
{"timestamp":1000,"input_length":1030,"output_length":6,"hash_ids":[7,8,11],"session_id":"s"}
{"delay":250,"input_length":1100,"output_length":7,"hash_ids":[7,8,11],"session_id":"s"}
)");
    REQUIRE(plan.size() == 3u);
    REQUIRE(plan[0].due == Seconds(0));
    REQUIRE(plan[0].session == 1u);
    REQUIRE(plan[1].after == 0u);
    REQUIRE(plan[1].think == Seconds(0.25));
    REQUIRE(plan[2].due == Seconds(4));
    REQUIRE(plan[2].session == 0u);
    REQUIRE(plan[2].blocks == std::vector<BlockRun>{{7, 2}});
    REQUIRE(plan[0].blocks == std::vector<BlockRun>{{7, 2}, {11, 1}});
    REQUIRE(plan[0].block_tokens == 512u);
}

TEST_CASE("what is no such trace is told with its line", "[bench]") {
    REQUIRE(bench::is_session_trace(kConversations));
    REQUIRE(bench::is_session_trace(R"({"timestamp":0,"hash_ids":[]})"));
    REQUIRE_FALSE(bench::is_session_trace(R"({"timestamp":0,"input_length":1,"output_length":1})"));
    REQUIRE_FALSE(bench::is_session_trace("arrival_s,input_tokens,output_tokens\n"));
    for (const char* bad :
         {"{\"conv\":\"a\",\"block_size\":0}", "{\"conv\":\"a\",\"agent\":[],\"in\":1,\"out\":1,\"keep\":0,\"new\":[]}",
          "nonsense", R"({"timestamp":0,"input_length":1,"output_length":1,"hash_ids":["x"]})",
          "{\"conv\":\"a\",\"block_size\":64}\n{\"conv\":\"a\",\"agent\":[],\"in\":1,\"out\":1,\"keep\":0,\"new\":[[1]]"
          "}"}) {
        CAPTURE(bad);
        const auto plan = bench::parse_session_trace(bad, {});
        REQUIRE_FALSE(plan);
        REQUIRE(plan.error().message.find("line ") == 0);
    }
    REQUIRE_FALSE(bench::parse_session_trace("\n\n", {}));
}

TEST_CASE("prompts begin alike exactly where their blocks do", "[bench]") {
    const bool token_ids = GENERATE(true, false);
    bench::PromptMaker maker(
        {.seed = 3, .word_length = {.tokens_fixed = 0, .tokens_per_word = 1}, .token_ids = token_ids});
    const std::vector<BlockRun> a{{1, 2}};
    const std::vector<BlockRun> b{{1, 1}, {9, 1}};
    const auto text = [&](std::uint32_t tokens, const std::vector<BlockRun>& blocks) {
        const bench::Prompt prompt = maker.make(tokens, blocks, 32);
        if (const auto* ids = std::get_if<std::vector<std::int32_t>>(&prompt)) {
            std::string joined;
            for (const auto id : *ids) {
                joined += std::to_string(id) + " ";
            }
            return joined;
        }
        return std::get<std::string>(prompt) + " ";
    };
    const std::string first = text(64, a);
    const std::string other = text(64, b);
    const std::string block = text(32, a);
    REQUIRE(first == text(64, a));
    REQUIRE(first.starts_with(block));
    REQUIRE(other.starts_with(block));
    REQUIRE(first != other);
    REQUIRE(text(100, a).starts_with(first));  // filled up
    REQUIRE(text(100, a) != text(100, a));     // with what nobody else has
}
