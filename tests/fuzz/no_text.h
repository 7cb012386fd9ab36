#pragma once
// What the fuzzers of request forms read them for: two models that know a hundred tokens and no text.
#include <boost/json/parse_options.hpp>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gateway/openai/request_form.h"
#include "gateway/request/models.h"

namespace fuzz {

/// Forms are read before any text becomes tokens.
class NoText final : public gateway::TextPort {
public:
    base::Result<void> check_grammar(const sluice::proto::Grammar&) const override { return {}; }
    base::Result<std::vector<base::TokenId>> encode(std::string_view, bool, bool,
                                                    std::span<const std::size_t>) const override {
        return std::vector<base::TokenId>{1};
    }
    std::string token_bytes(base::TokenId) const override { return "x"; }
    std::unique_ptr<gateway::Detokenizer> detokenizer(bool) const override { return nullptr; }
    base::Result<std::string> render_chat(std::string_view, std::int64_t) const override { return std::string(); }
    const gateway::SpecialTexts& special_texts() const override { return special_texts_; }
    const std::vector<base::TokenId>& eos_ids() const override { return eos_ids_; }
    bool takes_tools() const override { return true; }
    std::vector<std::pair<std::string, std::string>> named_tokens() const override { return {}; }
    std::optional<base::TokenId> bos() const override { return 1; }
    std::uint32_t vocabulary() const override { return 100; }
    const gateway::SamplingDefaults& sampling_defaults() const override { return defaults_; }

private:
    gateway::SpecialTexts special_texts_{{}, {}};
    std::vector<base::TokenId> eos_ids_{2};
    gateway::SamplingDefaults defaults_;
};

inline const gateway::Models& models() {
    static const gateway::Models made = [] {
        auto two = gateway::Models::make(
            {{.name = "text", .text = std::make_shared<NoText>(), .aliases = {}, .kind = gateway::ModelKind::text},
             {.name = "vectors",
              .text = std::make_shared<NoText>(),
              .aliases = {},
              .kind = gateway::ModelKind::vectors}},
            {"other=text"});
        if (!two) { std::abort(); }
        return std::move(*two);
    }();
    return made;
}

inline bool in_bounds(const gateway::RequestForm& form, const gateway::FormLimits& limits) {
    return form.model < models().size() && form.n >= 1 && form.n <= limits.n_max &&
           form.stop_strings.size() <= limits.stop_strings_max && form.logit_bias.size() <= limits.logit_bias_max &&
           std::isfinite(form.temperature.value_or(1)) && std::isfinite(form.top_p.value_or(1)) &&
           std::isfinite(form.presence_penalty) && std::isfinite(form.frequency_penalty) &&
           form.prompts.size() <= limits.inputs_max;
}

/// What we write may be some levels deeper than what a client may send.
inline boost::json::parse_options deep() {
    boost::json::parse_options options;
    options.max_depth = 256;
    return options;
}

}  // namespace fuzz
