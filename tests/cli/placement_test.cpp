#include "cli/placement.h"

#include <algorithm>
#include <functional>

#include "tests/support/catch.h"

namespace {

using Pools = std::vector<sim::PlanPool>;

sim::PlanPool pool(proto::Role role, std::uint32_t count, const std::string& device = "this") {
    sim::PlanPool made;
    made.role = role;
    made.count = count;
    made.device = device;
    made.batch_sequences_max = 32;
    made.batch_tokens_max = 512;
    made.kv_tokens = 10'000;
    return made;
}

sim::PlanFile plan_of(Pools pools) {
    sim::PlanFile plan;
    plan.model = "LlamaForCausalLM";
    plan.shape = sim::PlanFile::Shape{.layers = 5, .hidden = 64, .heads_kv = 4, .head_dim = 8, .vocabulary = 512};
    plan.pools = std::move(pools);
    return plan;
}

base::ModelShape model() {
    base::ModelShape shape;
    shape.architecture = "LlamaForCausalLM";
    shape.layers = 5;
    shape.hidden = 64;
    shape.heads_kv = 4;
    shape.head_dim = 8;
    shape.vocabulary = 512;
    return shape;
}

bool holds(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

const cli::PlanSite kHost{.gpus = {}, .gpu_problem = "no driver", .cores = 2};

}  // namespace

TEST_CASE("a plan for this machine becomes pools with its limits and classes", "[cli][plan]") {
    auto plan = plan_of({pool(proto::Role::prefill, 2), pool(proto::Role::decode, 1)});
    plan.classes = {{.name = "default", .ttft_s = 0.5, .tpot_s = 0.04, .attainment = 0.95, .priority = 0},
                    {.name = "batch", .ttft_s = 0, .tpot_s = 0, .attainment = 0.9, .priority = -1}};
    const auto placed = cli::place_here(plan, kHost);
    REQUIRE(placed);
    CHECK(placed->warnings.empty());
    REQUIRE(placed->pools.size() == 2);
    CHECK(placed->pools[0].count == 2);
    CHECK(placed->pools[1].kv_tokens == 10'000);
    CHECK(cli::settings_yaml(placed->pools[0].settings(1)) ==
          "worker.batch_sequences_max: 32\nworker.batch_tokens_max: 512\n");
    const std::string classes = cli::settings_yaml(placed->settings);
    CHECK(holds(classes, "slo_classes.default.ttft_ms: 500\nslo_classes.default.tpot_ms: 40\n"));
    CHECK(holds(classes, "slo_classes.default.attainment: 0.95\n"));
    CHECK(holds(classes, "slo_classes.batch.priority: -1\n"));
}

TEST_CASE("levels below a pool are settings of its workers", "[cli][plan]") {
    auto with_levels = pool(proto::Role::decode, 1);
    with_levels.kv_bytes_per_token = 4096;
    with_levels.levels = {{.name = "host", .bytes = 1e9, .load_bytes_per_second = 1e10, .save_bytes_per_second = 1e10},
                          {.name = "disk", .bytes = 5e9, .load_bytes_per_second = 1e9, .save_bytes_per_second = 1e9}};
    const auto placed = cli::place_here(plan_of({pool(proto::Role::prefill, 1), with_levels}), kHost);
    REQUIRE(placed);
    const std::string settings = cli::settings_yaml(placed->pools[1].settings(0));
    CHECK(holds(settings, "engine.kv_host_bytes: 1000000000\n"));
    CHECK(holds(settings, "engine.kv_disk.bytes: 5000000000\n"));
    CHECK(!holds(cli::settings_yaml(placed->pools[0].settings(0)), "engine.kv_"));
}

TEST_CASE("workers on GPUs get one each, and another kind of GPU is told", "[cli][plan]") {
    const auto plan = plan_of({pool(proto::Role::prefill, 1, "h200"), pool(proto::Role::decode, 2, "h200")});
    const auto placed =
        cli::place_here(plan, {.gpus = {"NVIDIA H200", "NVIDIA H200", "NVIDIA L40S"}, .gpu_problem = "", .cores = 8});
    REQUIRE(placed);
    CHECK(placed->pools[1].settings(1).back() == std::pair<std::string, std::string>("engine.device", "cuda:2"));
    REQUIRE(placed->warnings.size() == 1);
    CHECK(holds(placed->warnings[0], "the decode pool is planned for h200, and gets NVIDIA L40S"));
    const auto pro =
        cli::place_here(plan_of({pool(proto::Role::mixed, 1, "rtxpro6000")}),
                        {.gpus = {"NVIDIA RTX PRO 6000 Blackwell Server Edition"}, .gpu_problem = "", .cores = 8});
    REQUIRE(pro);
    CHECK(pro->warnings.empty());
}

TEST_CASE("what one machine cannot start is an error that says what to do", "[cli][plan]") {
    struct Case {
        Pools pools;
        base::ErrorCode code;
        std::string says;
    };
    auto split = pool(proto::Role::mixed, 1, "h200");
    split.split.tensor = 2;
    auto pipeline = pool(proto::Role::mixed, 1);
    pipeline.split.pipeline = 2;
    for (const Case& one :
         {Case{{pool(proto::Role::prefill, 1)}, base::ErrorCode::invalid_argument, "a pool of role mixed"},
          Case{{split}, base::ErrorCode::unimplemented, "--whole-workers"},
          Case{{pipeline}, base::ErrorCode::unimplemented, "pipeline 2"},
          Case{{pool(proto::Role::mixed, 1, "tpu")}, base::ErrorCode::invalid_argument, "\"tpu\""},
          Case{{pool(proto::Role::mixed, 3, "h200")},
               base::ErrorCode::failed_precondition,
               "needs 3 GPUs (3 h200), and this machine has 0; no driver"},
          Case{{pool(proto::Role::mixed, 300)}, base::ErrorCode::resource_exhausted, "up to 256"}}) {
        const auto placed = cli::place_here(plan_of(one.pools), kHost);
        CAPTURE(one.says);
        REQUIRE(!placed);
        CHECK(placed.error().code == one.code);
        CHECK(holds(placed.error().message, one.says));
    }
}

TEST_CASE("what is not quite as planned is a warning with its name", "[cli][plan]") {
    auto busy = pool(proto::Role::mixed, 3);
    busy.threads = 1;
    auto plan = plan_of({busy});
    plan.classes = {{.name = "default", .ttft_s = 0.2, .tpot_s = 0.0004, .attainment = 0.3, .priority = 0}};
    const auto placed = cli::place_here(plan, kHost);
    REQUIRE(placed);
    REQUIRE(placed->warnings.size() == 3);
    CHECK(holds(placed->warnings[0], "3 workers want 3 compute threads, and there are 2"));
    CHECK(holds(placed->warnings[1], "tpot_ms of 0.4 is 1 here"));
    CHECK(holds(placed->warnings[2], "attainment"));
}

TEST_CASE("a plan for another model is refused with what differs", "[cli][plan]") {
    auto plan = plan_of({pool(proto::Role::mixed, 1)});
    const auto same = cli::check_planned_model(plan, model());
    REQUIRE(same);
    CHECK(!same->has_value());
    auto other = model();
    other.layers = 6;
    CHECK(holds(cli::check_planned_model(plan, other).error().message, "5 layers, hidden 64"));
    other.architecture = "Qwen2ForCausalLM";
    CHECK(holds(cli::check_planned_model(plan, other).error().message, "is for a LlamaForCausalLM"));
    plan.shape.reset();
    const auto unknown = cli::check_planned_model(plan, model());
    REQUIRE(unknown);
    REQUIRE(unknown->has_value());
    CHECK(holds(**unknown, "model_shape"));
}
