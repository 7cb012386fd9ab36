#pragma once

#include <cstdint>
#include <cstring>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/gguf.h"
#include "engine/kernels/float_formats.h"
#include "engine/model/checkpoint_writer.h"
#include "engine/model/gguf_blocks.h"
#include "engine/model/weights.h"
#include "tests/engine/support.h"
#include "tests/support/gguf_writer.h"

namespace test_engine {

/// GGUF's name of a Hugging Face tensor.
inline std::string gguf_name(const std::string& name) {
    static const std::vector<std::pair<std::string, std::string>> kNames = {
        {"model.embed_tokens.weight", "token_embd.weight"},
        {"model.norm.weight", "output_norm.weight"},
        {"lm_head.weight", "output.weight"},
        {"input_layernorm", "attn_norm"},
        {"post_attention_layernorm", "ffn_norm"},
        {"self_attn.q_proj", "attn_q"},
        {"self_attn.k_proj", "attn_k"},
        {"self_attn.v_proj", "attn_v"},
        {"self_attn.o_proj", "attn_output"},
        {"self_attn.q_norm", "attn_q_norm"},
        {"self_attn.k_norm", "attn_k_norm"},
        {"mlp.gate_proj", "ffn_gate"},
        {"mlp.up_proj", "ffn_up"},
        {"mlp.down_proj", "ffn_down"},
        {"model.layers.", "blk."},
    };
    std::string text = name;
    for (const auto& [from, to] : kNames) {
        if (const std::size_t at = text.find(from); at != std::string::npos) { text.replace(at, from.size(), to); }
    }
    return text;
}

inline std::string gguf_architecture(const base::ModelShape& shape) {
    if (shape.architecture == "Qwen2ForCausalLM") { return "qwen2"; }
    return shape.architecture == "Qwen3ForCausalLM" ? "qwen3" : "llama";
}

/// The keys from which engine::gguf_model_shape() reads `shape`.
inline test_gguf::Writer gguf_metadata(const base::ModelShape& shape) {
    const std::string prefix = gguf_architecture(shape) + ".";
    test_gguf::Writer writer;
    writer.text("general.architecture", gguf_architecture(shape))
        .u32(prefix + "block_count", shape.layers)
        .u32(prefix + "context_length", shape.context_tokens)
        .u32(prefix + "embedding_length", shape.hidden)
        .u32(prefix + "feed_forward_length", shape.intermediate)
        .u32(prefix + "attention.head_count", shape.heads_q)
        .u32(prefix + "attention.head_count_kv", shape.heads_kv)
        .f32(prefix + "attention.layer_norm_rms_epsilon", static_cast<float>(shape.rms_norm_eps))
        .f32(prefix + "rope.freq_base", static_cast<float>(shape.rope_theta))
        .u32(prefix + "vocab_size", shape.vocabulary);
    if (shape.head_dim * shape.heads_q != shape.hidden) {
        writer.u32(prefix + "attention.key_length", shape.head_dim)
            .u32(prefix + "attention.value_length", shape.head_dim);
    }
    return writer;
}

/// Random blocks whose half-precision numbers are small, as those of real weights.
inline std::vector<std::byte> some_blocks(const base::GgufTensorType& type, std::size_t blocks, std::uint32_t seed) {
    static const std::map<std::string_view, std::vector<std::size_t>> kHalves = {
        {"Q4_0", {0}},   {"Q4_1", {0, 2}}, {"Q5_0", {0}},    {"Q5_1", {0, 2}}, {"Q8_0", {0}},   {"Q2_K", {80, 82}},
        {"Q3_K", {108}}, {"Q4_K", {0, 2}}, {"Q5_K", {0, 2}}, {"Q6_K", {208}},  {"IQ4_NL", {0}}, {"IQ4_XS", {0}}};
    std::vector<std::byte> bytes = test_gguf::some_bytes(blocks * type.block_bytes, seed);
    for (std::size_t block = 0; block < blocks; ++block) {
        for (const std::size_t at : kHalves.at(type.name)) {
            std::byte& high = bytes[block * type.block_bytes + at + 1];
            high = (high & std::byte{0x83}) | std::byte{0x10};  // 2^-11 to 2^-10, either sign
        }
    }
    return bytes;
}

/// A random model as a GGUF file whose matrices are stored as `type`, and the same numbers as a folder in F32.
struct GgufTwins {
    TemporaryFolder folder;
    std::string hugging_face = folder.file("hugging_face");
    std::string gguf = folder.file("model.gguf");
    std::string packed = folder.file("packed");

