#include "gateway/slo.h"

#include "gateway/openai/request_form.h"

#include "tests/gateway/support.h"

#include "tests/support/catch.h"

using gateway::RequestHead;
using gateway::SloClasses;
using gateway::SloWish;
using std::chrono::milliseconds;

namespace {

using namespace std::chrono_literals;
using namespace gateway_test;
using proto::SequenceOutput;

constexpr const char* kConfig = R"(
slo:
  default_class: interactive
  ttft_ms_min: 100
  tpot_ms_min: 5
slo_classes:
  interactive: {ttft_ms: 500, tpot_ms: 30, e2e_ms: 9000, attainment: 0.99, priority: 10}
  batch: {ttft_ms: 60000, late: drop}
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

constexpr base::Incarnation kPrefill{10};
constexpr base::Incarnation kDecode{20};

proto::PlaceReply split() {
    return split_placement(make_endpoint(1, 10), make_endpoint(2, 20));
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
    REQUIRE(usual->targets.e2e == milliseconds(9000));
    REQUIRE(classes[usual->class_index].priority == 10);
    REQUIRE(usual->priority == 10);
    REQUIRE_FALSE(usual->drops_late);

    SloWish header;
    header.class_name = "batch";
    header.tpot = milliseconds(50);
    header.e2e = milliseconds(80000);
    const auto batch = classes.resolve({}, header);
    REQUIRE(batch);
    REQUIRE(batch->class_name == "batch");
    REQUIRE(batch->targets.ttft == milliseconds(60000));
    REQUIRE(batch->targets.tpot == milliseconds(50));
    REQUIRE(batch->targets.e2e == milliseconds(80000));
    REQUIRE(batch->drops_late);

    SloWish body;
    body.class_name = "interactive";
    body.ttft = milliseconds(0);  // takes the target back
    body.e2e = milliseconds(0);
    const auto both = classes.resolve(body, header);
    REQUIRE(both);
    REQUIRE(both->class_name == "interactive");
    REQUIRE(both->targets.ttft == base::Duration::zero());
    REQUIRE(both->targets.tpot == milliseconds(50));
    REQUIRE(both->targets.e2e == base::Duration::zero());
}

TEST_CASE("a class has an aim where it says so", "[gateway][slo]") {
    const auto aims = classes_of(kConfig).aims();
    REQUIRE(aims.size() == 1u);
    REQUIRE(aims[0].slo_class == "interactive");
    REQUIRE(aims[0].attainment == 0.99);
    REQUIRE(SloClasses().aims().empty());
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
    auto wish = SloClasses::wish_of(head_of(
        {{"x-slo-class", "batch"}, {"x-slo-ttft-ms", "700"}, {"x-slo-tpot-ms", "25"}, {"x-slo-e2e-ms", "4000"}}));
    REQUIRE(wish);
    REQUIRE(wish->class_name == "batch");
    REQUIRE(wish->ttft == milliseconds(700));
    REQUIRE(wish->tpot == milliseconds(25));
    REQUIRE(wish->e2e == milliseconds(4000));
    wish = SloClasses::wish_of(
        head_of({{"x-llm-d-slo-ttft-ms", "900"}, {"x-llm-d-slo-tpot-ms", "40"}, {"x-slo-ttft-ms", "700"}}));
    REQUIRE(wish);
    REQUIRE_FALSE(wish->class_name);
    REQUIRE(wish->ttft == milliseconds(700));
    REQUIRE(wish->tpot == milliseconds(40));
    for (const char* bad : {"", "-1", "12.5", "1s", "99999999999"}) {
        for (const char* name : {"x-slo-ttft-ms", "x-slo-tpot-ms", "x-slo-e2e-ms"}) {
            CAPTURE(bad, name);
            const auto refused = SloClasses::wish_of(head_of({{name, bad}}));
            REQUIRE_FALSE(refused);
            REQUIRE(refused.error().status == 400u);
        }
    }
}

TEST_CASE("bad classes in the config are told with their place", "[gateway][slo]") {
    REQUIRE(problem_of("slo_classes:\n  Gold: {ttft_ms: 1}\n").find("slo_classes.Gold must be named by") !=
            std::string::npos);
    REQUIRE(problem_of("slo_classes:\n  gold: {ttft: 1}\n").find("unknown key slo_classes.gold.ttft") !=
            std::string::npos);
    REQUIRE(problem_of("slo_classes:\n  gold: {late: never}\n").find("slo_classes.gold.late") != std::string::npos);
    REQUIRE(problem_of("slo_classes:\n  gold: {ttft_ms: -1}\n").find("test.yaml:2") != std::string::npos);
    REQUIRE(problem_of("slo: {default_class: gold}\n").find("default") != std::string::npos);
}

TEST_CASE("a body asks for a class and targets", "[gateway][slo]") {
    const auto read = [](const std::string& slo) {
        return gateway::read_form(gateway::Endpoint::completions, R"({"prompt":"a","slo":)" + slo + "}", {},
                                  gateway_test::make_models({"m"}));
    };
    const auto form = read(R"({"class":"batch","ttft_ms":700,"tpot_ms":25,"e2e_ms":4000})");
    REQUIRE(form);
    REQUIRE(form->slo.class_name == "batch");
    REQUIRE(form->slo.ttft == milliseconds(700));
    REQUIRE(form->slo.tpot == milliseconds(25));
    REQUIRE(form->slo.e2e == milliseconds(4000));
    REQUIRE_FALSE(read("{}")->slo.class_name);
    const auto bad = read(R"({"ttft_ms":"soon"})");
    REQUIRE_FALSE(bad);
    REQUIRE(bad.error().param == "slo.ttft_ms");
    REQUIRE_FALSE(read("7"));
}

TEST_CASE("scheduler and workers hear what is promised, and how much of it is left", "[gateway][request][slo]") {
    Owner owner;
    RecordingSink sink;
    auto request = owner.request("hello", 8);
    request.slo = {.class_name = "chat", .class_index = 0, .targets = {.ttft = 500ms, .tpot = 30ms}, .priority = 3};
    request.received_at = owner.clock.now();
    owner.clock.advance(100ms);  // it waited to be prepared
    const auto id = owner.table.open(std::move(request), sink);
    const proto::PlaceRequest& ask = owner.ports.placed[0];
    REQUIRE(ask.slo_class() == "chat");
    REQUIRE(ask.slo_ttft_ms() == 500u);
    REQUIRE(ask.slo_tpot_ms() == 30u);
    REQUIRE(ask.first_token_in_us() == 400'000);
    owner.clock.advance(10ms);
    proto::PlaceReply placed = split();
    placed.mutable_placement()->set_tenant_tokens(700);
    owner.table.on_place_answered(id, base::Epoch{0}, placed);
    for (const std::uint64_t worker : {10u, 20u}) {
        const proto::Start start = owner.ports.sent_to(worker)[0].start();
        REQUIRE(start.first_token_in_us() == 390'000);
        REQUIRE(start.tpot_target_us() == 30'000u);
        REQUIRE(start.priority() == 3);
        REQUIRE(start.tenant_tokens() == 700);
    }
    owner.clock.advance(300ms);
    owner.table.on_output(kPrefill, output(id, 0, "a"));
    // The stream loses its worker: its next token is due as soon as a first one would be.
    owner.table.on_worker_lost(kDecode, {base::ErrorCode::unavailable, "gone"});
    REQUIRE(owner.ports.placed.back().first_token_in_us() == 500'000);
    owner.table.on_place_answered(id, base::Epoch{1}, local_placement(make_endpoint(3, 30)));
    REQUIRE(owner.ports.sent_to(30)[0].start().first_token_in_us() == 500'000);
    owner.clock.advance(100ms);
    owner.table.on_output(base::Incarnation{30}, output(id, 1, "b", SequenceOutput::FINISH_LENGTH));
    REQUIRE(sink.end.tpot == base::Duration(100ms));
    REQUIRE(sink.end.first_token_at == owner.clock.now() - 100ms);
}

TEST_CASE("a class that drops what is late gives up who has no token when that is due, and nobody else",
          "[gateway][request][slo]") {
    const int phase = GENERATE(range(0, 4));
    const bool drops = GENERATE(true, false);
    CAPTURE(phase, drops);
    Owner owner;
    RecordingSink sink;
    auto request = owner.request();
    request.received_at = owner.clock.now() - 200ms;  // it was read, and its prompt tokenised
    request.slo = {.class_name = "chat", .targets = {.ttft = 500ms}, .drops_late = drops};
    const auto id = owner.table.open(std::move(request), sink);
    if (phase == 1) {  // it waits to ask again
        owner.table.on_place_answered(id, base::Epoch{0},
                                      tl::unexpected<base::Error>({base::ErrorCode::unavailable, "down"}));
    }
    if (phase > 1) { owner.table.on_place_answered(id, base::Epoch{0}, split()); }
    if (phase > 2) { owner.table.on_output(kPrefill, output(id, 0, "a")); }
    REQUIRE(sink.ends == 0);
    owner.clock.advance(299ms);
    owner.table.on_time();
    REQUIRE(sink.ends == 0);
    owner.clock.advance(1ms);
    owner.table.on_time();
    if (!drops || phase > 2) {
        REQUIRE(sink.ends == 0);
        owner.table.cancel(id, "client_gone");
        return;
    }
    REQUIRE(sink.ends == 1);
    REQUIRE(sink.end.error->code == base::ErrorCode::deadline_exceeded);
    REQUIRE(sink.end.error->message.find("500 ms") != std::string::npos);
    if (phase > 1) {
        for (const std::uint64_t worker : {10u, 20u}) {
            REQUIRE(owner.ports.sent_to(worker).back().cancel().reason() == "late");
        }
    }
}

TEST_CASE("without targets scheduler and workers hear of none", "[gateway][request][slo]") {
    Owner owner;
    RecordingSink sink;
    const auto id = owner.table.open(owner.request(), sink);
    owner.table.on_place_answered(id, base::Epoch{0}, split());
    REQUIRE(owner.ports.placed[0].first_token_in_us() == 0);
    REQUIRE(owner.ports.placed[0].slo_tpot_ms() == 0u);
    REQUIRE(owner.ports.sent_to(20)[0].start().first_token_in_us() == 0);
    REQUIRE(owner.ports.sent_to(20)[0].start().tpot_target_us() == 0u);
    owner.table.cancel(id, "client_gone");
}

TEST_CASE("KV may be lossy where the config allows it and the request or its class wants it", "[gateway][slo]") {
    const char* kAllowed = "slo: {lossy_kv: allowed}\nslo_classes: {cheap: {lossy_kv: true}, dear: {priority: 1}}\n";
    const char* kOff = "slo_classes: {cheap: {lossy_kv: true}, dear: {priority: 1}}\n";
    const auto resolved = [](const char* yaml, const char* name, std::optional<bool> body, std::optional<bool> header) {
        SloWish wish;
        wish.class_name = name;
        wish.lossy_kv = body;
        SloWish in_header;
        in_header.lossy_kv = header;
        const auto slo = classes_of(yaml).resolve(wish, in_header);
        REQUIRE(slo);
        return slo->allow_lossy_kv;
    };
    CHECK(resolved(kAllowed, "cheap", {}, {}));
    CHECK_FALSE(resolved(kAllowed, "dear", {}, {}));
    CHECK(resolved(kAllowed, "dear", {}, true));
    CHECK(resolved(kAllowed, "dear", true, false));
    CHECK_FALSE(resolved(kAllowed, "cheap", false, true));
    CHECK_FALSE(resolved(kAllowed, "cheap", {}, false));
    CHECK_FALSE(resolved(kOff, "cheap", true, true));

    CHECK(SloClasses::wish_of(head_of({{"x-sluice-kv", "lossy"}}))->lossy_kv == true);
    CHECK(SloClasses::wish_of(head_of({{"x-sluice-kv", "exact"}}))->lossy_kv == false);
    CHECK_FALSE(SloClasses::wish_of(head_of({}))->lossy_kv);
    const auto bad = SloClasses::wish_of(head_of({{"x-sluice-kv", "fast"}}));
    REQUIRE_FALSE(bad);
    CHECK(bad.error().message == "the header x-sluice-kv must be lossy or exact");
}

TEST_CASE("workers hear that KV may be lossy, and the end of a sequence says how it came", "[gateway][request][slo]") {
    const bool is_allowed = GENERATE(true, false);
    Owner owner;
    RecordingSink sink;
    auto request = owner.request("hello", 8);
    request.slo.allow_lossy_kv = is_allowed;
    const auto id = owner.table.open(std::move(request), sink);
    CHECK(owner.ports.placed[0].allow_lossy_kv() == is_allowed);
    owner.table.on_place_answered(id, base::Epoch{0}, split());
    for (const std::uint64_t worker : {10u, 20u}) {
        CHECK(owner.ports.sent_to(worker)[0].start().allow_lossy_kv() == is_allowed);
    }
    owner.table.on_output(kPrefill, output(id, 0, "a"));
    auto second = output(id, 0, "b");
    second.set_kv_path("pushed");
    second.set_kv_codec(is_allowed ? "sluice/3" : "exact");
    owner.table.on_output(kDecode, second);
    // It loses its worker, and the next one computes: what was lossy once is said in the end.
    owner.table.on_worker_lost(kDecode, {base::ErrorCode::unavailable, "gone"});
    owner.table.on_place_answered(id, base::Epoch{1}, split());
    owner.table.on_output(kPrefill, output(id, 1, "c"));
    auto fourth = output(id, 1, "d", SequenceOutput::FINISH_LENGTH);
    fourth.set_kv_path("recomputed");
    owner.table.on_output(kDecode, fourth);
    REQUIRE(sink.ends == 1);
    CHECK(sink.end.kv == (is_allowed ? "sluice/3" : "recomputed"));
}
