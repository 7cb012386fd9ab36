// Models from GGUF files: their numbers are those of the same model as a Hugging Face folder, bit for bit.
#include "engine/model/gguf_checkpoint.h"

#include <boost/json.hpp>
#include <cmath>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "base/crc32c.h"
#include "engine/model/gguf_blocks.h"
#include "engine/model/model_config.h"
#include "engine/model/packed_file.h"
#include "engine/model/rope.h"
#include "tests/engine/gguf_support.h"
#include "tests/support/catch.h"

namespace {

namespace json = boost::json;
using test_engine::gguf_metadata;
using test_engine::gguf_shape;
using test_engine::GgufTwins;
using test_gguf::Writer;

bool contains(const std::string& text, std::string_view part) {
    return text.find(part) != std::string::npos;
}

/// All logits of a prompt.
std::vector<std::vector<float>> logits_of(const std::string& model, const std::string& packed,
                                          const std::string& weight_format) {
    engine::EngineOptions options = test_engine::options_for(model, packed);
    options.weight_format = weight_format;
    const auto engine = test_engine::load(options);
    if (weight_format == "auto") { REQUIRE(contains(engine->describe(), "bf16 weights")); }
    std::mt19937 random{5};
    test_engine::Stream stream;
    stream.prompt = test_engine::random_tokens(random, 12, engine->shape().vocabulary);
    stream.blocks = test_engine::block_run(0, 1);
    REQUIRE(test_engine::run_step(*engine, {{&stream, 12}}));
    for (const auto& row : stream.logits) {
        for (const float logit : row) {
            REQUIRE(std::isfinite(logit));
        }
    }
    return stream.logits;
}

/// Why a file with these keys, and the tensors of a whole model, is not taken.
std::string refusal(Writer writer, const base::ModelShape& shape) {
    const test_engine::TemporaryFolder folder;
    for (const engine::TensorToWrite& tensor : engine::random_tensors(shape, "F32", 7)) {
        std::uint64_t elements = 1;
        for (const std::uint64_t length : tensor.shape) {
            elements *= length;
        }
        writer.tensor(test_engine::gguf_name(tensor.name), {tensor.shape.rbegin(), tensor.shape.rend()}, 0,
                      std::vector<std::byte>(elements * 4));
    }
    writer.write(folder.file("m.gguf"));
    const auto checkpoint = engine::Checkpoint::open(folder.file("m.gguf"));
    if (!checkpoint) {
        REQUIRE(contains(checkpoint.error().message, "m.gguf: "));
        return checkpoint.error().message;
    }
    const auto checked = engine::check_tensors(*checkpoint, engine::plan_packing(shape, engine::WeightFormat::f32));
    return checked ? "accepted" : checked.error().message;
}

base::ModelShape tiny_shape() {
    base::ModelShape shape = test_engine::small_shape();
    shape.layers = 1;
    return shape;
}

}  // namespace

