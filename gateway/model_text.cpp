#include "gateway/model_text.h"

#include <algorithm>
#include <array>
#include <deque>
#include <mutex>
#include <optional>
#include <utility>

#include "gateway/openai/tool_stream.h"
#include "text/civil_time.h"
#include "text/detokenizer.h"
#include "text/grammar.h"

namespace gateway {
namespace {

class ModelDetokenizer final : public Detokenizer {
public:
    ModelDetokenizer(std::shared_ptr<const text::Tokenizer> tokenizer, bool skip_special)
        : stream_(std::move(tokenizer), text::DecodeOptions{.skip_special = skip_special}) {}
    std::string push(base::TokenId token) override { return stream_.push(token); }
    std::string flush() override { return stream_.flush(); }

private:
    text::StreamDetokenizer stream_;
};

text::GrammarKind grammar_kind(proto::Grammar::Kind kind) {
    switch (kind) {
        case proto::Grammar::KIND_JSON_OBJECT:
            return text::GrammarKind::json_object;
        case proto::Grammar::KIND_REGEX:
            return text::GrammarKind::regex;
        case proto::Grammar::KIND_CHOICE:
            return text::GrammarKind::choice;
        case proto::Grammar::KIND_LARK:
            return text::GrammarKind::lark;
        default:
            return text::GrammarKind::json_schema;
    }
}

/// Grammars that were found good lately, so that an application's own one is not checked with each request.
class CheckedGrammars {
public:
    bool holds(const text::GrammarSource& source) const {
        const std::lock_guard lock(mutex_);
        return std::find(kept_.begin(), kept_.end(), source) != kept_.end();
    }
    void keep(const text::GrammarSource& source) {
        const std::lock_guard lock(mutex_);
        if (source.text.size() > kBytesMax || std::find(kept_.begin(), kept_.end(), source) != kept_.end()) { return; }
        bytes_ += source.text.size();
        kept_.push_back(source);
        while (kept_.size() > kCountMax || bytes_ > kBytesMax) {
            bytes_ -= kept_.front().text.size();
            kept_.pop_front();
        }
    }

private:
    static constexpr std::size_t kCountMax = 256;
    static constexpr std::size_t kBytesMax = 4 << 20;
    mutable std::mutex mutex_;
    std::deque<text::GrammarSource> kept_;  // the oldest first; guarded by mutex_
    std::size_t bytes_ = 0;                 // guarded by mutex_
};

class ModelTextPort final : public TextPort {
public:
    explicit ModelTextPort(text::ModelText model)
        : model_(std::move(model)), special_texts_(special_texts_of(*model_.tokenizer), model_.control_texts) {
        const text::GenerationDefaults& given = model_.defaults;
        defaults_ = {.temperature = given.temperature,
                     .top_p = given.top_p,
                     .min_p = given.min_p,
                     .top_k = given.top_k,
                     .repetition_penalty = given.repetition_penalty};
        takes_tools_ = shows_tools();
        style_ = style_of();
        fill_marks_ = fill_marks_of();
    }

    base::Result<std::vector<base::TokenId>> encode(std::string_view utf8, bool add_special, bool parse_special,
                                                    std::span<const std::size_t> text_starts) const override {
        return model_.tokenizer->encode(
            utf8, {.add_special = add_special, .parse_special = parse_special, .text_starts = text_starts});
    }
    std::size_t token_bytes_max() const override {
        const std::uint64_t proven = model_.tokenizer->text_bytes_per_token();
        return proven > 0 ? proven : text::Tokenizer::kUnprovenBytesPerToken;
    }
    std::string token_bytes(base::TokenId token) const override {
        return std::string(model_.tokenizer->token_bytes(token));
    }
    std::unique_ptr<Detokenizer> detokenizer(bool skip_special) const override {
        return std::make_unique<ModelDetokenizer>(model_.tokenizer, skip_special);
    }
    base::Result<std::string> render_chat(std::string_view context_json, std::int64_t now_unix_s) const override {
        return model_.render_chat(context_json, text::local_time(now_unix_s * 1'000'000));
    }
    base::Result<std::string> render_by(std::string_view source, std::string_view context_json,
                                        std::int64_t now_unix_s) const override {
        return model_.render_by(source, context_json, text::local_time(now_unix_s * 1'000'000));
    }
    base::Result<void> check_grammar(const proto::Grammar& grammar) const override {
        const auto kind = grammar_kind(grammar.kind());
        const text::GrammarSource source{kind, grammar.text()};
        if (grammars_.holds(source)) { return {}; }
        auto checked = model_.tokenizer->check_grammar(source);
        if (checked) { grammars_.keep(source); }
        return checked;
    }
    const SpecialTexts& special_texts() const override { return special_texts_; }
    const std::vector<base::TokenId>& eos_ids() const override { return model_.eos_ids; }
    std::optional<base::TokenId> bos() const override { return model_.bos; }
    bool takes_tools() const override { return takes_tools_; }
    AnswerStyle answer_style() const override { return style_; }
    std::optional<FillMarks> fill_marks() const override { return fill_marks_; }
    std::vector<std::pair<std::string, std::string>> named_tokens() const override { return model_.template_variables; }
    std::uint32_t vocabulary() const override {
        const std::size_t of_model = model_.vocabulary;
        return static_cast<std::uint32_t>(of_model > 0 ? of_model : model_.tokenizer->vocabulary_size());
    }
    const SamplingDefaults& sampling_defaults() const override { return defaults_; }

private:
    static std::vector<std::string> special_texts_of(const text::Tokenizer& tokenizer) {
        std::vector<std::string> texts;
        const auto size = static_cast<base::TokenId>(tokenizer.vocabulary_size());
        for (base::TokenId token = 0; token < size; ++token) {
            if (tokenizer.is_special(token)) { texts.emplace_back(tokenizer.token_bytes(token)); }
        }
        return texts;
    }

