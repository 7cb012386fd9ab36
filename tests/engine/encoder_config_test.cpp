#include <boost/json.hpp>
#include <filesystem>
#include <fstream>
#include <string>

#include "engine/engine.h"
#include "engine/model/encoder_config.h"
#include "engine/model/model_config.h"
#include "tests/engine/support.h"
#include "tests/support/catch.h"

namespace {

namespace json = boost::json;
using base::ErrorCode;
using engine::EncoderFiles;

json::object config() {
    return {{"architectures", {"BertModel"}},
            {"hidden_size", 384},
            {"num_hidden_layers", 6},
            {"num_attention_heads", 12},
            {"intermediate_size", 1536},
            {"vocab_size", 30522},
            {"max_position_embeddings", 512},
            {"type_vocab_size", 2},
            {"layer_norm_eps", 1e-12},
            {"hidden_act", "gelu"},
            {"position_embedding_type", "absolute"}};
}

const char* const kModules = R"([
  {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
  {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
  {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}])";

EncoderFiles files() {
    return {.config = json::serialize(config()),
            .modules = kModules,
            .pooling = R"({"word_embedding_dimension": 384, "pooling_mode_cls_token": false,
                           "pooling_mode_mean_tokens": true, "pooling_mode_max_tokens": false,
                           "pooling_mode_mean_sqrt_len_tokens": false})",
            .sentences = R"({"max_seq_length": 256, "do_lower_case": false})",
            .prompts = R"({"__version__": {"pytorch": "1.8.1"}, "prompts": {}, "default_prompt_name": null})"};
}

EncoderFiles with(std::string_view field, json::value value) {
    EncoderFiles changed = files();
    json::object object = config();
    object[field] = std::move(value);
    changed.config = json::serialize(object);
    return changed;
}

void require_error(const EncoderFiles& given, ErrorCode code, const std::string& part) {
    const auto shape = engine::parse_encoder_config(given);
    REQUIRE_FALSE(shape);
    CAPTURE(shape.error().message, part);
    CHECK(shape.error().code == code);
    CHECK(shape.error().message.find(part) != std::string::npos);
}

}  // namespace

TEST_CASE("a sentence encoder is what its files say", "[engine]") {
    const auto shape = engine::parse_encoder_config(files());
    REQUIRE(shape);
    CHECK(shape->transformer.architecture == "BertModel");
    CHECK(shape->transformer.layers == 6);
    CHECK(shape->transformer.hidden == 384);
    CHECK(shape->transformer.heads_q == 12);
    CHECK(shape->transformer.heads_kv == 12);
    CHECK(shape->transformer.head_dim == 32);
    CHECK(shape->transformer.intermediate == 1536);
    CHECK(shape->transformer.vocabulary == 30522);
    CHECK(shape->transformer.context_tokens == 256);
    CHECK(shape->positions == 512);
    CHECK(shape->token_types == 2);
    CHECK(shape->layer_norm_eps == 1e-12);
    CHECK(shape->gelu == engine::Gelu::exact);
    CHECK(shape->pooling == engine::SentencePooling::mean);
    CHECK(shape->normalize);

    EncoderFiles first = with("hidden_act", "gelu_new");
    first.pooling = R"({"word_embedding_dimension": 384, "pooling_mode_cls_token": true})";
    first.modules = R"([{"path": "", "type": "a.Transformer"}, {"path": "1_Pooling", "type": "b.c.Pooling"}])";
    first.sentences.reset();
    const auto other = engine::parse_encoder_config(first);
    REQUIRE(other);
    CHECK(other->gelu == engine::Gelu::tanh);
    CHECK(other->pooling == engine::SentencePooling::first);
    CHECK_FALSE(other->normalize);
    CHECK(other->transformer.context_tokens == 512);

    const auto plain = engine::parse_encoder_config({.config = json::serialize(config())});
    REQUIRE(plain);
    CHECK(plain->pooling == engine::SentencePooling::mean);
    CHECK_FALSE(plain->normalize);
}

