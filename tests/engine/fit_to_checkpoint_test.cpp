#include "engine/model/fit_to_checkpoint.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "engine/model/checkpoint_writer.h"
#include "engine/model/model_config.h"
#include "tests/engine/support.h"
#include "tests/support/catch.h"

namespace {

using engine::FittedModel;
using engine::UnusedTensor;
using Kind = engine::UnusedTensor::Kind;

bool contains(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

engine::TensorToWrite constant(const std::string& name, std::vector<std::uint64_t> shape, float value,
                               const std::string& dtype = "F32") {
    return {name, dtype, std::move(shape),
            [value](std::uint64_t, std::span<float> values) { std::fill(values.begin(), values.end(), value); }};
}

/// A small model with tensors besides.
struct Setting {
    test_engine::TemporaryFolder folder;
    base::ModelShape shape = test_engine::small_shape();
    std::string dir = folder.file("model");

    void write(const std::vector<engine::TensorToWrite>& more, std::uint64_t shard_bytes = std::uint64_t{1} << 40) {
        auto tensors = engine::random_tensors(shape, "F32", 1);
        tensors.insert(tensors.end(), more.begin(), more.end());
        const auto written = engine::write_checkpoint(dir, shape, tensors, shard_bytes);
        INFO((written ? "" : written.error().message));
        REQUIRE(written);
    }
    /// The embedding once more, under another name.
    engine::TensorToWrite copy_of_embedding(const std::string& name) {
        auto tensors = engine::random_tensors(shape, "F32", 1);
        const auto found = std::find_if(tensors.begin(), tensors.end(),
                                        [](const auto& one) { return one.name == "model.embed_tokens.weight"; });
        REQUIRE(found != tensors.end());
        found->name = name;
        return *found;
    }
    base::Result<FittedModel> fit() const {
        const auto checkpoint = engine::Checkpoint::open(dir);
        INFO((checkpoint ? "" : checkpoint.error().message));
        REQUIRE(checkpoint);
        return engine::fit_to_checkpoint(shape, *checkpoint, dir);
    }
    std::vector<UnusedTensor> unused() const { return engine::unused_tensors(*engine::Checkpoint::open(dir), shape); }
};

}  // namespace

TEST_CASE("a model whose files hold what it needs has nothing unused", "[engine]") {
    Setting setting;
    setting.write({});
    const auto fitted = setting.fit();
    REQUIRE(fitted);
    CHECK(fitted->unused.empty());
    CHECK(fitted->warnings.empty());
    CHECK_FALSE(fitted->shape.tied_embeddings);
}

TEST_CASE("a head that differs from the embedding is used although the config ties them, with a warning", "[engine]") {
    Setting setting;
    setting.shape.tied_embeddings = true;
    setting.write({constant("lm_head.weight", {setting.shape.vocabulary, setting.shape.hidden}, 0.5f)});
    const auto fitted = setting.fit();
    REQUIRE(fitted);
    CHECK_FALSE(fitted->shape.tied_embeddings);
    REQUIRE(fitted->warnings.size() == 1);
    CHECK(contains(fitted->warnings[0], "tie_word_embeddings true"));
    CHECK(contains(fitted->warnings[0], "lm_head.weight"));
    CHECK(fitted->unused.empty());

    // All logits are equal with that head, so the lowest token is the likeliest: the engine does use it.
    const auto engine = test_engine::load(test_engine::options_for(setting.dir, setting.folder.file("packed")));
    CHECK_FALSE(engine->shape().tied_embeddings);
    test_engine::Stream stream;
    stream.prompt = {7, 8, 9};
    stream.blocks = test_engine::block_run(0, 1);
    REQUIRE(test_engine::run_step(*engine, {{&stream, 3}}));
    REQUIRE(stream.logits.back().front() == stream.logits.back().back());
}

TEST_CASE("a head that is a copy of the embedding is harmless", "[engine]") {
    Setting setting;
    setting.shape.tied_embeddings = true;
    setting.write({setting.copy_of_embedding("lm_head.weight")});
    const auto fitted = setting.fit();
    REQUIRE(fitted);
    CHECK(fitted->shape.tied_embeddings);
    CHECK(fitted->warnings.empty());
    REQUIRE(fitted->unused.size() == 1);
    CHECK(fitted->unused[0].kind == Kind::harmless);
    CHECK(contains(fitted->unused[0].why, "equal to model.embed_tokens.weight"));
}

TEST_CASE("tensors that would change the model are refused by name, harmless ones are not", "[engine]") {
    struct Case {
        engine::TensorToWrite tensor;
        Kind kind;
        std::string why;
    };
    const std::uint64_t width = 64;
    const std::vector<Case> cases = {
        {constant("model.layers.0.self_attn.q_proj.bias", {width}, 1), Kind::contradicts, "does not ask for it"},
        {constant("model.layers.0.self_attn.q_proj.bias", {width}, 0), Kind::harmless, "all zeros"},
        {constant("model.layers.1.self_attn.q_norm.weight", {16}, 1), Kind::contradicts, "does not ask for it"},
        {constant("model.layers.1.mlp.gate_proj.bias", {100}, 1), Kind::contradicts, "does not ask for it"},
        {constant("model.layers.0.pre_feedforward_layernorm.weight", {width}, 1), Kind::contradicts, "ask for it"},
        {constant("model.layers.0.self_attn.q_proj.lora_A.weight", {4, width}, 1), Kind::contradicts, "ask for it"},
        {constant("model.layers.0.self_attn.q_proj.weight_scale", {width}, 1), Kind::contradicts, "ask for it"},
        {constant("model.layers.3.input_layernorm.weight", {width}, 1), Kind::contradicts, "has only 3 layers"},
        {constant("model.embed_positions.weight", {8, width}, 1), Kind::contradicts, "does not ask for it"},
        {constant("lm_head.bias", {250}, 1), Kind::contradicts, "does not ask for it"},
        {constant("lm_head.bias", {250}, 0), Kind::harmless, "all zeros"},
        {constant("model.layers.0.self_attn.rotary_emb.inv_freq", {8}, 1), Kind::harmless, "made from config.json"},
        {constant("model.layers.0.self_attn.q_proj.input_scale", {1}, 2), Kind::harmless, "activations"},
        {constant("model.layers.0.self_attn.k_proj.k_scale", {1}, 2), Kind::harmless, "activations"},
        {constant("vision_tower.patch.weight", {4, 4}, 1), Kind::aside, "no part of the text model"},
        {constant("score.weight", {2, width}, 1), Kind::aside, "no part of the text model"},
    };
    for (const Case& one : cases) {
        CAPTURE(one.tensor.name);
        Setting setting;
        setting.write({one.tensor});
        const auto unused = setting.unused();
        REQUIRE(unused.size() == 1);
        CHECK(unused[0].name == one.tensor.name);
        CHECK(unused[0].kind == one.kind);
        CHECK(contains(unused[0].why, one.why));
        const auto fitted = setting.fit();
        CHECK(fitted.has_value() == (one.kind != Kind::contradicts));
        if (fitted) {
            CHECK(fitted->warnings.size() == (one.kind == Kind::aside ? 1 : 0));
        } else {
            CHECK(fitted.error().code == base::ErrorCode::data_loss);
            CHECK(contains(fitted.error().message, one.tensor.name));
            const auto loaded =
                engine::load_engine(test_engine::options_for(setting.dir, setting.folder.file("packed")));
            CHECK_FALSE(loaded);
        }
    }
}

TEST_CASE("what a shard holds beyond the index counts", "[engine]") {
    Setting setting;
    setting.write({constant("lm_head.bias", {setting.shape.vocabulary}, 1)}, 64u << 10);
    const std::filesystem::path index = std::filesystem::path(setting.dir) / "model.safetensors.index.json";
    std::string text;
    {
        std::ifstream file(index);
        REQUIRE(file);
        text.assign(std::istreambuf_iterator<char>(file), {});
    }
    const auto begin = text.find("\"lm_head.bias\"");
    REQUIRE(begin != std::string::npos);
    const auto end = text.find_first_of(",}", begin);
    text[end] == ',' ? text.erase(begin, end + 1 - begin)
                     : text.erase(text.rfind(',', begin), end - text.rfind(',', begin));
    std::ofstream(index) << text;
    const auto unused = setting.unused();
    REQUIRE(unused.size() == 1);
    CHECK(unused[0].name == "lm_head.bias");
}

TEST_CASE("an adapter that lies beside a model is not passed over in silence", "[engine]") {
    Setting setting;
    setting.write({});
    std::ofstream(setting.dir + "/adapter_config.json") << "{}";
    const auto fitted = setting.fit();
    REQUIRE(fitted);
    REQUIRE(fitted->warnings.size() == 1);
    CHECK(contains(fitted->warnings[0], "adapter_config.json"));
}

TEST_CASE("many unused tensors are told in one line", "[engine]") {
    std::vector<UnusedTensor> unused;
    for (const char* name : {"a", "b", "c", "d", "e"}) {
        unused.push_back({name, 10, Kind::aside, "x"});
    }
    unused.push_back({"z", 7, Kind::harmless, "x"});
    CHECK(engine::describe_unused(unused, Kind::aside) == "a, b, c and 2 more (50 bytes)");
    CHECK(engine::describe_unused(unused, Kind::harmless) == "z (7 bytes)");
    CHECK(engine::describe_unused(unused, Kind::contradicts).empty());
}
