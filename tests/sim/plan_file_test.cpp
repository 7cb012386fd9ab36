#include "sim/plan_file.h"

#include <array>

#include "tests/sim/serving_world.h"

#include "tests/support/catch.h"

namespace {

std::string plan_with(const scheduler::planner::StepTimes& times) {
    return "version: 1\nmodel: LlamaForCausalLM\n"
           "model_shape: {layers: 32, hidden: 4096, heads_kv: 8, head_dim: 128, vocabulary: 128256}\n"
           "machine: {cores: 6, beside: {decode_by_decode: 0.15, prefill_by_decode: 0.02}, host: {step_s: 6e-4, "
           "handed_token_s: 4e-5}}\n"
           "pools:\n  - role: "
           "mixed\n    count: 3\n    device: h200\n    tensor: "
           "2\n"
           "    pipeline: 1\n    limits:\n      batch_sequences_max: 64\n      batch_tokens_max: 2048\n"
           "      kv_tokens: 100000\n    kv_levels:\n      bytes_per_token: 131072\n"
           "      host: {bytes: 6.4e10, bytes_per_s: 2.5e10, launch_s: 2.5e-6}\n"
           "      disk: {bytes: 1e12, bytes_per_s: 2e9, save_bytes_per_s: 1e9}\n    times:\n" +
           sim::times_yaml(times, "      ") +
           "slo_classes:\n  default: {ttft_ms: 500, tpot_ms: 30, attainment: 0.9}\n"
           "  batch: {ttft_ms: 5000, priority: -2}\n"
           "hand_off: {kv_bytes_per_token: 131072, bytes_per_s: 5e10, latency_s: 1e-4, layers: 32, sender_s_per_token: "
           "1e-5}\n"
           "assumed: {seeds: 3}\npredicted: {gpus: 6}\n";
}

}  // namespace

TEST_CASE("a placement file says again what was written", "[sim][plan]") {
    auto times = sim_test::linear_times();
    times.tokens = scheduler::planner::Curve({{1, 1e-3}, {100, 5e-3}, {1000, 4e-2}});
    times.sampled = scheduler::planner::Curve({{1, 1e-4}, {64, 2e-4}});
    const auto plan = sim::read_plan(plan_with(times), "plan.yaml");
    REQUIRE(plan.has_value());
    REQUIRE(plan->pools.size() == 1);
    const sim::PlanPool& pool = plan->pools[0];
    CHECK(pool.count == 3);
    CHECK(pool.split.tensor == 2);
    CHECK(pool.kv_tokens == 100000);
    CHECK(pool.kv_bytes_per_token == 131072);
    REQUIRE(pool.levels.size() == 2);
    CHECK(pool.levels[0].name == "host");
    CHECK(pool.levels[0].bytes == 6.4e10);
    CHECK(pool.levels[0].load_bytes_per_second == 2.5e10);
    CHECK(pool.levels[0].save_bytes_per_second == 2.5e10);  // where nothing else is said
    CHECK(pool.levels[0].launch_s == 2.5e-6);
    CHECK(pool.levels[1].name == "disk");
    CHECK(pool.levels[1].save_bytes_per_second == 1e9);
    CHECK(plan->ttft_s == 0.5);
    CHECK(plan->layers == 32);
    CHECK(plan->sender_s_per_token == 1e-5);
    CHECK(plan->receiver_s_per_token == 0);
    REQUIRE(plan->classes.size() == 2);
    CHECK(plan->classes[1].name == "batch");
    CHECK(plan->classes[1].priority == -2);
    CHECK(plan->classes[1].tpot_s == 0);
    CHECK(plan->cores == 6);
    CHECK(plan->beside == scheduler::planner::Beside{.prefill_by_decode = 0.02, .decode_by_decode = 0.15});
    CHECK(plan->host == scheduler::planner::HostWork{.step_seconds = 6e-4, .handed_token_seconds = 4e-5});
    REQUIRE(plan->shape.has_value());
    CHECK(plan->shape->vocabulary == 128256);
    const std::array chunks{scheduler::planner::PromptChunk{300, 200}};
    for (const auto& step :
         {scheduler::planner::StepShape{.prompts = chunks, .decode_sequences = 7, .decode_context = 900, .sampled = 8},
          scheduler::planner::StepShape{
              .prompts = {}, .decode_sequences = 500, .decode_context = 9e6, .sampled = 500}}) {
        CHECK(pool.times.seconds(step) == Approx(times.seconds(step)).epsilon(1e-5));
    }
}