TEST_CASE("every tensor type multiplies out to the bits of the gguf package", "[engine]") {
    std::ifstream file(std::string(SLUICE_SOURCE_DIR) + "/tests/data/gguf/dequantized.json");
    std::ostringstream text;
    text << file.rdbuf();
    const json::value document = json::parse(text.str());
    const auto blocks = document.at("blocks").to_number<std::size_t>();
    const json::object& types = document.at("types").as_object();
    REQUIRE(types.size() == 15);
    for (const auto& [name, row] : types) {
        CAPTURE(std::string(name));
        const base::GgufTensorType* type = base::gguf_tensor_type(row.at("number").to_number<std::uint32_t>());
        REQUIRE(type != nullptr);
        REQUIRE(type->name == std::string_view(name));
        REQUIRE(engine::can_dequantize(*type));
        // As make_dequantized.py says: halves (and the exponents of F32 and BF16) are kept finite.
        std::vector<std::byte> bytes =
            test_gguf::some_bytes(blocks * type->block_bytes, row.at("seed").to_number<std::uint32_t>());
        const std::map<std::string_view, std::vector<std::size_t>> halves = {
            {"F32", {}},      {"F16", {0}},     {"BF16", {}},    {"Q4_0", {0}},      {"Q4_1", {0, 2}},
            {"Q5_0", {0}},    {"Q5_1", {0, 2}}, {"Q8_0", {0}},   {"Q2_K", {80, 82}}, {"Q3_K", {108}},
            {"Q4_K", {0, 2}}, {"Q5_K", {0, 2}}, {"Q6_K", {208}}, {"IQ4_NL", {0}},    {"IQ4_XS", {0}}};
        for (std::size_t block = 0; block < blocks; ++block) {
            std::byte* const begin = bytes.data() + block * type->block_bytes;
            for (const std::size_t at : halves.at(std::string_view(name))) {
                if ((begin[at + 1] & std::byte{0x7c}) == std::byte{0x7c}) { begin[at + 1] &= std::byte{0xbf}; }
            }
            if (name == "F32" || name == "BF16") { begin[type->block_bytes - 1] &= std::byte{0xbf}; }
        }
        std::vector<float> values(blocks * type->block_elements);
        engine::dequantize_row(*type, bytes, values);
        const json::array& expected = row.at("block_1").as_array();
        for (std::size_t i = 0; i < expected.size(); ++i) {
            CAPTURE(i);
            const std::string digits(expected[i].as_string());
            REQUIRE(std::bit_cast<std::uint32_t>(values[type->block_elements + i]) == std::stoul(digits, nullptr, 16));
        }
        REQUIRE(base::crc32c(std::as_bytes(std::span(values))) == row.at("crc32c").to_number<std::uint32_t>());
    }
    REQUIRE_FALSE(engine::can_dequantize(*base::gguf_tensor_type(16)));
}

TEST_CASE("a row multiplied out alone has the bits it has among others", "[engine][property]") {
    for (const std::uint32_t number : {2u, 3u, 6u, 7u, 8u, 10u, 11u, 12u, 13u, 14u, 20u, 23u}) {
        const base::GgufTensorType& type = *base::gguf_tensor_type(number);
        CAPTURE(std::string(type.name));
        const auto bytes = test_engine::some_blocks(type, 12, number);
        std::vector<float> all(12 * type.block_elements);
        engine::dequantize_row(type, bytes, all);
        for (std::size_t row = 0; row < 4; ++row) {
            std::vector<float> alone(3 * type.block_elements);
            engine::dequantize_row(type, std::span(bytes).subspan(row * 3 * type.block_bytes, 3 * type.block_bytes),
                                   alone);
            REQUIRE(std::memcmp(alone.data(), all.data() + row * alone.size(), alone.size() * 4) == 0);
        }
    }
}

TEST_CASE("a GGUF model of every tensor type gives the logits of the same numbers as a folder", "[engine]") {
    const auto number = GENERATE(0u, 1u, 2u, 3u, 6u, 7u, 8u, 10u, 11u, 12u, 13u, 14u, 20u, 23u, 30u);
    CAPTURE(number);
    const GgufTwins twins(gguf_shape(), number);
    REQUIRE(logits_of(twins.gguf, twins.packed, "f32") == logits_of(twins.hugging_face, twins.packed, "f32"));
    const bool has_blocks = base::gguf_tensor_type(number)->block_elements > 1;
    REQUIRE(logits_of(twins.gguf, twins.packed, has_blocks ? "auto" : "bf16") ==
            logits_of(twins.hugging_face, twins.packed, "bf16"));
}

TEST_CASE("GGUF models of every family have the shape and the logits of their folder", "[engine]") {
    const std::string architecture =
        GENERATE(as<std::string>(), "LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM");
    CAPTURE(architecture);
    base::ModelShape shape = gguf_shape(architecture);
    shape.tied_embeddings = architecture == "Qwen2ForCausalLM";
    shape.head_dim = architecture == "Qwen3ForCausalLM" ? 128 : 64;  // not hidden / heads
    shape.rope_theta = 1e6;
    shape.rms_norm_eps = 1e-5;
    const GgufTwins twins(shape, 12);
    const auto from_gguf = engine::read_model_config(twins.gguf);
    REQUIRE(from_gguf.has_value());
    REQUIRE(*from_gguf == shape);
    REQUIRE(*from_gguf == *engine::read_model_config(twins.hugging_face));
    REQUIRE(logits_of(twins.gguf, twins.packed, "f32") == logits_of(twins.hugging_face, twins.packed, "f32"));
}

