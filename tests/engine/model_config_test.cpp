#include "engine/model/model_config.h"

#include <string>

#include "tests/support/catch.h"

namespace {

using base::ErrorCode;
using base::RopeScaling;

/// A config.json of a Llama with `more` fields behind the usual ones (a later field of the same name wins).
std::string config(const std::string& more = "", const std::string& architecture = "LlamaForCausalLM") {
    return R"({"architectures": [")" + architecture +
           R"("], "hidden_size": 64, "intermediate_size": 112, "num_hidden_layers": 2, "num_attention_heads": 4,
               "num_key_value_heads": 2, "vocab_size": 256, "max_position_embeddings": 512, "rms_norm_eps": 1e-05,
               "rope_theta": 10000.0, "hidden_act": "silu")" +
           (more.empty() ? "" : ", " + more) + "}";
}

std::string message_of(const std::string& text) {
    const auto shape = engine::parse_model_config(text);
    return shape ? "fine" : shape.error().message;
}

bool contains(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("a Llama config gives its shape, with Hugging Face's defaults where fields are missing", "[engine][config]") {
    const auto shape = engine::parse_model_config(config());
    REQUIRE(shape);
    REQUIRE(shape->architecture == "LlamaForCausalLM");
    REQUIRE(shape->layers == 2);
    REQUIRE(shape->hidden == 64);
    REQUIRE(shape->intermediate == 112);
    REQUIRE(shape->heads_q == 4);
    REQUIRE(shape->heads_kv == 2);
    REQUIRE(shape->head_dim == 16);
    REQUIRE(shape->vocabulary == 256);
    REQUIRE(shape->context_tokens == 512);
    REQUIRE(shape->rms_norm_eps == 1e-5);
    REQUIRE(shape->rope_theta == 10000.0);
    REQUIRE(shape->rope_scaling == RopeScaling{});
    REQUIRE_FALSE(shape->tied_embeddings);
    REQUIRE_FALSE(shape->qkv_bias);
    REQUIRE_FALSE(shape->output_bias);
    REQUIRE_FALSE(shape->qk_norm);
    REQUIRE(engine::parse_model_config(config(R"("num_key_value_heads": null)"))->heads_kv == 4);
    REQUIRE(engine::parse_model_config(config(R"("head_dim": null)"))->head_dim == 16);
}

TEST_CASE("each family brings its own features", "[engine][config]") {
    const auto mistral =
        engine::parse_model_config(config(R"("head_dim": 24, "sliding_window": null)", "MistralForCausalLM"));
    REQUIRE(mistral->head_dim == 24);
    const auto wide_window = engine::parse_model_config(config(R"("sliding_window": 512)", "MistralForCausalLM"));
    REQUIRE(wide_window);
    const auto qwen2 = engine::parse_model_config(config(
        R"("use_sliding_window": false, "sliding_window": 8, "layer_types": ["full_attention", "full_attention"])",
        "Qwen2ForCausalLM"));
    REQUIRE(qwen2->qkv_bias);
    REQUIRE_FALSE(qwen2->output_bias);
    const auto qwen3 =
        engine::parse_model_config(config(R"("head_dim": 32, "tie_word_embeddings": true)", "Qwen3ForCausalLM"));
    REQUIRE(qwen3->qk_norm);
    REQUIRE(qwen3->tied_embeddings);
    REQUIRE_FALSE(qwen3->qkv_bias);
    const auto biased = engine::parse_model_config(config(R"("attention_bias": true)"));
    REQUIRE(biased->qkv_bias);
    REQUIRE(biased->output_bias);
}

TEST_CASE("rope scaling is read in all of its spellings", "[engine][config]") {
    const std::string llama3 = R"("factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                  "original_max_position_embeddings": 64})";
    for (const std::string& text :
         {R"("rope_scaling": {"rope_type": "llama3", )" + llama3, R"("rope_scaling": {"type": "llama3", )" + llama3,
          R"("rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, )" + llama3}) {
        const auto shape = engine::parse_model_config(config(text));
        REQUIRE(shape);
        REQUIRE(shape->rope_scaling.kind == RopeScaling::Kind::llama3);
        REQUIRE(shape->rope_scaling.factor == 8.0);
        REQUIRE(shape->rope_scaling.original_max_position_tokens == 64);
        REQUIRE(shape->rope_theta == (contains(text, "500000") ? 500000.0 : 10000.0));
    }
    REQUIRE(
        engine::parse_model_config(config(R"("rope_scaling": {"type": "linear", "factor": 2})"))->rope_scaling.factor ==
        2.0);
    REQUIRE(engine::parse_model_config(config(R"("rope_scaling": null)"))->rope_scaling == RopeScaling{});
    REQUIRE(engine::parse_model_config(config(R"("rope_parameters": {"rope_type": "default", "rope_theta": 7.0})"))
                ->rope_theta == 7.0);
}

