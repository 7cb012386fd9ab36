#include "text/gguf_text.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/shim_call.h"
#include "text/template_sources.h"
#include "text/token_ids.h"

namespace text {
namespace {

using base::ErrorCode;
using base::GgufModel;
using base::GgufType;
using base::GgufValue;

constexpr std::uint64_t kTokensMax = 1u << 22;  // no vocabulary of today is near this
constexpr std::int32_t kControl = 3;            // of tokenizer.ggml.token_type

std::string ggml(std::string_view name) {
    return "tokenizer.ggml." + std::string(name);
}

tl::unexpected<base::Error> wrong(const std::string& key, const GgufValue& value, const std::string& wanted) {
    return base::fail(ErrorCode::data_loss, key + " is " + value.shown() + ", must be " + wanted);
}

/// A list's bytes; empty where the file has none.
base::Result<SluiceBytes> list(const GgufModel& model, std::string_view name, std::initializer_list<GgufType> items,
                               const std::string& wanted) {
    const GgufValue* value = model.find(ggml(name));
    if (value == nullptr) { return SluiceBytes{nullptr, 0}; }
    const bool is_right = std::find(items.begin(), items.end(), value->item_type()) != items.end();
    if (value->type() != GgufType::array || !is_right || value->count() > kTokensMax) {
        return wrong(ggml(name), *value, "an array of at most " + std::to_string(kTokensMax) + " " + wanted);
    }
    return SluiceBytes{reinterpret_cast<const std::uint8_t*>(value->bytes().data()), value->bytes().size()};
}

base::Result<SluiceBytes> string(const GgufModel& model, std::string_view name) {
    const GgufValue* value = model.find(ggml(name));
    if (value == nullptr) { return SluiceBytes{nullptr, 0}; }
    const auto text = value->string();
    if (!text) { return wrong(ggml(name), *value, "a string"); }
    return shim_bytes(*text);
}

/// -1 where the file does not say, or says -1 as an unsigned number: no such token.
base::Result<std::int64_t> token_id(const GgufModel& model, std::string_view name) {
    const GgufValue* value = model.find(ggml(name));
    if (value == nullptr) { return -1; }
    const auto id = value->integer();
    if (!id) { return wrong(ggml(name), *value, "a token's id"); }
    if (*id == std::numeric_limits<std::uint32_t>::max() || *id < 0) { return -1; }
    if (*id > std::numeric_limits<base::TokenId>::max()) { return wrong(ggml(name), *value, "a token's id"); }
    return *id;
}

base::Result<std::int32_t> flag(const GgufModel& model, std::string_view name) {
    const GgufValue* value = model.find(ggml(name));
    if (value == nullptr) { return -1; }
    const auto set = value->boolean();
    if (!set) { return wrong(ggml(name), *value, "true or false"); }
    return *set ? 1 : 0;
}

/// Texts of tokens after which nothing more is to be said, for files that name one of several end tokens only: the
/// lists in generation_config.json are lost when a file is converted.
constexpr std::array<std::string_view, 12> kEndTexts = {
    "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|end|>",
    "</s>",       "<end_of_turn>", "<|return|>", "<EOT>",      "[EOS]",           "<｜end▁of▁sentence｜>"};

/// Every token that ends a text, ascending: those that the file names, and control tokens by their texts. One beyond
/// the vocabulary is left out and told in `warnings`.
base::Result<std::vector<base::TokenId>> end_ids(const GgufModel& model, const std::vector<std::string_view>& tokens,
                                                 std::vector<std::string>& warnings) {
    std::vector<base::TokenId> ids;
    for (const char* name : {"eos_token_id", "eot_token_id", "eom_token_id"}) {
        const auto id = token_id(model, name);
        if (!id) { return base::pass_on(id); }
        if (*id >= 0 && static_cast<std::size_t>(*id) < tokens.size()) {
            ids.push_back(static_cast<base::TokenId>(*id));
        } else if (*id >= 0) {
            warnings.push_back(ggml(name) + " is " + std::to_string(*id) + ", there are " +
                               std::to_string(tokens.size()) + " tokens: it is left out");
        }
    }
    const GgufValue* types = model.find(ggml("token_type"));
    const auto kinds = types == nullptr ? std::nullopt : types->integers();
    for (std::size_t id = 0; kinds && id < std::min(tokens.size(), kinds->size()); ++id) {
        if ((*kinds)[id] != kControl) { continue; }
        if (std::find(kEndTexts.begin(), kEndTexts.end(), tokens[id]) != kEndTexts.end()) {
            ids.push_back(static_cast<base::TokenId>(id));
        }
    }
    std::sort(ids.begin(), ids.end());
    ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
    return ids;
}

/// Variables of chat templates, as tokenizer_config.json has them.
base::Result<std::vector<std::pair<std::string, std::string>>> template_variables(
    const GgufModel& model, const std::vector<std::string_view>& tokens) {
    static constexpr std::array<std::pair<const char*, const char*>, 7> kNames = {
        {{"bos_token", "bos_token_id"},
         {"eos_token", "eos_token_id"},
         {"unk_token", "unknown_token_id"},
         {"sep_token", "seperator_token_id"},  // spelt so in the format
         {"pad_token", "padding_token_id"},
         {"cls_token", "cls_token_id"},
         {"mask_token", "mask_token_id"}}};
    std::vector<std::pair<std::string, std::string>> variables;
    for (const auto& [name, key] : kNames) {
        const auto id = token_id(model, key);
        if (!id) { return base::pass_on(id); }
        if (*id >= 0 && static_cast<std::size_t>(*id) < tokens.size()) {
            variables.emplace_back(name, std::string(tokens[static_cast<std::size_t>(*id)]));
        }
    }
    return variables;
}

base::Result<std::optional<std::string>> template_source(const GgufModel& model, const std::string& key) {
    const GgufValue* value = model.find(key);
    if (value == nullptr) { return std::optional<std::string>(); }
    const auto text = value->string();
    if (!text) { return wrong(key, *value, "a string"); }
    return std::optional<std::string>(*text);
}

GenerationDefaults sampling_of(const GgufModel& model) {
    const auto number = [&](const char* name) -> std::optional<double> {
        const GgufValue* value = model.find(std::string("general.sampling.") + name);
        return value == nullptr ? std::nullopt : value->number();
    };
    GenerationDefaults defaults;
    defaults.temperature = number("temp");
    defaults.top_p = number("top_p");
    defaults.min_p = number("min_p");
    defaults.repetition_penalty = number("penalty_repeat");
    const auto top_k = number("top_k");
    if (top_k && *top_k >= 0 && *top_k <= std::numeric_limits<int>::max()) {
        defaults.top_k = static_cast<int>(*top_k);
    }
    return defaults;
}

base::Result<void> read_text(const GgufModel& model, ModelText& text) {
    const GgufValue* value = model.find(ggml("tokens"));
    const std::vector<std::string_view> tokens =
        value == nullptr ? std::vector<std::string_view>() : value->strings().value_or(std::vector<std::string_view>());
    auto variables = template_variables(model, tokens);
    if (!variables) { return base::pass_on(variables); }
    text.template_variables = std::move(*variables);
    auto ends = end_ids(model, tokens, text.warnings);
    if (!ends) { return base::pass_on(ends); }
    text.eos_ids = std::move(*ends);
    text.bos = text.tokenizer->bos();
    text.defaults = sampling_of(model);
    check_defaults(text.defaults, "general.sampling.", text.warnings);

    TemplateSources sources;
    for (const auto& [key, source] : {std::pair("tokenizer.chat_template", &sources.chat),
                                      std::pair("tokenizer.chat_template.tool_use", &sources.tool)}) {
        auto found = template_source(model, key);
        if (!found) { return base::pass_on(found); }
        *source = std::move(*found);
    }
    sources.chat_from = "tokenizer.chat_template";
    sources.tool_from = "tokenizer.chat_template.tool_use";
    compile_templates(sources, "tokenizer.chat_template in the file's metadata", text);
    return {};
}

}  // namespace

base::Result<SluiceGgufVocabulary> gguf_vocabulary(const GgufModel& model) {
    const auto kind = string(model, "model");
    if (!kind) { return base::pass_on(kind); }
    if (kind->size == 0) { return base::fail(ErrorCode::data_loss, "tokenizer.ggml.model is missing"); }
    const auto pre = string(model, "pre");
    if (!pre) { return base::pass_on(pre); }
    const auto tokens = list(model, "tokens", {GgufType::string}, "strings");
    if (!tokens) { return base::pass_on(tokens); }
    const auto merges = list(model, "merges", {GgufType::string}, "strings");
    if (!merges) { return base::pass_on(merges); }
    const auto scores = list(model, "scores", {GgufType::f32}, "float numbers");
    if (!scores) { return base::pass_on(scores); }
    const auto types = list(model, "token_type", {GgufType::i32, GgufType::u32}, "32-bit integers");
    if (!types) { return base::pass_on(types); }
    SluiceGgufVocabulary vocabulary{.model = *kind,
                                    .pre = *pre,
                                    .tokens = *tokens,
                                    .merges = *merges,
                                    .scores = *scores,
                                    .types = *types,
                                    .bos = -1,
                                    .eos = -1,
                                    .unknown = -1,
                                    .adds_bos = -1,
                                    .adds_eos = -1,
                                    .adds_space = -1};
    for (const auto& [name, target] :
         {std::pair("bos_token_id", &vocabulary.bos), std::pair("eos_token_id", &vocabulary.eos),
          std::pair("unknown_token_id", &vocabulary.unknown)}) {
        const auto id = token_id(model, name);
        if (!id) { return base::pass_on(id); }
        *target = *id;
    }
    for (const auto& [name, target] :
         {std::pair("add_bos_token", &vocabulary.adds_bos), std::pair("add_eos_token", &vocabulary.adds_eos),
          std::pair("add_space_prefix", &vocabulary.adds_space)}) {
        const auto set = flag(model, name);
        if (!set) { return base::pass_on(set); }
        *target = *set;
    }
    return vocabulary;
}

base::Result<ModelText> load_gguf_text(const std::filesystem::path& path, const TokenizerOptions& options) {
    ModelText text;
    auto tokenizer = Tokenizer::load(path, options);
    if (!tokenizer) { return base::pass_on(tokenizer); }
    text.tokenizer = std::move(*tokenizer);
    const auto model = GgufModel::open(path, GgufModel::Parts::first);
    if (!model) { return base::pass_on(model); }
    if (auto read = read_text(*model, text); !read) { return base::pass_on(read, path.string()); }
    return text;
}

}  // namespace text
