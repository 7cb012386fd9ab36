#include "gateway/slo.h"

#include "gateway/openai/request_form.h"

#include "tests/gateway/support.h"

#include "tests/support/catch.h"

using gateway::RequestHead;
using gateway::SloClasses;
using gateway::SloWish;
using std::chrono::milliseconds;

namespace {

constexpr const char* kConfig = R"(
slo:
  default_class: interactive
  ttft_ms_min: 100
  tpot_ms_min: 5
slo_classes:
  interactive: {ttft_ms: 500, tpot_ms: 30, attainment: 0.99, priority: 10}
  batch: {ttft_ms: 60000}
)";

SloClasses classes_of(const char* yaml) {
    base::Config config;
    REQUIRE(config.add_text(yaml, "test.yaml"));
    SloClasses classes = SloClasses::read(config);
    const auto finished = config.finish();
    if (!finished) { FAIL(finished.error().message); }
    return classes;
}

std::string problem_of(const char* yaml) {
    base::Config config;
    REQUIRE(config.add_text(yaml, "test.yaml"));
    SloClasses::read(config);
    const auto finished = config.finish();
    REQUIRE_FALSE(finished);
    return finished.error().message;
}

RequestHead head_of(std::vector<std::pair<std::string, std::string>> fields) {
    RequestHead head;
    head.fields = std::move(fields);
    return head;
}

}  // namespace

TEST_CASE("without classes nothing is promised", "[gateway][slo]") {
    const auto slo = SloClasses().resolve({}, {});
    REQUIRE(slo);
    REQUIRE(slo->class_name == "default");
    REQUIRE(slo->targets.ttft == base::Duration::zero());
    REQUIRE(slo->targets.tpot == base::Duration::zero());
}

TEST_CASE("a request gets what its class promises, and what it asks for itself before that", "[gateway][slo]") {
    const SloClasses classes = classes_of(kConfig);
    REQUIRE(classes.names() == std::vector<std::string>{"default", "batch", "interactive"});
    const auto usual = classes.resolve({}, {});
    REQUIRE(usual);
    REQUIRE(usual->class_name == "interactive");
    REQUIRE(usual->targets.ttft == milliseconds(500));
    REQUIRE(usual->targets.tpot == milliseconds(30));
    REQUIRE(classes[usual->class_index].priority == 10);

    SloWish header;
    header.class_name = "batch";
    header.tpot = milliseconds(50);
    const auto batch = classes.resolve({}, header);
    REQUIRE(batch);
    REQUIRE(batch->class_name == "batch");
    REQUIRE(batch->targets.ttft == milliseconds(60000));
    REQUIRE(batch->targets.tpot == milliseconds(50));

    SloWish body;
    body.class_name = "interactive";
    body.ttft = milliseconds(0);  // takes the target back
    const auto both = classes.resolve(body, header);
    REQUIRE(both);
    REQUIRE(both->class_name == "interactive");
    REQUIRE(both->targets.ttft == base::Duration::zero());
    REQUIRE(both->targets.tpot == milliseconds(50));
}

TEST_CASE("a class that is not there and targets below the bounds are told with what is", "[gateway][slo]") {
    const SloClasses classes = classes_of(kConfig);
    SloWish wish;
    wish.class_name = "gold";
    auto refused = classes.resolve({}, wish);
    REQUIRE_FALSE(refused);
    REQUIRE(refused.error().status == 400u);
    REQUIRE(refused.error().message.find("default, batch, interactive") != std::string::npos);
    wish = {};
    wish.ttft = milliseconds(99);
    refused = classes.resolve(wish, {});
    REQUIRE_FALSE(refused);
    REQUIRE(refused.error().param == "slo.ttft_ms");
    REQUIRE(refused.error().message.find("100 ms") != std::string::npos);
    wish = {};
    wish.tpot = milliseconds(4);
    REQUIRE_FALSE(classes.resolve(wish, {}));
}

TEST_CASE("header fields name class and targets, llm-d's where ours are not there", "[gateway][slo]") {
    auto wish =
        SloClasses::wish_of(head_of({{"x-slo-class", "batch"}, {"x-slo-ttft-ms", "700"}, {"x-slo-tpot-ms", "25"}}));
    REQUIRE(wish);
    REQUIRE(wish->class_name == "batch");
    REQUIRE(wish->ttft == milliseconds(700));
    REQUIRE(wish->tpot == milliseconds(25));
    wish = SloClasses::wish_of(
        head_of({{"x-llm-d-slo-ttft-ms", "900"}, {"x-llm-d-slo-tpot-ms", "40"}, {"x-slo-ttft-ms", "700"}}));
    REQUIRE(wish);
    REQUIRE_FALSE(wish->class_name);
    REQUIRE(wish->ttft == milliseconds(700));
    REQUIRE(wish->tpot == milliseconds(40));
    for (const char* bad : {"", "-1", "12.5", "1s", "99999999999"}) {
        CAPTURE(bad);
        const auto refused = SloClasses::wish_of(head_of({{"x-slo-ttft-ms", bad}}));
        REQUIRE_FALSE(refused);
        REQUIRE(refused.error().status == 400u);
    }
}

TEST_CASE("bad classes in the config are told with their place", "[gateway][slo]") {
    REQUIRE(problem_of("slo_classes:\n  Gold: {ttft_ms: 1}\n").find("slo_classes.Gold must be named by") !=
            std::string::npos);
    REQUIRE(problem_of("slo_classes:\n  gold: {ttft: 1}\n").find("unknown key slo_classes.gold.ttft") !=
            std::string::npos);
    REQUIRE(problem_of("slo_classes:\n  gold: {ttft_ms: -1}\n").find("test.yaml:2") != std::string::npos);
    REQUIRE(problem_of("slo: {default_class: gold}\n").find("default") != std::string::npos);
}

TEST_CASE("a body asks for a class and targets", "[gateway][slo]") {
    const auto read = [](const std::string& slo) {
        return gateway::read_form(gateway::Endpoint::completions, R"({"prompt":"a","slo":)" + slo + "}", {},
                                  gateway_test::make_models({"m"}));
    };
    const auto form = read(R"({"class":"batch","ttft_ms":700,"tpot_ms":25})");
    REQUIRE(form);
    REQUIRE(form->slo.class_name == "batch");
    REQUIRE(form->slo.ttft == milliseconds(700));
    REQUIRE(form->slo.tpot == milliseconds(25));
    REQUIRE_FALSE(read("{}")->slo.class_name);
    const auto bad = read(R"({"ttft_ms":"soon"})");
    REQUIRE_FALSE(bad);
    REQUIRE(bad.error().param == "slo.ttft_ms");
    REQUIRE_FALSE(read("7"));
}
