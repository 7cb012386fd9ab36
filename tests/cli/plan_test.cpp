#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "cli/plan_inputs.h"
#include "cli/plan_output.h"
#include "sim/plan_file.h"

#include "tests/support/catch.h"

namespace {

/// A folder that goes when the test ends.
struct Folder {
    std::filesystem::path path =
        std::filesystem::temp_directory_path() / ("sluice-plan-test-" + std::to_string(::getpid()));
    Folder() { std::filesystem::create_directories(path); }
    ~Folder() {
        std::error_code ignored;
        std::filesystem::remove_all(path, ignored);
    }
    std::string write(const std::string& name, const std::string& text) const {
        std::ofstream(path / name) << text;
        return (path / name).string();
    }
};

constexpr const char* kModel = R"({"architectures": ["LlamaForCausalLM"], "hidden_size": 4096,
    "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8, "num_hidden_layers": 32,
    "vocab_size": 128256, "torch_dtype": "bfloat16"})";
constexpr const char* kFit = "rate: 3\nburstiness: 1\nprompt_tokens: [100, 900]\noutput_tokens: [10, 60]\n";

}  // namespace

TEST_CASE("targets are read in seconds and milliseconds", "[cli]") {
    const auto targets = cli::parse_targets("ttft=0.5,tpot=40ms,attainment=0.95");
    REQUIRE(targets);
    REQUIRE(targets->ttft_s == 0.5);
    REQUIRE(targets->tpot_s == Approx(0.04));
    REQUIRE(targets->attainment == 0.95);
    REQUIRE(cli::parse_targets("tpot=1s")->ttft_s == 1);
    for (const char* wrong : {"ttft", "ttft=", "ttft=-1", "ttft=1m", "itl=1", "attainment=1", "attainment=x"}) {
        CAPTURE(wrong);
        REQUIRE(cli::parse_targets(wrong).error().message.find("--slo") == 0);
    }
}

TEST_CASE("a plan is made from a datasheet and a fit, the same each time", "[cli]") {
    const Folder folder;
    cli::PlanCommand command;
    command.model = folder.write("config.json", kModel);
    command.gpus = {"h200=2.5"};
    command.workload = folder.write("fit.yaml", kFit);
    command.slo = "ttft=0.3,tpot=30ms";
    command.count = 2;
    const auto inputs = cli::read_plan_inputs(command);
    REQUIRE(inputs);
    auto space = cli::space_of(*inputs, command);
    REQUIRE(space);
    space->step_tokens = {2048};
    space->gpus[0].splits.resize(1);  // one GPU a worker: a quick search
    const auto plan = [&] {
        cli::PlanEvaluator evaluator(*inputs, {.targets = inputs->targets});
        const auto result = scheduler::planner::search(
            *space, [&](const auto& candidate) { return evaluator.evaluate(candidate, false, 1); });
        REQUIRE(result);
        REQUIRE(result->rows[0].evaluation.goodput > 0);
        REQUIRE(result->rows.size() == 2);
        REQUIRE(cli::plan_text(*inputs, *space, *result, {}, evaluator).find("roofline: h200's datasheet") !=
                std::string::npos);
        return cli::plan_yaml(*inputs, command, *space, result->rows[0], evaluator) +
               cli::plan_helm_values(*inputs, result->rows[0]);
    };
    const std::string yaml = plan();
    REQUIRE(yaml == plan());
    REQUIRE(yaml.find("version: 1\nmodel: LlamaForCausalLM\n") != std::string::npos);
    REQUIRE(yaml.find("cost: 5\n") != std::string::npos);  // two GPUs
    REQUIRE(yaml.find("gpus: 1}\n") != std::string::npos);
}

TEST_CASE("levels below the KV of each worker are written into its pool, and read again", "[cli]") {
    const Folder folder;
    cli::PlanCommand command;
    command.model = folder.write("config.json", kModel);
    command.gpus = {"h200"};
    command.workload = folder.write("fit.yaml", kFit);
    command.kv_host = "64e9,25e9,20e9,2.5e-6";
    command.kv_disk = "1e12,2e9";
    const auto inputs = cli::read_plan_inputs(command);
    REQUIRE(inputs);
    const auto space = cli::space_of(*inputs, command);
    REQUIRE(space);
    cli::PlanEvaluator evaluator(*inputs, {.targets = inputs->targets});
    for (const auto kind :
         {scheduler::planner::Candidate::Kind::split, scheduler::planner::Candidate::Kind::colocated}) {
        scheduler::planner::PlanRow row;
        row.candidate.kind = kind;
        const auto plan = sim::read_plan(cli::plan_yaml(*inputs, command, *space, row, evaluator), "plan.yaml");
        REQUIRE(plan);
        for (const sim::PlanPool& pool : plan->pools) {
            REQUIRE(pool.kv_bytes_per_token == 131072);
            REQUIRE(pool.levels.size() == 2);
            REQUIRE(pool.levels[0].name == "host");
            REQUIRE(pool.levels[0].bytes == 64e9);
            REQUIRE(pool.levels[0].load_bytes_per_second == 25e9);
            REQUIRE(pool.levels[0].save_bytes_per_second == 20e9);
            REQUIRE(pool.levels[0].launch_s == 2.5e-6);
            REQUIRE(pool.levels[1].name == "disk");
            REQUIRE(pool.levels[1].save_bytes_per_second == 2e9);
            REQUIRE(pool.levels[1].launch_s == 0);
        }
    }
    for (const char* wrong : {"64e9", "64e9,", "0,1e9", "64GB,25e9", "1e9,1e9,1e9,1,2", "1e9,1e9,", "1e9,-1"}) {
        CAPTURE(wrong);
        REQUIRE(cli::parse_level("host", wrong).error().message.find("--kv-host \"") == 0);
    }
}