TEST_CASE("fitted forms are read, too", "[sim][plan]") {
    scheduler::planner::StepTimes times;
    times.fitted = {.prefill = {1e-3, 1e-5, 1e-9},
                    .decode_small = {5e-3, 1e-6, 1e-4},
                    .decode_large = {6e-3, 2e-6, 2e-4},
                    .large_from = 50};
    const auto plan = sim::read_plan(plan_with(times), "plan.yaml");
    REQUIRE(plan.has_value());
    REQUIRE(plan->pools[0].times.fitted.has_value());
    CHECK(plan->pools[0].times.fitted->decode_large[2] == 2e-4);
    CHECK(plan->pools[0].times.fitted->large_from == 50);
    CHECK(plan->pools[0].times.fitted->batches.empty());

    times.fitted->batches = scheduler::planner::Curve({{1, 6e-3}, {4, 9e-3}});
    const auto curved = sim::read_plan(plan_with(times), "plan.yaml");
    REQUIRE(curved.has_value());
    const auto seconds = [](const scheduler::planner::StepTimes& of, double sequences) {
        return of.seconds({.prompts = {}, .decode_sequences = sequences, .decode_context = 1000, .sampled = sequences});
    };
    CHECK(seconds(times, 2) == Approx(7e-3 + 1e-3));
    for (const double sequences : {1.0, 2.0, 9.0}) {
        CHECK(seconds(curved->pools[0].times, sequences) == Approx(seconds(times, sequences)));
    }
}

TEST_CASE("what is no placement file is refused with a reason", "[sim][plan]") {
    const std::string good = plan_with(sim_test::linear_times());
    const auto changed = [&good](const std::string& from, const std::string& to) {
        std::string text = good;
        return text.replace(text.find(from), from.size(), to);
    };
    for (const std::string& bad : {std::string(),
                                   std::string("[1, 2]"),
                                   std::string("version: 1"),
                                   changed("version: 1", "version: 2"),
                                   changed("version: 1", "version: [1]"),
                                   changed("hidden: 4096", "hidden: much"),
                                   changed("heads_kv: 8", "heads: 8"),
                                   changed("  batch: {", "  a class: {"),
                                   changed("priority: -2", "weight: 1"),
                                   changed("role: mixed", "role: both"),
                                   changed("count: 3", "count: 0"),
                                   changed("count: 3", "count: 1.5"),
                                   changed("count: 3", "many: 3"),
                                   changed("kv_tokens: 100000", "kv_tokens: lots"),
                                   changed("bytes_per_token: 131072", "bytes_per_token: 0"),
                                   changed("host: {bytes: 6.4e10, bytes_per_s: 2.5e10", "host: {bytes: 6.4e10"),
                                   changed("step_s: 6e-4", "step_s: -1"),
                                   changed("handed_token_s", "kv_s"),
                                   changed("host: {step_s: 6e-4, handed_token_s: 4e-5}", "host: 1"),
                                   changed("disk: {bytes", "tape: {bytes"),
                                   changed("launch_s: 2.5e-6", "latency_s: 1"),
                                   changed("step_s: 0.005", "step_s: -1"),
                                   changed("layers: 32", "layers: {}"),
                                   changed("tensor: 2", "tensor: []"),
                                   changed("seconds: [", "seconds: [1, "),
                                   changed("axes: [[", "axes: [[[1], "),
                                   good + "  - {"}) {
        CAPTURE(bad.substr(0, 300));
        const auto read = sim::read_plan(bad, "plan.yaml");
        REQUIRE(!read.has_value());
        CHECK(read.error().message.starts_with("plan.yaml: "));
    }
}
