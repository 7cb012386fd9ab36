#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "cli/plan_inputs.h"
#include "cli/plan_output.h"

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
    REQUIRE(refused().find("--model: cannot open") == 0);
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
