// A text completion whose client says what stands behind it (`suffix`).
#include <algorithm>
#include <string>

#include "gateway/openai/prepare.h"
#include "tests/gateway/support.h"
#include "tests/support/catch.h"

namespace {

using gateway_test::ByteText;
using gateway_test::kEnd;
using gateway_test::kEos;

gateway::ApiResult<gateway::PreparedRequest> prepared(const std::string& fields, const ByteText& text,
                                                      gateway::Endpoint endpoint = gateway::Endpoint::completions) {
    const gateway::Models models = gateway_test::make_models({"m"});
    const auto form = gateway::read_form(endpoint, "{" + fields + "}", {}, models);
    if (!form) { return tl::unexpected(form.error()); }
    gateway::ClusterView cluster;
    cluster.context_tokens = 100;
    return gateway::prepare(*form, {.limits = {}, .text = text, .cluster = cluster, .hash_key = {}, .now_unix_s = 0});
}

/// The prompts, with marks as the letters that they are here.
std::string shown(const gateway::ApiResult<gateway::PreparedRequest>& made, const ByteText& text) {
    if (!made) { return made.error().param.value_or("?") + ": " + made.error().message; }
    std::string result;
    for (const auto& prompt : made->prompts) {
        for (const base::TokenId token : *prompt.tokens) {
            result += text.token_bytes(token);
        }
        result += "|";
    }
    return result;
}

ByteText with_marks() {
    ByteText text;
    text.fill = gateway::FillMarks{.prefix = 'P', .suffix = 'S', .middle = 'M', .ends = {kEnd}};
    return text;
}

}  // namespace

TEST_CASE("what stands before and behind a text comes with the model's marks", "[gateway][openai]") {
    const ByteText text = with_marks();
    const auto of = [&](const std::string& fields) { return shown(prepared(fields, text), text); };
    CHECK(of(R"("prompt":"ab","suffix":"cd")") == "<s>PabScdM|");
    CHECK(of(R"("prompt":"","suffix":"cd")") == "<s>PScdM|");
    CHECK(of(R"("prompt":"ab","suffix":"cd","add_special_tokens":false)") == "PabScdM|");
    CHECK(of(R"("prompt":["a","b"],"suffix":"c")") == "<s>PaScM|<s>PbScM|");
    CHECK(of(R"("prompt":[[97],[256,98]],"suffix":"c")") == "PaScM|<s>PbScM|");
    CHECK(of(R"("prompt":"ab","suffix":"")") == "<s>ab|");
    CHECK(of(R"("prompt":"ab","suffix":null)") == "<s>ab|");
    const std::string long_text(80, 'x');
    CHECK(of(R"("prompt":"a","suffix":")" + long_text + R"(","max_tokens":1)").ends_with(long_text + "M|"));
    CHECK(of(R"("prompt":")" + long_text + R"(","suffix":")" + long_text + "\"").starts_with("prompt: "));
}

TEST_CASE("where a suffix cannot be kept to it is refused", "[gateway][openai]") {
    const ByteText text = with_marks();
    const ByteText plain;
    CHECK(shown(prepared(R"("prompt":"a","suffix":"b")", plain), plain)
              .starts_with("suffix: 'suffix' is not supported by"));
    CHECK(shown(prepared(R"("prompt":"a","suffix":"")", plain), plain) == "<s>a|");
    for (const char* more : {R"("echo":true)", R"("truncate_prompt_tokens":3)"}) {
        CAPTURE(more);
        CHECK(shown(prepared(R"("prompt":"a","suffix":"b",)" + std::string(more), text), text).starts_with("suffix: "));
    }
    CHECK(shown(prepared(R"("prompt":"a","suffix":5)", text), text).starts_with("suffix: "));
    CHECK(shown(prepared(R"("messages":[{"role":"user","content":"a"}],"suffix":"b")", text, gateway::Endpoint::chat),
                text)
              .starts_with("suffix: "));
}

TEST_CASE("the middle of a text ends where the model has no more of it", "[gateway][openai]") {
    const ByteText text = with_marks();
    const auto stops_of = [&](const std::string& fields) {
        const auto made = prepared(R"("prompt":"a",)" + fields, text);
        REQUIRE(made);
        return gateway::generation_request(*made, 0, 0, 1, text);
    };
    const auto has = [](const gateway::GenerationRequest& request, base::TokenId token) {
        return std::find(request.stop_tokens.begin(), request.stop_tokens.end(), token) != request.stop_tokens.end();
    };
    const auto filled = stops_of(R"("suffix":"b","stop_token_ids":[7])");
    CHECK((has(filled, kEnd) && has(filled, kEos) && has(filled, 7) && filled.stop_tokens_asked == 1));
    CHECK_FALSE(has(stops_of(R"("max_tokens":3)"), kEnd));
    CHECK_FALSE(has(stops_of(R"("suffix":"b","ignore_eos":true)"), kEnd));
}