    /// How answers hold calls: found out by rendering one, with its result, and looking for the marks of each form.
    AnswerStyle style_of() const {
        AnswerStyle style;
        const std::string call =
            R"({"type":"function","id":"abc123def","function":{"name":"sluice_looks_for_this_tool",)"
            R"("arguments":{"city":"x"}}})";
        const std::string tools =
            R"("tools":[{"type":"function","function":{"name":"sluice_looks_for_this_tool","description":"a tool",)"
            R"("parameters":{"type":"object","properties":{"city":{"type":"string","description":"a city"}},)"
            R"("required":["city"]}}}])";
        std::string rendered;
        for (const std::string& messages :
             {R"([{"role":"user","content":"hello"},{"role":"assistant","content":"","tool_calls":[)" + call +
                  R"(]},{"role":"tool","tool_call_id":"abc123def","content":"y"}])",
              std::string(R"([{"role":"user","content":"hello"}])")}) {
            if (const auto one =
                    render_chat("{\"messages\":" + messages + ",\"add_generation_prompt\":true," + tools + "}", 0)) {
                rendered += *one;
            }
        }
        const auto has = [&](std::string_view mark) { return rendered.find(mark) != std::string::npos; };
        if (takes_tools_) { style.tools = ToolFormat::json; }
        if (has("<|python_tag|>") || has("\"parameters\": {\"city\"")) { style.tools = ToolFormat::llama3; }
        for (const ToolFormat format : {ToolFormat::hermes, ToolFormat::mistral, ToolFormat::deepseek}) {
            if (has(tool_marks(format).front())) { style.tools = format; }
        }
        for (const std::string& mark : tool_marks(style.tools)) {
            const auto token = model_.tokenizer->token_of(mark);
            style.marks_are_special |= token && model_.tokenizer->is_special(*token);
        }
        for (const std::string_view mark : special_marks(style.tools)) {
            const auto token = model_.tokenizer->token_of(mark);
            style.marks.push_back(token && model_.tokenizer->is_special(*token) ? *token : -1);
        }
        const auto begin = model_.tokenizer->token_of("<think>");
        const auto end = model_.tokenizer->token_of("</think>");
        style.reasons = begin && end;
        if (style.reasons) {
            style.reasoning_begin = *begin;
            style.reasoning_end = *end;
        }
        style.marks_are_special |= style.reasons && model_.tokenizer->is_special(*end);
        return style;
    }

    /// By the names that families of models give them: Qwen's and CodeGemma's, StarCoder's and Granite's, SantaCoder's,
    /// DeepSeek's. All of them put the marks in this order.
    std::optional<FillMarks> fill_marks_of() const {
        constexpr std::array<std::array<std::string_view, 3>, 4> kFamilies = {
            {{"<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"},
             {"<fim_prefix>", "<fim_suffix>", "<fim_middle>"},
             {"<fim-prefix>", "<fim-suffix>", "<fim-middle>"},
             {"<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"}}};
        constexpr std::array<std::string_view, 8> kEnds = {"<|endoftext|>", "<|fim_pad|>",        "<|repo_name|>",
                                                           "<|file_sep|>",  "<|file_separator|>", "<fim_pad>",
                                                           "<fim-pad>",     "<file_sep>"};
        const text::Tokenizer& tokenizer = *model_.tokenizer;
        for (const auto& [prefix, suffix, middle] : kFamilies) {
            const auto first = tokenizer.token_of(prefix);
            const auto second = tokenizer.token_of(suffix);
            const auto third = tokenizer.token_of(middle);
            if (!first || !second || !third) { continue; }
            FillMarks marks{.prefix = *first, .suffix = *second, .middle = *third, .ends = {*first, *second, *third}};
            for (const std::string_view name : kEnds) {
                if (const auto end = tokenizer.token_of(name)) { marks.ends.push_back(*end); }
            }
            return marks;
        }
        return std::nullopt;
    }

    /// Found out by rendering a tool with a name that no template has of itself.
    bool shows_tools() const {
        constexpr std::string_view kName = "sluice_looks_for_this_tool";
        const std::string context =
            R"({"messages":[{"role":"user","content":"hello"}],"add_generation_prompt":true,"tools":[{"type":"function",)"
            R"("function":{"name":")" +
            std::string(kName) +
            R"(","description":"a tool","parameters":{"type":"object","properties":{"city":{"type":"string",)"
            R"("description":"a city"}},"required":["city"]}}}]})";
        const auto rendered = render_chat(context, 0);
        return rendered && rendered->find(kName) != std::string::npos;
    }

    text::ModelText model_;
    SpecialTexts special_texts_;
    SamplingDefaults defaults_;
    mutable CheckedGrammars grammars_;
    bool takes_tools_ = false;
    AnswerStyle style_;
    std::optional<FillMarks> fill_marks_;
};

}  // namespace

std::shared_ptr<const TextPort> make_text_port(text::ModelText model) {
    return std::make_shared<ModelTextPort>(std::move(model));
}

}  // namespace gateway