TEST_CASE("what we cannot compute is refused by field and value", "[engine][config]") {
    const auto refused = [](const std::string& more, const std::string& expected,
                            const std::string& architecture = "LlamaForCausalLM") {
        const auto shape = engine::parse_model_config(config(more, architecture));
        REQUIRE_FALSE(shape);
        CAPTURE(shape.error().message);
        REQUIRE(shape.error().code == ErrorCode::unimplemented);
        REQUIRE(contains(shape.error().message, "config.json: " + expected));
    };
    refused(R"("hidden_act": "gelu")", R"(hidden_act is "gelu", only "silu" is supported)");
    refused(R"("mlp_bias": true)", "mlp_bias is true, only false is supported");
    refused(R"("quantization_config": {"quant_method": "gptq"})", R"(quantization_config is {"quant_method":"gptq"})");
    refused(R"("quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]})",
            R"(quantization_config is {"quant_method":"fp8")");
    refused(R"("quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized"})",
            "quantization_config is ");
    refused(
        R"("quantization_config": {"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups":
            {"group_0": {"weights": {"num_bits": 8, "type": "float", "strategy": "block"}}}})",
        "quantization_config is ");
    refused(R"("rope_scaling": {"rope_type": "yarn", "factor": 4})", R"(rope_scaling.rope_type is "yarn")");
    refused(R"("partial_rotary_factor": 0.5)", "partial_rotary_factor is 5E-1");
    refused(R"("head_dim": 15)", "head_dim is 15");
    refused(R"("sliding_window": 128)", "sliding_window is 128", "MistralForCausalLM");
    refused(R"("use_sliding_window": true, "sliding_window": 128)", "sliding_window is 128", "Qwen2ForCausalLM");
    refused(R"("layer_types": ["full_attention", "sliding_attention"])", R"(layer_types contains "sliding_attention")",
            "Qwen3ForCausalLM");
    refused("", R"(architectures is ["GPT2LMHeadModel"])", "GPT2LMHeadModel");
}