TEST_CASE("biases of a llama GGUF model are undone like the rows they belong to", "[engine]") {
    base::ModelShape shape = gguf_shape();
    shape.qkv_bias = true;
    shape.output_bias = true;
    const GgufTwins twins(shape, 8);
    REQUIRE(*engine::read_model_config(twins.gguf) == shape);
    REQUIRE(logits_of(twins.gguf, twins.packed, "f32") == logits_of(twins.hugging_face, twins.packed, "f32"));
}

TEST_CASE("a split GGUF model loads from any of its parts", "[engine]") {
    const GgufTwins twins(gguf_shape(), 3, 3);
    const auto expected = logits_of(twins.hugging_face, twins.packed, "bf16");
    for (const char* name : {"model-00001-of-00003.gguf", "model-00003-of-00003.gguf"}) {
        REQUIRE(logits_of(twins.folder.file(name), twins.packed, "auto") == expected);
    }
}

TEST_CASE("the packed form of a GGUF file is kept, and found again by a copy of the file", "[engine]") {
    const GgufTwins twins(gguf_shape(), 14);
    const auto open = [&](const std::string& path) {
        const auto checkpoint = engine::Checkpoint::open(path);
        REQUIRE(checkpoint);
        const auto plan = engine::plan_packing(gguf_shape(), engine::WeightFormat::bf16);
        REQUIRE(engine::check_tensors(*checkpoint, plan));
        auto packed = engine::open_packed_file(*checkpoint, plan, twins.packed, {});
        REQUIRE(packed);
        return std::move(*packed);
    };
    const auto first = open(twins.gguf);
    REQUIRE(first.packed_now);
    REQUIRE_FALSE(open(twins.gguf).packed_now);
    std::filesystem::copy_file(twins.gguf, twins.folder.file("copy.gguf"));
    const auto copied = open(twins.folder.file("copy.gguf"));
    REQUIRE_FALSE(copied.packed_now);
    REQUIRE(copied.content == first.content);
    // The same bytes in another order of rows are other weights.
    std::filesystem::remove_all(twins.packed);
    std::filesystem::create_directory(twins.packed);
    REQUIRE(open(twins.gguf).content == first.content);
    REQUIRE(open(twins.hugging_face).content != first.content);
}

TEST_CASE("what a GGUF file does not say has the format's default", "[engine]") {
    const base::ModelShape shape = tiny_shape();
    Writer writer;
    writer.text("general.architecture", "llama")
        .u32("llama.block_count", shape.layers)
        .u32("llama.context_length", shape.context_tokens)
        .u32("llama.embedding_length", shape.hidden)
        .u32("llama.feed_forward_length", shape.intermediate)
        .i32s("llama.attention.head_count", {static_cast<std::int32_t>(shape.heads_q)})
        .f32("llama.attention.layer_norm_rms_epsilon", 1e-5f)
        .f32("llama.rope.scaling.factor", 2.5f)
        .boolean("llama.attention.causal", true)
        .u32("llama.expert_count", 0)
        .u32("llama.attention.sliding_window", shape.context_tokens)
        .tensor("token_embd.weight", {shape.hidden, 10}, 0, std::vector<std::byte>(shape.hidden * 40));
    const test_engine::TemporaryFolder folder;
    writer.write(folder.file("m.gguf"));
    const auto read = engine::read_model_config(folder.file("m.gguf"));
    REQUIRE(read.has_value());
    REQUIRE(read->heads_kv == shape.heads_q);
    REQUIRE(read->head_dim == shape.hidden / shape.heads_q);
    REQUIRE(read->rope_theta == 10000.0);
    REQUIRE(read->rope_scaling.kind == base::RopeScaling::Kind::linear);
    REQUIRE(read->rope_scaling.factor == 2.5);
    REQUIRE(read->vocabulary == 10);
    REQUIRE(read->tied_embeddings);
    REQUIRE(read->rms_norm_eps == 1e-5);
}

