#include "cli/model_make.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <array>
#include <boost/json.hpp>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <utility>
#include <vector>

#include "engine/model/checkpoint_writer.h"

namespace cli {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;
using base::ErrorCode;
using base::ModelShape;
using base::Result;

constexpr std::uint32_t kSpecials = 3;  // <unk>, <s>, </s>
constexpr std::array<const char*, kSpecials> kSpecialNames = {"<unk>", "<s>", "</s>"};

ModelShape llama(std::uint32_t layers, std::uint32_t hidden, std::uint32_t intermediate, std::uint32_t heads_q,
                 std::uint32_t heads_kv, std::uint32_t vocabulary, std::uint32_t context_tokens) {
    ModelShape shape;
    shape.architecture = "LlamaForCausalLM";
    shape.layers = layers;
    shape.hidden = hidden;
    shape.intermediate = intermediate;
    shape.heads_q = heads_q;
    shape.heads_kv = heads_kv;
    shape.head_dim = hidden / heads_q;
    shape.vocabulary = vocabulary;
    shape.context_tokens = context_tokens;
    return shape;
}

void append_utf8(std::string& text, std::uint32_t code) {  // below U+0800
    if (code < 0x80) {
        text += static_cast<char>(code);
    } else {
        text += static_cast<char>(0xc0 | code >> 6);
        text += static_cast<char>(0x80 | (code & 0x3f));
    }
}

/// How byte-level BPE writes a byte: printable Latin-1 stands for itself, the others for U+0100 onwards.
/// Source: GPT-2 (Radford et al., 2019), its published encoder.
std::string byte_symbol(std::uint32_t byte) {
    const auto printable = [](std::uint32_t b) { return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174; };
    std::string symbol;
    if (printable(byte)) {
        append_utf8(symbol, byte);
        return symbol;
    }
    std::uint32_t before = 0;
    for (std::uint32_t b = 0; b < byte; ++b) {
        before += printable(b) ? 0 : 1;
    }
    append_utf8(symbol, 256 + before);
    return symbol;
}

/// The n-th made-up word with a space in front: " baba", " babe", ... Syllables, so that five letters are never needed
/// twice for the same number.
std::string made_up_word(std::uint32_t number) {
    constexpr std::string_view kConsonants = "bdfghjklmnprstvwz";
    constexpr std::string_view kVowels = "aeiou";
    const auto base = static_cast<std::uint32_t>(kConsonants.size() * kVowels.size());
    std::string word;
    do {
        const std::uint32_t syllable = number % base;
        word = std::string{kConsonants[syllable / kVowels.size()], kVowels[syllable % kVowels.size()]} + word;
        number /= base;
    } while (number > 0);
    return byte_symbol(' ') + word;
}

std::string tokenizer_json(std::uint32_t vocabulary) {
    json::object pieces;
    json::array added;
    for (std::uint32_t id = 0; id < kSpecials; ++id) {
        pieces[kSpecialNames[id]] = id;
        added.push_back({{"id", id},
                         {"content", kSpecialNames[id]},
                         {"single_word", false},
                         {"lstrip", false},
                         {"rstrip", false},
                         {"normalized", false},
                         {"special", true}});
    }
    for (std::uint32_t byte = 0; byte < 256; ++byte) {
        pieces[byte_symbol(byte)] = kSpecials + byte;
    }
    for (std::uint32_t id = kSpecials + 256; id < vocabulary; ++id) {
        pieces[made_up_word(id - kSpecials - 256)] = id;
    }
    const json::object byte_level{
        {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
    const json::object first{{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}};
    const json::object text{{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
    const json::object second{{"Sequence", {{"id", "B"}, {"type_id", 1}}}};
    const json::object bos{{"id", "<s>"}, {"ids", json::array{1}}, {"tokens", json::array{"<s>"}}};
    const json::object tokenizer{
        {"version", "1.0"},
        {"truncation", nullptr},
        {"padding", nullptr},
        {"added_tokens", added},
        {"normalizer", nullptr},
        {"pre_tokenizer", byte_level},
        {"post_processor",
         {{"type", "TemplateProcessing"},
          {"single", json::array{first, text}},
          {"pair", json::array{first, text, second}},
          {"special_tokens", {{"<s>", bos}}}}},
        {"decoder", byte_level},
        {"model",
         {{"type", "BPE"},
          {"dropout", nullptr},
          {"unk_token", nullptr},
          {"continuing_subword_prefix", nullptr},
          {"end_of_word_suffix", nullptr},
          {"fuse_unk", false},
          {"byte_fallback", false},
          {"vocab", pieces},
          {"merges", json::array{}}}},
    };
    return json::serialize(tokenizer) + "\n";
}

std::string tokenizer_config_json(std::uint32_t context_tokens) {
    const json::object config{
        {"tokenizer_class", "PreTrainedTokenizerFast"},
        {"bos_token", "<s>"},
        {"eos_token", "</s>"},
        {"unk_token", "<unk>"},
        {"add_bos_token", true},
        {"add_eos_token", false},
        {"clean_up_tokenization_spaces", false},
        {"model_max_length", context_tokens},
        {"chat_template",
         "{{- bos_token }}{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
         "{% if add_generation_prompt %}assistant: {% endif %}"},
    };
    return json::serialize(config) + "\n";
}

Result<void> write_text(const fs::path& path, const std::string& text) {
    std::ofstream file(path, std::ios::binary | std::ios::trunc);
    file << text;
    file.close();
    if (!file) { return base::fail(ErrorCode::internal, "cannot write " + path.string()); }
    return {};
}

Result<ModelShape> wanted_shape(const ModelMakeOptions& options) {
    auto shape = named_shape(options.shape);
    if (!shape) {
        return base::fail(ErrorCode::invalid_argument, "shape '" + options.shape +
                                                           "' is not known, must be stories15m, 110m, tinyllama-1.1b, "
                                                           "llama-3.2-1b, llama-3.1-8b, qwen3-0.6b or kv-8b");
    }
    if (options.layers > 1024) {
        return base::fail(ErrorCode::invalid_argument,
                          "layers is " + std::to_string(options.layers) + ", must be at most 1024");
    }
    if (options.layers > 0) { shape->layers = options.layers; }
    return *shape;
}

Result<void> make(const ModelMakeOptions& options, const std::function<void(std::uint64_t, std::uint64_t)>& progress) {
    const auto shape = wanted_shape(options);
    if (!shape) { return base::pass_on(shape); }
    std::string dtype;
    for (const auto& [name, stored] : {std::pair{"f32", "F32"}, {"bf16", "BF16"}, {"f16", "F16"}}) {
        if (options.dtype == name) { dtype = stored; }
    }
    if (dtype.empty()) {
        return base::fail(ErrorCode::invalid_argument, "dtype '" + options.dtype + "', must be f32, bf16 or f16");
    }
    std::error_code ignored;
    if (!options.force && fs::exists(options.out_dir, ignored) && !fs::is_empty(options.out_dir, ignored)) {
        return base::fail(ErrorCode::failed_precondition, options.out_dir + " is not empty (--force writes into it)");
    }
    auto done = engine::write_checkpoint(options.out_dir, *shape, engine::random_tensors(*shape, dtype, options.seed),
                                         options.shard_bytes, progress);
    const fs::path dir(options.out_dir);
    if (done) { done = write_text(dir / "tokenizer.json", tokenizer_json(shape->vocabulary)); }
    if (done) { done = write_text(dir / "tokenizer_config.json", tokenizer_config_json(shape->context_tokens)); }
    if (done) { done = write_text(dir / "generation_config.json", "{\"bos_token_id\": 1, \"eos_token_id\": 2}\n"); }
    return done;
}

}  // namespace

std::optional<ModelShape> named_shape(std::string_view name) {
    if (name == "stories15m" || name == "110m") {  // the sizes of llama2.c's models
        ModelShape shape =
            name == "110m" ? llama(12, 768, 2048, 12, 12, 32000, 1024) : llama(6, 288, 768, 6, 6, 32000, 256);
        shape.tied_embeddings = true;
        return shape;
    }
    if (name == "tinyllama-1.1b") { return llama(22, 2048, 5632, 32, 4, 32000, 2048); }
    if (name == "llama-3.2-1b") {
        ModelShape shape = llama(16, 2048, 8192, 32, 8, 128256, 131072);
        shape.tied_embeddings = true;
        shape.rope_theta = 500000.0;
        shape.rope_scaling = {base::RopeScaling::Kind::llama3, 32.0, 1.0, 4.0, 8192};
        return shape;
    }
    if (name == "llama-3.1-8b") {
        ModelShape shape = llama(32, 4096, 14336, 32, 8, 128256, 131072);
        shape.rope_theta = 500000.0;
        shape.rope_scaling = {base::RopeScaling::Kind::llama3, 8.0, 1.0, 4.0, 8192};
        return shape;
    }
    if (name == "qwen3-0.6b") {
        ModelShape shape = llama(28, 1024, 3072, 16, 8, 151936, 40960);
        shape.architecture = "Qwen3ForCausalLM";
        shape.head_dim = 128;
        shape.qk_norm = true;
        shape.tied_embeddings = true;
        shape.rms_norm_eps = 1e-6;
        shape.rope_theta = 1000000.0;
        return shape;
    }
    // The KV of llama-3.1-8b on a model that computes a 36th: for what KV costs on its way.
    if (name == "kv-8b") { return llama(32, 1024, 256, 8, 8, 32000, 131072); }
    return std::nullopt;
}

Result<void> make_model(const ModelMakeOptions& options) {
    return make(options, {});
}

void add_model_make(CLI::App& command, ModelMakeOptions& options) {
    command
        .add_option("--shape", options.shape,
                    "stories15m, 110m, tinyllama-1.1b, llama-3.2-1b, llama-3.1-8b, qwen3-0.6b or kv-8b")
        ->required();
    command.add_option("OUT_DIR", options.out_dir, "folder to write")->required();
    command.add_option("--dtype", options.dtype, "f32, bf16 or f16")->capture_default_str();
    command.add_option("--seed", options.seed, "of the random weights")->capture_default_str();
    command.add_option("--layers", options.layers, "other than the shape's");
    command.add_option("--shard-bytes", options.shard_bytes, "longest file of weights")->capture_default_str();
    command.add_flag("--force", options.force, "write into a folder that is not empty");
}

int model_make_main(const ModelMakeOptions& options) {
    const bool terminal = ::isatty(STDERR_FILENO) != 0;
    std::uint64_t shown = 101;
    const auto done = make(options, [&](std::uint64_t written, std::uint64_t total) {
        const std::uint64_t percent = total == 0 ? 100 : written * 100 / total;
        if (!terminal || percent == shown) { return; }
        shown = percent;
        std::fprintf(stderr, "\rwriting weights: %3u %%%s", static_cast<unsigned>(percent), percent == 100 ? "\n" : "");
    });
    if (!done) {
        std::fprintf(stderr, "model make: %s\n", done.error().message.c_str());
        return 1;
    }
    const auto shape = wanted_shape(options);
    std::printf("%s: %s, %.1f million parameters in %s, random (seed %llu)\n", options.out_dir.c_str(),
                options.shape.c_str(), static_cast<double>(shape->parameters()) / 1e6, options.dtype.c_str(),
                static_cast<unsigned long long>(options.seed));
    return 0;
}

}  // namespace cli
