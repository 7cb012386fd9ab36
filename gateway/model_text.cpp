#include "gateway/model_text.h"

#include <algorithm>
#include <utility>

#include "text/civil_time.h"
#include "text/detokenizer.h"

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
    const SpecialTexts& special_texts() const override { return special_texts_; }
    const std::vector<base::TokenId>& eos_ids() const override { return model_.eos_ids; }
    std::optional<base::TokenId> bos() const override { return model_.bos; }
    bool takes_tools() const override { return takes_tools_; }
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
    bool takes_tools_ = false;
};

}  // namespace

std::shared_ptr<const TextPort> make_text_port(text::ModelText model) {
    return std::make_shared<ModelTextPort>(std::move(model));
}

}  // namespace gateway