TEST_CASE("fields of a GGUF file that change the numbers are known or refused by name", "[engine]") {
    const base::ModelShape shape = tiny_shape();
    const Writer whole = gguf_metadata(shape);
    REQUIRE(refusal(whole, shape) == "accepted");
    const auto with = [&](auto change) {
        Writer writer = whole;
        change(writer);
        return refusal(writer, shape);
    };
    REQUIRE(contains(with([](Writer& w) { w.f32("llama.logit_scale", 0.5f); }), "llama.logit_scale is 0.5, only 1"));
    REQUIRE(contains(with([](Writer& w) { w.u32("llama.expert_count", 8); }), "llama.expert_count is 8, only 0"));
    REQUIRE(contains(with([](Writer& w) { w.boolean("llama.attention.causal", false); }),
                     "llama.attention.causal is false, only true"));
    REQUIRE(contains(with([](Writer& w) { w.u32("llama.attention.sliding_window", 100); }),
                     "llama.attention.sliding_window is 100"));
    REQUIRE(
        contains(with([](Writer& w) { w.u32("llama.rope.dimension_count", 8); }), "llama.rope.dimension_count is 8"));
    REQUIRE(contains(with([](Writer& w) { w.text("llama.rope.scaling.type", "yarn"); }),
                     "llama.rope.scaling.type is \"yarn\""));
    REQUIRE(contains(with([](Writer& w) { w.u32("llama.attention.value_length", 32); }),
                     "llama.attention.value_length is 32"));
    REQUIRE(contains(with([](Writer& w) { w.f32("llama.attention.temperature_scale", 1.5f); }),
                     "llama.attention.temperature_scale is 1.5: this field is not known"));
    REQUIRE(contains(with([](Writer& w) { w.text("general.type", "adapter"); }), "general.type is \"adapter\""));
    // Of another architecture: not heeded.
    REQUIRE(with([](Writer& w) { w.f32("gemma.logit_scale", 0.5f); }) == "accepted");

    Writer other;
    other.text("general.architecture", "gemma3");
    REQUIRE(
        contains(refusal(other, shape), "general.architecture is \"gemma3\", only \"llama\", \"qwen2\", \"qwen3\""));
    REQUIRE(contains(refusal(Writer(), shape), "general.architecture is missing"));

    base::ModelShape wrong = shape;
    wrong.heads_kv = 3;
    REQUIRE(contains(refusal(gguf_metadata(wrong), shape), "llama.attention.head_count_kv is 3, must divide"));
    wrong = shape;
    wrong.layers = 0;
    REQUIRE(contains(refusal(gguf_metadata(wrong), shape), "llama.block_count is 0"));
    wrong = shape;
    wrong.vocabulary = 100;
    REQUIRE(contains(refusal(gguf_metadata(wrong), shape), "llama.vocab_size is 100, token_embd.weight has 250"));
}

