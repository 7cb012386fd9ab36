#include "gateway/openai/data_marks.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gateway/openai/prepare.h"
#include "gateway/openai/request_form.h"
#include "tests/gateway/support.h"

#include "tests/support/catch.h"

namespace {

using gateway_test::ByteText;
using gateway_test::kEnd;
using gateway_test::Tokens;

/// A chat of one message, prepared.
gateway::ApiResult<gateway::PreparedRequest> prepared(const std::string& content, std::uint32_t context_tokens) {
    static const gateway::Models kModels = gateway_test::make_models({"m"});
    const gateway::FormLimits limits;
    auto form = gateway::read_form(gateway::Endpoint::chat,
                                   R"({"messages":[{"role":"user","content":")" + content + R"("}]})", limits, kModels);
    REQUIRE(form);
    gateway::ClusterView cluster;
    cluster.context_tokens = context_tokens;
    return gateway::prepare(
        std::move(*form), {.limits = limits, .text = ByteText(), .cluster = cluster, .hash_key = {}, .now_unix_s = 0});
}

}  // namespace

TEST_CASE("marks go where special texts are, and come out as the places of text", "[gateway][openai]") {
    const gateway::SpecialTexts texts({"<s>", "</s>"}, {"<think>"});
    gateway::DataMarks marks(texts);
    const std::string context =
        R"({"messages":[{"role":"user","content":"<s>a<think>"},{"role":"assistant","content":"<think></s"}]})";
    const auto marked = marks.mark(context);
    REQUIRE(marked);
    const std::string m = "\xee\x80\x80";
    REQUIRE(*marked == R"({"messages":[{"role":"user","content":"<)" + m + "s>a<" + m +
                           R"(think>"},{"role":"assistant","content":"<think><)" + m + R"(/s"}]})");
    const auto rendered = marks.unmark("[<" + m + "s>|<\\ue000s>|\xc3\xa9" + m + "]");
    REQUIRE(rendered.text == "[<s>|<s>|\xc3\xa9]");
    REQUIRE(rendered.text_starts == std::vector<std::size_t>{1, 5, 9});
    // Nothing to mark: as it came.
    REQUIRE(*marks.mark(R"({"messages":[{"role":"user","content":"a < b"}]})") ==
            R"({"messages":[{"role":"user","content":"a < b"}]})");
    REQUIRE(marks.unmark("a" + m).text == "a" + m);
    // A mark that the request holds, also as an escape, is none.
    const auto other =
        marks.mark(R"({"messages":[{"role":"user","content":"<s>\\ue000)" + ("\xee\x80\x81" + std::string(R"("}]})")));
    REQUIRE(other);
    REQUIRE(other->find("<\xee\x80\x82s>") != std::string::npos);
}

TEST_CASE("megabytes of special texts, of their beginnings and of private-use characters are read in one pass",
          "[gateway][openai]") {
    constexpr std::size_t kBytes = 4u << 20;
    const auto many = [](std::string_view one, std::size_t bytes) {
        std::string result;
        while (result.size() < bytes) {
            result += one;
        }
        return result;
    };
    const std::vector<std::string> contents = {
        many("<s>", kBytes),
        many("<", kBytes),
        many("<|en", kBytes),
        many("\xee\x82\xa0", kBytes),
        many("\xee\x82\xa0", kBytes / 2) + many("<s>", kBytes / 2),
    };
    for (std::size_t index = 0; index < contents.size(); ++index) {
        CAPTURE(index);
        const auto request = prepared(contents[index], 2 * kBytes);
        REQUIRE(request);
        Tokens expected = *ByteText().encode("user:" + contents[index], false, false);
        expected.push_back(kEnd);
        const Tokens rest = *ByteText().encode("assistant:", false, false);
        expected.insert(expected.end(), rest.begin(), rest.end());
        const bool is_equal = *request->prompts[0].tokens == expected;  // not for the printer
        CHECK(is_equal);
    }
}

TEST_CASE("a message that holds every private-use character cannot be marked", "[gateway][openai]") {
    std::string all;
    for (std::uint32_t code_point = 0xe000; code_point < 0xf900; ++code_point) {
        all += static_cast<char>(0xe0 | (code_point >> 12));
        all += static_cast<char>(0x80 | ((code_point >> 6) & 0x3f));
        all += static_cast<char>(0x80 | (code_point & 0x3f));
    }
    REQUIRE(prepared(all, 100'000));
    const auto refused = prepared("<s>" + all, 100'000);
    REQUIRE_FALSE(refused);
    REQUIRE(refused.error().status == 400u);
    REQUIRE(refused.error().param == "messages");
}