    GgufTwins(const base::ModelShape& shape, std::uint32_t type_number, std::uint32_t parts = 1) {
        const base::GgufTensorType& type = *base::gguf_tensor_type(type_number);
        std::map<std::string, std::vector<float>> values;
        struct Entry {
            std::string name;
            std::vector<std::uint64_t> shape;  // row length first
            std::uint32_t type;
            std::vector<std::byte> bytes;
        };
        std::vector<Entry> entries;
        std::uint32_t seed = 1;
        const auto source = engine::random_tensors(shape, "F32", 7);
        for (const engine::TensorToWrite& tensor : source) {
            const bool is_matrix = tensor.shape.size() == 2;
            const std::size_t width = is_matrix ? tensor.shape[1] : 1;
            const std::size_t rows = tensor.shape[0];
            std::vector<float> stored(rows * width);  // in the file's order of rows
            Entry entry{gguf_name(tensor.name), {tensor.shape.rbegin(), tensor.shape.rend()}, 0, {}};
            if (is_matrix && type.block_elements > 1) {
                entry.type = type_number;
                entry.bytes = some_blocks(type, rows * width / type.block_elements, ++seed);
                engine::dequantize_row(type, entry.bytes, stored);
            } else {
                tensor.fill(0, stored);
                const bool is_half = is_matrix && type.block_bytes == 2;
                if (is_half) { entry.type = type_number; }
                entry.bytes.resize(stored.size() * (is_half ? 2 : 4));
                for (std::size_t i = 0; i < stored.size(); ++i) {
                    std::uint16_t half = engine::bf16_from_float(stored[i]);
                    // What a half-precision number is made of here: few bits, so that both formats hold it exactly.
                    if (type_number == 1) { half = static_cast<std::uint16_t>(0x2c00 | (half & 0x83f0)); }
                    if (is_half) {
                        stored[i] = type_number == 1 ? engine::float_from_f16(half) : engine::float_from_bf16(half);
                        std::memcpy(entry.bytes.data() + 2 * i, &half, 2);
                    } else {
                        std::memcpy(entry.bytes.data() + 4 * i, &stored[i], 4);
                    }
                }
            }
            const bool is_q = tensor.name.find("q_proj") != std::string::npos;
            const bool is_k = tensor.name.find("k_proj") != std::string::npos;
            const std::size_t heads = is_q ? shape.heads_q : is_k ? shape.heads_kv : 0;
            values[tensor.name] = stored;
            if (gguf_architecture(shape) == "llama" && heads > 0) {
                std::vector<float>& in_halves = values[tensor.name];
                for (std::size_t row = 0; row < rows; ++row) {
                    const std::size_t head = row / (rows / heads);
                    const std::size_t in_head = row % (rows / heads);
                    const std::size_t target = head * (rows / heads) + in_head % 2 * (rows / heads / 2) + in_head / 2;
                    std::copy_n(stored.begin() + static_cast<std::ptrdiff_t>(row * width), width,
                                in_halves.begin() + static_cast<std::ptrdiff_t>(target * width));
                }
            }
            entries.push_back(std::move(entry));
        }

        std::vector<engine::TensorToWrite> tensors = source;
        for (engine::TensorToWrite& tensor : tensors) {
            tensor.fill = [&all = values.at(tensor.name)](std::uint64_t first, std::span<float> out) {
                std::copy_n(all.begin() + static_cast<std::ptrdiff_t>(first), out.size(), out.begin());
            };
        }
        const auto written = engine::write_checkpoint(hugging_face, shape, tensors, std::uint64_t{1} << 40);
        if (!written) { throw std::runtime_error(written.error().message); }
        std::filesystem::create_directory(packed);

        for (std::uint32_t part = 0; part < parts; ++part) {
            test_gguf::Writer writer = part == 0 ? gguf_metadata(shape) : test_gguf::Writer();
            if (parts > 1) {
                char name[64];
                std::snprintf(name, sizeof name, "model-%05u-of-%05u.gguf", part + 1, parts);
                gguf = folder.file(name);
                writer.u16("split.no", static_cast<std::uint16_t>(part))
                    .u16("split.count", static_cast<std::uint16_t>(parts))
                    .i32("split.tensors.count", static_cast<std::int32_t>(entries.size()));
            }
            for (std::size_t i = part; i < entries.size(); i += parts) {
                writer.tensor(entries[i].name, entries[i].shape, entries[i].type, entries[i].bytes);
            }
            writer.write(gguf);
        }
    }
};

/// Every dimension a multiple of 256, so that all types fit.
inline base::ModelShape gguf_shape(const std::string& architecture = "LlamaForCausalLM") {
    base::ModelShape shape = small_shape();
    shape.architecture = architecture;
    shape.layers = 2;
    shape.hidden = 256;
    shape.intermediate = 512;
    shape.heads_q = 4;
    shape.heads_kv = 2;
    shape.head_dim = 64;
    shape.qkv_bias = architecture == "Qwen2ForCausalLM";
    shape.qk_norm = architecture == "Qwen3ForCausalLM";
    return shape;
}

}  // namespace test_engine
