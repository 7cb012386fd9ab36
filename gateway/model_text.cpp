#include "gateway/model_text.h"

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
    explicit ModelTextPort(text::ModelText model) : model_(std::move(model)) {
        const auto size = static_cast<base::TokenId>(model_.tokenizer->vocabulary_size());
        for (base::TokenId token = 0; token < size; ++token) {
            if (!model_.tokenizer->is_special(token)) { continue; }
            if (const auto name = model_.tokenizer->token_bytes(token); !name.empty()) {
                special_texts_.emplace_back(name);
            }
        }
        const text::GenerationDefaults& given = model_.defaults;
        defaults_ = {.temperature = given.temperature,
                     .top_p = given.top_p,
                     .min_p = given.min_p,
                     .top_k = given.top_k,
                     .repetition_penalty = given.repetition_penalty};
    }

    base::Result<std::vector<base::TokenId>> encode(std::string_view utf8, bool add_special,
                                                    bool parse_special) const override {
        return model_.tokenizer->encode(utf8, {.add_special = add_special, .parse_special = parse_special});
    }
    std::string token_bytes(base::TokenId token) const override {
        return std::string(model_.tokenizer->token_bytes(token));
    }
    std::unique_ptr<Detokenizer> detokenizer(bool skip_special) const override {
        return std::make_unique<ModelDetokenizer>(model_.tokenizer, skip_special);
    }
    base::Result<std::string> render_chat(std::string_view context_json, std::int64_t now_unix_s) const override {
        if (!model_.chat_template) {
            return base::fail(base::ErrorCode::unimplemented,
                              "this model has no chat template" +
                                  (model_.chat_template_problem.empty() ? "" : ": " + model_.chat_template_problem));
        }
        auto context = model_.with_variables(context_json);
        if (!context) { return base::pass_on(context); }
        return model_.chat_template->render(*context, text::local_time(now_unix_s * 1'000'000));
    }
    const std::vector<std::string>& special_texts() const override { return special_texts_; }
    const std::vector<base::TokenId>& eos_ids() const override { return model_.eos_ids; }
    std::uint32_t vocabulary() const override {
        return static_cast<std::uint32_t>(model_.tokenizer->vocabulary_size());
    }
    const SamplingDefaults& sampling_defaults() const override { return defaults_; }

private:
    text::ModelText model_;
    std::vector<std::string> special_texts_;
    SamplingDefaults defaults_;
};

}  // namespace

std::shared_ptr<const TextPort> make_text_port(text::ModelText model) {
    return std::make_shared<ModelTextPort>(std::move(model));
}

}  // namespace gateway