TEST_CASE("tensors of a GGUF file are part of the model or refused by name", "[engine]") {
    const base::ModelShape shape = tiny_shape();
    const auto with = [&](std::string_view name, std::vector<std::uint64_t> lengths, std::uint32_t type,
                          std::size_t bytes) {
        return refusal(gguf_metadata(shape).tensor(name, std::move(lengths), type, std::vector<std::byte>(bytes)),
                       shape);
    };
    REQUIRE(
        contains(with("blk.0.ffn_gate.bias", {100}, 0, 400), "tensor blk.0.ffn_gate.bias is no part of a llama model"));
    REQUIRE(contains(with("blk.1.attn_norm.weight", {64}, 0, 256), "tensor blk.1.attn_norm.weight is no part"));
    REQUIRE(contains(with("blk.0.attn_q_norm.weight", {16}, 0, 64), "tensor blk.0.attn_q_norm.weight is no part"));
    REQUIRE(contains(with("strange", {1}, 0, 4), "tensor strange is no part"));
    const std::vector<std::byte> ones = [] {
        std::vector<std::byte> bytes(8 * 4);
        for (std::size_t i = 0; i < 8; ++i) {
            const float one = 1;
            std::memcpy(bytes.data() + 4 * i, &one, 4);
        }
        return bytes;
    }();
    REQUIRE(refusal(gguf_metadata(shape).tensor("rope_freqs.weight", {8}, 0, ones), shape) == "accepted");

    const GgufTwins twins(gguf_shape(), 12);
    const auto checkpoint = engine::Checkpoint::open(twins.gguf);
    REQUIRE(checkpoint);
    base::ModelShape deeper = gguf_shape();
    deeper.layers = 3;
    const auto lacking = engine::check_tensors(*checkpoint, engine::plan_packing(deeper, engine::WeightFormat::f32));
    REQUIRE_FALSE(lacking);
    REQUIRE(
        contains(lacking.error().message, "model.layers.2.input_layernorm.weight [256], which the metadata asks for"));
}

TEST_CASE("a GGUF tensor of a type that is not multiplied out is refused by name", "[engine]") {
    const base::ModelShape shape = gguf_shape();
    Writer writer = gguf_metadata(shape);
    writer.tensor("token_embd.weight", {256, 250}, 16, std::vector<std::byte>(250 * 66));
    const test_engine::TemporaryFolder folder;
    writer.write(folder.file("m.gguf"));
    const auto checkpoint = engine::Checkpoint::open(folder.file("m.gguf"));
    REQUIRE_FALSE(checkpoint);
    REQUIRE(checkpoint.error().code == base::ErrorCode::unimplemented);
    REQUIRE(contains(checkpoint.error().message, "tensor token_embd.weight is stored as IQ2_XXS"));
}

TEST_CASE("rope_freqs.weight of Llama 3.x becomes its rule, and nothing else does", "[engine]") {
    base::ModelShape shape = tiny_shape();
    shape.hidden = 512;
    shape.heads_q = 4;
    shape.head_dim = 128;
    shape.rope_theta = 500000.0;
    base::ModelShape scaled = shape;
    scaled.rope_scaling = {.kind = base::RopeScaling::Kind::llama3,
                           .factor = 32,
                           .low_freq_factor = 1,
                           .high_freq_factor = 4,
                           .original_max_position_tokens = 8192};
    const std::vector<float> plain = engine::rope_frequencies(shape);
    const std::vector<float> stretched = engine::rope_frequencies(scaled);
    std::vector<float> factors(plain.size());
    for (std::size_t i = 0; i < factors.size(); ++i) {
        factors[i] = plain[i] / stretched[i];
    }
    const auto read = [&](const std::vector<float>& values, std::string_view architecture) {
        base::ModelShape said = shape;
        said.architecture = architecture;
        const test_engine::TemporaryFolder folder;
        gguf_metadata(said)
            .tensor("token_embd.weight", {512, 250}, 0, std::vector<std::byte>(512 * 250 * 4))
            .tensor("rope_freqs.weight", {values.size()}, 0, std::as_bytes(std::span(values)))
            .write(folder.file("m.gguf"));
        const auto checkpoint = engine::Checkpoint::open(folder.file("m.gguf"));
        if (!checkpoint) { return std::pair(base::ModelShape{}, checkpoint.error().message); }
        return std::pair(*engine::read_model_config(folder.file("m.gguf")), std::string());
    };
    REQUIRE(read(factors, "LlamaForCausalLM").first.rope_scaling == scaled.rope_scaling);
    REQUIRE(contains(read(factors, "Qwen2ForCausalLM").second, "rope_freqs.weight is no part of a qwen2 model"));
    std::vector<float> others = factors;
    others[30] *= 1.01f;
    REQUIRE(contains(read(others, "LlamaForCausalLM").second, "rope_freqs.weight has"));
    others.pop_back();
    REQUIRE(contains(read(others, "LlamaForCausalLM").second, "rope_freqs.weight is F32 [63], must be F32 [64]"));
}