TEST_CASE("checkpoints in FP8 with a scale per output or tensor are known", "[engine][config]") {
    REQUIRE(engine::parse_model_config(
        config(R"("quantization_config": {"quant_method": "fp8", "activation_scheme": "static"})")));
    for (const std::string strategy : {"channel", "tensor"}) {
        REQUIRE(engine::parse_model_config(config(
            R"("quantization_config": {"quant_method": "compressed-tensors", "format": "float-quantized", "ignore": ["lm_head"],
                "kv_cache_scheme": null, "sparsity_config": {"format": "dense"}, "transform_config": {}, "config_groups":
                {"group_0": {"input_activations": {"dynamic": true, "strategy": "token"}, "targets": ["Linear"],
                "weights": {"num_bits": 8, "type": "float", "symmetric": true, "strategy": ")" +
            strategy + R"("}}}})")));
    }
}

TEST_CASE("what makes no sense is refused by field and value", "[engine][config]") {
    const auto refused = [](const std::string& text, const std::string& expected) {
        const auto shape = engine::parse_model_config(text);
        REQUIRE_FALSE(shape);
        CAPTURE(shape.error().message);
        REQUIRE(shape.error().code == ErrorCode::invalid_argument);
        REQUIRE(contains(shape.error().message, expected));
    };
    refused("{", "not valid JSON");
    refused("[]", "not a JSON object");
    refused("{}", "architectures is missing");
    refused(R"({"architectures": "LlamaForCausalLM"})", "architectures is");
    refused(R"({"architectures": ["LlamaForCausalLM"]})", "num_hidden_layers is missing");
    refused(config(R"("hidden_size": -1)"), "hidden_size is -1, must be an integer in");
    refused(config(R"("hidden_size": "64")"), R"(hidden_size is "64")");
    refused(config(R"("vocab_size": 1e300)"), "vocab_size is");
    refused(config(R"("num_hidden_layers": 0)"), "num_hidden_layers is 0");
    refused(config(R"("num_key_value_heads": 3)"), "num_key_value_heads is 3, must divide num_attention_heads (4)");
    refused(config(R"("hidden_size": 66)"), "hidden_size is 66, must be a multiple of num_attention_heads (4)");
    refused(config(R"("rms_norm_eps": 0)"), "rms_norm_eps is 0");
    refused(config(R"("tie_word_embeddings": 1)"), "tie_word_embeddings is 1, must be true or false");
    refused(config(R"("rope_scaling": {"rope_type": "linear"})"), "rope_scaling.factor is missing");
    refused(config(R"("rope_scaling": 3)"), "rope_scaling is 3");
    refused(config(R"("rms_norm_eps": 1e300)"), "rms_norm_eps is 1E300, must be a number in [1e-20, 0.1]");
    refused(config(R"("rms_norm_eps": 1e-300)"), "rms_norm_eps is 1E-300");
    refused(config(R"("rope_theta": 1e300)"), "rope_theta is 1E300, must be a number in [1, 1e15]");
    refused(config(R"("rope_theta": 18446744073709551615)"), "rope_theta is 18446744073709551615");
    refused(config(R"("vocab_size": 18446744073709551615)"), "vocab_size is 18446744073709551615");
}

TEST_CASE("what is wrong in config.json is told with line and column", "[engine][config]") {
    const auto refused = [](const std::string& text, const std::string& field, const std::string& place) {
        const auto shape = engine::parse_model_config(text);
        REQUIRE_FALSE(shape);
        CAPTURE(shape.error().message);
        CHECK(contains(shape.error().message, "config.json"));
        CHECK(contains(shape.error().message, field));
        CHECK(contains(shape.error().message, place));
    };
    const std::string begin = "{\"architectures\": [\"LlamaForCausalLM\"],\n";
    const std::string sizes =
        " \"hidden_size\": 64, \"num_hidden_layers\": 2, \"num_attention_heads\": 4, \"vocab_size\": 9,\n"
        " \"max_position_embeddings\": 64,\n";
    refused(begin + sizes + "   \"intermediate_size\": -3}", "intermediate_size is -3", "(line 4, column 4)");
    refused(begin + sizes + " \"intermediate_size\": 8,\n \"rope_scaling\": {\"factor\": 0,\n  \"type\": \"linear\"}}",
            "rope_scaling.factor is 0", "(line 5, column 19)");
    refused(begin + sizes + " \"intermediate_size\": 8,\n \"rope_scaling\": {\"type\": \"linear\"}}",
            "rope_scaling.factor is missing", "(line 5, column 2)");
    refused(begin + sizes + " \"rms_norm_eps\": NaN}", "\"rms_norm_eps\"", "line 4, column 18");
    refused(begin + sizes + " \"rms_norm_eps\": NaN}", "NaN is no JSON number", "");
    refused(begin + sizes + " \"rope_theta\": -Infinity}", "\"rope_theta\": -Infinity is no JSON number",
            "line 4, column 16");
    refused(begin + " \"hidden_size\" 64}", "architectures", "line 2, column 16");
    refused(begin + " \"hidden_size\": 64", "hidden_size", "line 2, column 19");
    refused(std::string(4'000'001, ','), "more than 4000000 values", "");
    refused(std::string(1000, '['), "", "line 1, column 33");
}

TEST_CASE("a written config reads back as the same shape", "[engine][config]") {
    base::ModelShape shape;
    shape.layers = 3;
    shape.hidden = 64;
    shape.intermediate = 96;
    shape.heads_q = 4;
    shape.heads_kv = 2;
    shape.head_dim = 24;
    shape.vocabulary = 300;
    shape.context_tokens = 1024;
    shape.tied_embeddings = true;
    SECTION("llama3") {
        shape.architecture = "LlamaForCausalLM";
        shape.rope_scaling = {RopeScaling::Kind::llama3, 32.0, 1.0, 4.0, 8192};
    }
    SECTION("linear, biases") {
        shape.architecture = "LlamaForCausalLM";
        shape.rope_scaling.kind = RopeScaling::Kind::linear;
        shape.rope_scaling.factor = 3.0;
        shape.qkv_bias = shape.output_bias = true;
    }
    SECTION("qwen2") {
        shape.architecture = "Qwen2ForCausalLM";
        shape.qkv_bias = true;
    }
    SECTION("qwen3") {
        shape.architecture = "Qwen3ForCausalLM";
        shape.qk_norm = true;
        shape.rms_norm_eps = 1e-6;
    }
    const std::string text = engine::format_model_config(shape, "float32");
    CAPTURE(text, message_of(text));
    const auto again = engine::parse_model_config(text);
    REQUIRE(again);
    REQUIRE(*again == shape);
}

TEST_CASE("a folder without config.json is named", "[engine][config]") {
    const auto shape = engine::read_model_config("/nonexistent-folder");
    REQUIRE(shape.error().code == ErrorCode::not_found);
    REQUIRE(contains(shape.error().message, "/nonexistent-folder/config.json"));
}

TEST_CASE("Mistral without a sliding window is warned of where transformers would have one", "[engine]") {
    const auto warnings = [](const std::string& architecture, const std::string& more) {
        return engine::model_config_warnings(R"({"architectures":[")" + architecture +
                                             R"("],"max_position_embeddings":)" + more + "}")
            .size();
    };
    CHECK(warnings("MistralForCausalLM", "32768") == 1);
    CHECK(warnings("MistralForCausalLM", "4096") == 0);
    CHECK(warnings("MistralForCausalLM", R"(32768,"sliding_window":null)") == 0);
    CHECK(warnings("LlamaForCausalLM", "32768") == 0);
    CHECK(engine::model_config_warnings("{").empty());
    CHECK(engine::model_config_warnings("[]").empty());
}
