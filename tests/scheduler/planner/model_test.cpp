#include "scheduler/planner/model.h"

#include "tests/support/catch.h"

using scheduler::planner::check_split;
using scheduler::planner::Model;
using scheduler::planner::read_model;

namespace {

constexpr const char* kLlama8B = R"({"architectures": ["LlamaForCausalLM"], "hidden_size": 4096,
    "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8, "num_hidden_layers": 32,
    "vocab_size": 128256, "torch_dtype": "bfloat16", "tie_word_embeddings": false, "head_dim": null})";

}  // namespace

TEST_CASE("the published sizes of models come out", "[scheduler][planner]") {
    const auto llama = read_model(kLlama8B);
    REQUIRE(llama);
    REQUIRE(llama->parameters() == Approx(8.03e9).epsilon(0.001));
    REQUIRE(llama->kv_bytes_per_token() == 131072);
    REQUIRE(llama->flops_per_token() == Approx(15.0e9).epsilon(0.01));

    const auto mixtral = read_model(R"({"architectures": ["MixtralForCausalLM"], "hidden_size": 4096,
        "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8, "num_hidden_layers": 32,
        "vocab_size": 32000, "num_local_experts": 8, "num_experts_per_tok": 2, "torch_dtype": "bfloat16"})");
    REQUIRE(mixtral);
    REQUIRE(mixtral->parameters() == Approx(46.7e9).epsilon(0.005));

    const auto opt = read_model(R"({"model_type": "opt", "hidden_size": 5120, "ffn_dim": 20480,
        "num_attention_heads": 40, "num_hidden_layers": 40, "vocab_size": 50272, "torch_dtype": "float16"})");
    REQUIRE(opt);
    REQUIRE(opt->parameters() == Approx(12.85e9).epsilon(0.01));
    REQUIRE(opt->kv_bytes_per_token() == 2 * 40 * 5120 * 2);
}

TEST_CASE("a split divides weights and KV", "[scheduler][planner]") {
    const Model model = *read_model(kLlama8B);
    const double whole = model.weight_bytes_per_gpu({.tensor = 1, .pipeline = 1});
    REQUIRE(whole == Approx(model.weight_bytes()));
    REQUIRE(model.weight_bytes_per_gpu({.tensor = 4, .pipeline = 1}) == Approx(whole / 4));
    REQUIRE(model.kv_bytes_per_token_per_gpu({.tensor = 2, .pipeline = 2}) == 131072 / 4);
    // Sixteen GPUs share eight heads: each is held twice.
    REQUIRE(model.kv_bytes_per_token_per_gpu({.tensor = 16, .pipeline = 1}) == 131072 / 8);
    REQUIRE(check_split(model, {.tensor = 8, .pipeline = 3}));
    REQUIRE(check_split(model, {.tensor = 3, .pipeline = 1}).error().message == "32 heads cannot be divided by 3");
    REQUIRE_FALSE(check_split(model, {.tensor = 1, .pipeline = 33}));
}

TEST_CASE("a batch touches as many experts as tokens that choose at random do", "[scheduler][planner]") {
    Model model;
    model.experts = 8;
    model.experts_per_token = 2;
    REQUIRE(model.experts_touched(0) == 0);
    REQUIRE(model.experts_touched(1) == Approx(2));
    REQUIRE(model.experts_touched(2) == Approx(3.5));
    REQUIRE(model.experts_touched(1000) == Approx(8));
}

TEST_CASE("a config that cannot be planned names the field", "[scheduler][planner]") {
    REQUIRE(read_model("{").error().message.find("config.json: no valid JSON") == 0);
    REQUIRE(read_model("[]").error().message.find("no JSON object") != std::string::npos);
    REQUIRE(read_model("{}").error().message.find("`num_hidden_layers` is missing") != std::string::npos);
    REQUIRE(read_model(R"({"num_hidden_layers": "x"})").error().message.find("`num_hidden_layers` is \"x\"") !=
            std::string::npos);
}