TEST_CASE("what an encoder asks for and we cannot compute is an error that names it", "[engine]") {
    require_error(with("architectures", json::array{"MPNetModel"}), ErrorCode::unimplemented, "MPNetModel");
    require_error(with("architectures", nullptr), ErrorCode::invalid_argument, "architectures");
    require_error(with("hidden_act", "relu"), ErrorCode::unimplemented, "hidden_act is \"relu\"");
    require_error(with("position_embedding_type", "relative_key"), ErrorCode::unimplemented, "position_embedding_type");
    require_error(with("is_decoder", true), ErrorCode::unimplemented, "is_decoder");
    require_error(with("hidden_size", 385), ErrorCode::invalid_argument, "num_attention_heads (12)");
    require_error(with("num_attention_heads", 128), ErrorCode::unimplemented, "heads of 3");
    require_error(with("layer_norm_eps", 0), ErrorCode::invalid_argument, "layer_norm_eps");
    require_error(with("vocab_size", nullptr), ErrorCode::invalid_argument, "vocab_size is missing");
    require_error({.config = "{"}, ErrorCode::invalid_argument, "config.json is not valid JSON");
    require_error({.config = "[]"}, ErrorCode::invalid_argument, "not a JSON object");

    const auto changed = [](auto change) {
        EncoderFiles given = files();
        change(given);
        return given;
    };
    const std::string dense = R"([{"path": "", "type": "m.Transformer"}, {"path": "1_Pooling", "type": "m.Pooling"},
                                  {"path": "2_Dense", "type": "m.Dense"}])";
    require_error(changed([&](auto& f) { f.modules = dense; }), ErrorCode::unimplemented, "step 2 is a 'Dense'");
    require_error(changed([](auto& f) { f.modules = R"([{"path": "", "type": "m.Transformer"}])"; }),
                  ErrorCode::unimplemented, "no Pooling");
    require_error(changed([](auto& f) { f.modules = R"([{"path": 3, "type": "m.Transformer"}])"; }),
                  ErrorCode::invalid_argument, "'type' and 'path'");
    require_error(changed([](auto& f) { f.modules = "{}"; }), ErrorCode::invalid_argument, "modules.json");
    require_error(changed([](auto& f) { f.pooling.reset(); }), ErrorCode::not_found, "1_Pooling/config.json");
    require_error(changed([](auto& f) { f.pooling = R"({"pooling_mode_max_tokens": true})"; }),
                  ErrorCode::unimplemented, "pooling_mode_max_tokens");
    require_error(changed([](auto& f) { f.pooling = "{}"; }), ErrorCode::invalid_argument, "none of");
    require_error(
        changed([](auto& f) { f.pooling = R"({"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true})"; }),
        ErrorCode::unimplemented, "both of");
    require_error(
        changed([](auto& f) { f.pooling = R"({"word_embedding_dimension": 768, "pooling_mode_mean_tokens": true})"; }),
        ErrorCode::invalid_argument, "768");
    require_error(changed([](auto& f) { f.sentences = R"({"max_seq_length": 0})"; }), ErrorCode::invalid_argument,
                  "max_seq_length");
    require_error(changed([](auto& f) { f.sentences = R"({"do_lower_case": true})"; }), ErrorCode::unimplemented,
                  "do_lower_case");
    require_error(changed([](auto& f) { f.prompts = R"({"default_prompt_name": "query"})"; }), ErrorCode::unimplemented,
                  "default_prompt_name");
}

TEST_CASE("the folder of the pooling stays within the model", "[engine]") {
    const auto folder_of = [](const std::string& path) {
        return engine::pooling_folder(R"([{"type": "m.Pooling", "path": ")" + path + R"("}])");
    };
    CHECK(*folder_of("1_Pooling") == "1_Pooling");
    for (const char* bad : {"../other", "a/../../b", "/etc", ""}) {
        CAPTURE(bad);
        const auto folder = folder_of(bad);
        REQUIRE_FALSE(folder);
        CHECK(folder.error().code == ErrorCode::invalid_argument);
    }
    CHECK(engine::pooling_folder("[]")->empty());
}

TEST_CASE("an encoder is refused where a model that makes text is asked for, and the other way round", "[engine]") {
    const test_engine::TemporaryFolder folder;
    std::ofstream(folder.file("config.json")) << json::serialize(config());
    const auto decoder = engine::read_model_config(folder.path().string());
    REQUIRE_FALSE(decoder);
    CHECK(decoder.error().message.find("is a sentence encoder") != std::string::npos);
    CHECK(*engine::read_architecture(folder.path().string()) == "BertModel");
    CHECK(engine::is_encoder("BertModel"));
    CHECK_FALSE(engine::is_encoder("LlamaForCausalLM"));

    test_engine::write_random_model(folder.file("llama"), test_engine::small_shape(), "F32");
    const auto encoder = engine::read_encoder_config(folder.file("llama"));
    REQUIRE_FALSE(encoder);
    CHECK(encoder.error().message.find("LlamaForCausalLM") != std::string::npos);
}

TEST_CASE("options that an encoder cannot follow are refused before anything is packed", "[engine]") {
    const test_engine::TemporaryFolder folder;
    std::ofstream(folder.file("config.json")) << json::serialize(config());
    auto options = test_engine::options_for(folder.path().string(), folder.file("packed"));
    options.batch_tokens_max = 511;
    auto engine = engine::load_engine(options);
    REQUIRE_FALSE(engine);
    CHECK(engine.error().message.find("batch_tokens_max is 511") != std::string::npos);
    CHECK(engine.error().message.find("512") != std::string::npos);
    options.batch_tokens_max = 512;
    options.device = "cuda:0";
    engine = engine::load_engine(options);
    REQUIRE_FALSE(engine);
    CHECK(engine.error().code == ErrorCode::unimplemented);
    options.device = "host";
    engine = engine::load_engine(options);  // no weights
    REQUIRE_FALSE(engine);
    CHECK(engine.error().code == ErrorCode::not_found);
    CHECK_FALSE(std::filesystem::exists(folder.file("packed")));
}
