#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "base/sampling_ranges.h"
#include "gateway/openai/embedding_form.h"
#include "gateway/openai/prepare.h"
#include "gateway/openai/request_form.h"
#include "tests/gateway/support.h"

#include "tests/support/catch.h"

namespace {

using gateway::Endpoint;
using gateway_test::ByteText;
using gateway_test::Tokens;

/// Knows that a token of it is one byte, and counts what it encodes.
class CountingText final : public ByteText {
public:
    CountingText() { bytes_max = 1; }
    base::Result<Tokens> encode(std::string_view text, bool add_special, bool parse_special,
                                std::span<const std::size_t> text_starts) const override {
        ++encoded;
        return ByteText::encode(text, add_special, parse_special, text_starts);
    }
    mutable std::size_t encoded = 0;
};

const gateway::Models& models() {
    static const gateway::Models kModels = gateway_test::make_models({"m"}, {});
    return kModels;
}

gateway::ApiResult<gateway::PreparedRequest> prepared(gateway::RequestForm form, const gateway::TextPort& text) {
    gateway::ClusterView cluster;
    cluster.context_tokens = 1000;
    cluster.block_tokens = 4;
    const gateway::FormLimits limits;
    const gateway::PrepareContext context{
        .limits = limits, .text = text, .cluster = cluster, .hash_key = {}, .now_unix_s = 0};
    if (form.endpoint == Endpoint::embeddings) { return gateway::prepare_embedding(std::move(form), context); }
    return gateway::prepare(std::move(form), context);
}

gateway::RequestForm form_of(Endpoint endpoint, std::size_t bytes, const std::string& fields = "") {
    const std::string text = "\"" + std::string(bytes, 'a') + "\"";
    const std::string body = endpoint == Endpoint::chat
                                 ? R"({"messages":[{"role":"user","content":)" + text + "}]" + fields + "}"
                                 : R"({"prompt":)" + text + fields + "}";
    auto form = gateway::read_form(endpoint, body, {}, models());
    REQUIRE(form);
    return std::move(*form);
}

std::string with(const std::string& field, double value) {
    char text[64];
    std::snprintf(text, sizeof text, "%.17g", value);
    return R"({"prompt":"a",")" + field + "\":" + text + "}";
}

}  // namespace

TEST_CASE("a text that cannot fit is refused before it becomes tokens", "[gateway][form]") {
    const CountingText text;
    for (const Endpoint endpoint : {Endpoint::chat, Endpoint::completions}) {
        const auto refused = prepared(form_of(endpoint, 1'000'000), text);
        REQUIRE_FALSE(refused);
        REQUIRE(refused.error().status == 400u);
        REQUIRE(refused.error().code == "context_length_exceeded");
        REQUIRE(refused.error().param == (endpoint == Endpoint::chat ? "messages" : "prompt"));
        REQUIRE(refused.error().prompt_tokens == 1'000'000u);
        REQUIRE(refused.error().context_tokens == 1000u);
        REQUIRE(refused.error().message.find("1000000 bytes") != std::string::npos);
    }
    gateway::RequestForm vectors{.endpoint = Endpoint::embeddings};
    vectors.prompts = {std::string(1'000'000, 'a')};
    REQUIRE(prepared(std::move(vectors), text).error().code == "context_length_exceeded");
    REQUIRE(text.encoded == 0u);
    REQUIRE(prepared(form_of(Endpoint::completions, 900), text));
    REQUIRE(text.encoded == 1u);
    // Of a text of which only the end is kept, some more may come; not any amount.
    REQUIRE(prepared(form_of(Endpoint::completions, 5000, R"(,"truncate_prompt_tokens":10)"), text));
    REQUIRE_FALSE(prepared(form_of(Endpoint::completions, 100'000, R"(,"truncate_prompt_tokens":10)"), text));
    REQUIRE(text.encoded == 2u);
    // Who does not know how long its tokens are has to encode.
    REQUIRE(prepared(form_of(Endpoint::completions, 5000), ByteText()).error().prompt_tokens.value_or(0) >= 5000u);
}

TEST_CASE("values of sampling beyond the one list are refused with their name", "[gateway][form]") {
    const std::vector<std::pair<std::string, base::NumberRange>> ranges = {
        {"temperature", base::kTemperatureRange},
        {"top_p", base::kTopPRange},
        {"min_p", base::kMinPRange},
        {"repetition_penalty", base::kRepetitionPenaltyRange},
        {"presence_penalty", base::kPresencePenaltyRange},
        {"frequency_penalty", base::kFrequencyPenaltyRange},
    };
    const auto read = [](const std::string& body) {
        return gateway::read_form(Endpoint::completions, body, {}, models());
    };
    for (const auto& [field, range] : ranges) {
        CAPTURE(field);
        CHECK(read(with(field, range.low)));
        CHECK(read(with(field, range.high)));
        for (const double beyond : {std::nextafter(range.low, -1e9), std::nextafter(range.high, 1e9), 1e308, -1e308}) {
            CAPTURE(beyond);
            const auto refused = read(with(field, beyond));
            REQUIRE_FALSE(refused);
            CHECK(refused.error().status == 400u);
            CHECK(refused.error().param == field);
        }
    }
    CHECK(read(R"({"prompt":"a","logit_bias":{"1":101}})").error().param == "logit_bias");
    CHECK(read(R"({"prompt":"a","top_k":-2})").error().param == "top_k");
    CHECK(read(R"({"prompt":"a","logprobs":21})").error().param == "logprobs");
    CHECK(read(R"({"prompt":"a","logprobs":20})"));
}