TEST_CASE("a plan for this machine knows the cores that its workers share", "[cli]") {
    const Folder folder;
    cli::PlanCommand command;
    command.model = folder.write("config.json", kModel);
    command.gpus = {"this"};
    command.workload = folder.write("fit.yaml", kFit);
    command.slo = "ttft=5,tpot=120ms";
    const std::string steps = R"("prefill": [{"tokens": 100, "median_s": 0.11}, {"tokens": 1000, "median_s": 1.01}],
        "decode": [{"batch": 1, "context_tokens": 100, "median_s": 0.05, "bytes_per_s": 1e10},
        {"batch": 8, "context_tokens": 100, "median_s": 0.06, "bytes_per_s": 1e10}]})";
    const auto goodput = [&](const std::string& head, std::uint32_t prefill, std::uint32_t decode) {
        command.engine_times = folder.write("engine.json", head + steps);
        const auto inputs = cli::read_plan_inputs(command);
        REQUIRE(inputs);
        cli::PlanEvaluator evaluator(*inputs, {.targets = inputs->targets});
        scheduler::planner::Candidate candidate;
        candidate.kind = scheduler::planner::Candidate::Kind::split;
        candidate.prefill_count = prefill;
        candidate.decode_count = decode;
        return evaluator.evaluate(candidate, false, 1).goodput;
    };
    const std::string two_cores = R"({"threads": 1, "cores": 2, )";
    const double own = goodput(R"({"threads": 1, )", 2, 1);
    const double shared = goodput(two_cores, 2, 1);
    REQUIRE(own > 0);
    REQUIRE(shared < 0.9 * own);  // three workers compute on two cores
    REQUIRE(goodput(two_cores, 1, 1) == Approx(goodput(R"({"threads": 1, )", 1, 1)).epsilon(0.01));
    REQUIRE(goodput(R"({"threads": 2, "cores": 6, )", 2, 1) == Approx(own).epsilon(0.01));
    command.this_cores = 0;  // each has its own, whatever was measured
    REQUIRE(goodput(two_cores, 2, 1) == Approx(own).epsilon(0.01));
    command.this_cores.reset();
    const std::string beside = R"("beside": {"engines": 1, "prefill_by_prefill": 0.5, "decode_by_decode": 0.5}, )";
    REQUIRE(goodput(two_cores + beside, 2, 1) < 0.95 * shared);
    // What is done beside the engines there is counted, too, and is in the placement file.
    const std::string host = R"("host": {"between_s": 1e-3, "step_s": 2e-2, "handed_token_s": 5e-4}, )";
    REQUIRE(goodput(two_cores + host, 2, 1) < 0.95 * shared);
    {
        command.engine_times = folder.write("engine.json", two_cores + host + steps);
        const auto inputs = cli::read_plan_inputs(command);
        const auto space = cli::space_of(*inputs, command);
        cli::PlanEvaluator evaluator(*inputs, {.targets = inputs->targets});
        scheduler::planner::PlanRow row;
        row.candidate.kind = scheduler::planner::Candidate::Kind::split;
        row.candidate.prefill_count = row.candidate.decode_count = 1;
        const auto plan = sim::read_plan(cli::plan_yaml(*inputs, command, *space, row, evaluator), "plan.yaml");
        REQUIRE(plan);
        REQUIRE(plan->host == inputs->gpus[0].gpu.host);
        REQUIRE(plan->host.step_seconds == 2e-2);
        REQUIRE(plan->pools[0].times.step_seconds == 1e-3);
    }
    command.engine_times = folder.write("engine.json", two_cores + steps);
    command.count = 5;
    const auto inputs = cli::read_plan_inputs(command);
    const auto space = cli::space_of(*inputs, command);
    REQUIRE(space);
    REQUIRE(space->gpus[0].workers_at_once == 2);
    cli::PlanEvaluator evaluator(*inputs, {.targets = inputs->targets});
    REQUIRE(evaluator.times(0, {}).sources.back().what == "2 cores that all workers share");
}

TEST_CASE("what a plan cannot be made from is refused with the flag", "[cli]") {
    const Folder folder;
    cli::PlanCommand command;
    command.model = folder.path.string();  // a folder: its config.json
    command.gpus = {"h200"};
    command.workload = folder.write("fit.yaml", kFit);
    const auto refused = [&] {
        const auto inputs = cli::read_plan_inputs(command);
        return inputs ? std::string() : inputs.error().message;
    };
    REQUIRE(refused().find("--model: ") == 0);
    REQUIRE(refused().find("config.json: No such file") != std::string::npos);
    folder.write("config.json", kModel);
    REQUIRE(refused().empty());
    command.gpus = {"h999"};
    REQUIRE(refused().find("--gpu h999 is not known; there are this, a100") == 0);
    command.gpus = {"h200=0"};
    REQUIRE(refused().find("--gpu h200=0: the cost") == 0);
    command.gpus = {"this"};
    REQUIRE(refused().find("--gpu this needs --engine-times") == 0);
    command.gpus = {"h200"};
    command.workload = folder.write("fit2.yaml", "prompt_tokens: [1]\n");
    REQUIRE(refused().find("--workload") == 0);
    command.workload = folder.write("fit3.yaml", kFit);
    command.also = {"3+1"};
    REQUIRE(cli::space_of(*cli::read_plan_inputs(command), command).error().message.find("--also 3+1") == 0);
    command.also = {"8x4+1x1"};
    REQUIRE(cli::space_of(*cli::read_plan_inputs(command), command).error().message.find("does not fit") !=
            std::string::npos);
}
