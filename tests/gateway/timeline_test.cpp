// Timelines from the request's owner to the route that tells them.
#include <boost/json.hpp>
#include <chrono>
#include <string>

#include "gateway/explain/explain_json.h"
#include "gateway/explain/explain_route.h"
#include "gateway/explain/sequence_recorder.h"

#include "tests/gateway/api_world.h"

namespace {

using namespace std::chrono_literals;
using namespace gateway_test;
using gateway::Cause;
using gateway::RequestTimeline;
using gateway::SequenceTimeline;
using gateway::TimelineBook;
using proto::SequenceOutput;

constexpr base::Incarnation kPrefill{10};
constexpr base::Incarnation kDecode{20};

proto::PlaceReply split() {
    proto::PlaceReply reply = split_placement(make_endpoint(1, 10), make_endpoint(2, 20));
    reply.mutable_placement()->set_predicted_ttft_us(40'000);
    reply.mutable_placement()->set_predicted_tpot_us(9'000);
    return reply;
}

gateway::GenerationRequest promised(const Owner& owner) {
    auto request = owner.request("hello", 8);
    request.slo.targets = {.ttft = 100ms, .tpot = 20ms};
    request.received_at = owner.clock.now();
    return request;
}

SequenceOutput traced(SequenceOutput output, std::uint32_t total_ms, std::uint32_t turn_ms = 0) {
    output.mutable_trace()->set_total_us(total_ms * 1000);
    output.mutable_trace()->set_turn_us(turn_ms * 1000);
    return output;
}

RequestTimeline request_of(std::string id, std::optional<Cause> cause, const base::Clock& clock,
                           std::uint64_t worker = 7) {
    RequestTimeline request;
    request.request_id = std::move(id);
    request.answer_id = "cmpl-" + request.request_id;
    request.ended_at = clock.now();
    request.outcome.targets.ttft = 100ms;
    if (cause) { request.explanation.all = gateway::Miss{.cause = *cause, .worker = worker}; }
    return request;
}

gateway::HttpRequest ask(std::string path, std::string query = "", std::string client = "127.0.0.1") {
    gateway::HttpRequest request;
    request.head.method = "GET";
    request.head.path = path;
    request.head.sent_path = std::move(path);
    request.head.query = std::move(query);
    request.client = std::move(client);
    return request;
}

}  // namespace

TEST_CASE("the owner of a sequence writes down what happens to it", "[gateway][explain]") {
    Owner owner({.keeps_timelines = true});
    RecordingSink sink;
    auto request = promised(owner);
    owner.clock.advance(5ms);
    const auto id = owner.table.open(std::move(request), sink);
    owner.clock.advance(1ms);
    owner.table.on_place_answered(id, base::Epoch{0}, split());
    REQUIRE(owner.ports.sent_to(10)[0].start().explain());
    REQUIRE(owner.ports.sent_to(20)[0].start().explain());
    owner.clock.advance(50ms);
    owner.table.on_output(kPrefill, traced(output(id, 0, "a"), 48, 30));
    owner.clock.advance(60ms);
    SequenceOutput second = traced(output(id, 0, "b"), 58);
    second.set_kv_path("recomputed");
    owner.table.on_output(kDecode, second);
    owner.clock.advance(10ms);
    owner.table.on_output(kDecode, output(id, 0, "c", SequenceOutput::FINISH_LENGTH));

    REQUIRE(sink.end.timeline != nullptr);
    const SequenceTimeline& told = *sink.end.timeline;
    REQUIRE(told.opened_at - told.received_at == base::Duration(5ms));
    REQUIRE(told.placements == 1u);
    REQUIRE(told.completion_tokens == 3u);
    REQUIRE(told.attempts.size() == 1u);
    const gateway::Attempt& attempt = told.attempts[0];
    REQUIRE(*attempt.placed_at - attempt.asked_at == base::Duration(1ms));
    REQUIRE(attempt.prefill_worker == 1u);
    REQUIRE(attempt.decode_worker == 2u);
    REQUIRE(attempt.predicted_ttft == base::Duration(40ms));
    REQUIRE(attempt.predicted_tpot == base::Duration(9ms));
    REQUIRE(attempt.kv_recomputed);
    REQUIRE(attempt.prefill->turn_us() == 30'000u);
    REQUIRE(*told.first_token_at - told.received_at == base::Duration(56ms));
    REQUIRE(told.late_count == 1u);
    REQUIRE(told.late_tokens.size() == 1u);
    REQUIRE(told.late_tokens[0].token == 1u);
    REQUIRE(told.late_tokens[0].gap == base::Duration(60ms));
    REQUIRE(told.late_tokens[0].worker == 2u);
    REQUIRE(told.tpot == base::Duration(35ms));
}

TEST_CASE("what a grammar forced comes with the first token, and decode's first is the one behind",
          "[gateway][explain]") {
    Owner owner({.keeps_timelines = true});
    RecordingSink sink;
    const auto id = owner.table.open(promised(owner), sink);
    owner.table.on_place_answered(id, base::Epoch{0}, split());
    owner.table.on_output(kPrefill, output(id, 0, "abc"));
    const auto sent = owner.ports.sent_to(20);
    REQUIRE(sent.back().go_on().tokens_size() == 3);
    owner.clock.advance(60ms);
    SequenceOutput later = traced(output(id, 0, "de", SequenceOutput::FINISH_LENGTH), 58);
    later.set_kv_path("recomputed");
    owner.table.on_output(kDecode, later);

    REQUIRE(sink.end.timeline != nullptr);
    const gateway::Attempt& attempt = sink.end.timeline->attempts.at(0);
    REQUIRE(sink.end.completion_tokens == 5u);
    REQUIRE(attempt.kv_recomputed);
    REQUIRE(*attempt.second_token_at - *attempt.first_token_at == base::Duration(60ms));
}

TEST_CASE("what a grammar forced behind a late token is not late, and no account of that one", "[gateway][explain]") {
    Owner owner({.keeps_timelines = true});
    RecordingSink sink;
    const auto id = owner.table.open(promised(owner), sink);
    owner.table.on_place_answered(id, base::Epoch{0}, local_placement(make_endpoint(2, 20)));
    owner.table.on_output(kDecode, traced(output(id, 0, "a"), 0));
    owner.clock.advance(100ms);
    owner.table.on_output(kDecode, traced(output(id, 0, "bcd"), 30));  // the other 70 ms are not the worker's
    owner.clock.advance(1ms);
    owner.table.on_output(kDecode, output(id, 0, "e", SequenceOutput::FINISH_LENGTH));
    const SequenceTimeline& told = *sink.end.timeline;
    REQUIRE(told.completion_tokens == 5u);
    REQUIRE(told.late_count == 1u);
    REQUIRE(told.late.of(Cause::gateway) == base::Duration(70ms));
    REQUIRE(told.late_tokens[0].token == 1u);
}

TEST_CASE("decode's first output may hold several tokens, too", "[gateway][explain]") {
    Owner owner({.keeps_timelines = true});
    RecordingSink sink;
    const auto id = owner.table.open(promised(owner), sink);
    owner.table.on_place_answered(id, base::Epoch{0}, split());
    owner.table.on_output(kPrefill, output(id, 0, "a"));
    owner.clock.advance(60ms);
    SequenceOutput later = traced(output(id, 0, "bcd", SequenceOutput::FINISH_LENGTH), 58);
    later.set_kv_path("recomputed");
    owner.table.on_output(kDecode, later);
    const gateway::Attempt& attempt = sink.end.timeline->attempts.at(0);
    REQUIRE(attempt.kv_recomputed);
    REQUIRE(*attempt.second_token_at - *attempt.first_token_at == base::Duration(60ms));
    REQUIRE(sink.end.timeline->late_count == 1u);
    REQUIRE(sink.end.timeline->late_tokens[0].gap == base::Duration(60ms));
}

TEST_CASE("a stream that lost its worker blames the loss for the gap, and names the worker", "[gateway][explain]") {
    Owner owner({.keeps_timelines = true});
    RecordingSink sink;
    const auto id = owner.table.open(promised(owner), sink);
    owner.table.on_place_answered(id, base::Epoch{0}, split());
    owner.clock.advance(10ms);
    owner.table.on_output(kPrefill, traced(output(id, 0, "a"), 9));
    owner.clock.advance(500ms);
    owner.table.on_worker_lost(kDecode, {base::ErrorCode::unavailable, "gone"});
    owner.table.on_place_answered(id, base::Epoch{1}, local_placement(make_endpoint(3, 30)));
    owner.clock.advance(30ms);
    owner.table.on_output(base::Incarnation{30}, traced(output(id, 1, "b", SequenceOutput::FINISH_LENGTH), 29));
    const SequenceTimeline& told = *sink.end.timeline;
    REQUIRE(told.attempts.size() == 2u);
    REQUIRE(told.attempts[0].lost_at);
    REQUIRE(told.attempts[0].lost_worker == 2u);
    const auto why = gateway::explain({sink.end.timeline},
                                      {.status = 200, .targets = {.ttft = 100ms, .tpot = 20ms}, .tpot_met = false});
    REQUIRE(why.tpot->cause == Cause::worker_lost);
    REQUIRE(why.tpot->worker == 2u);
}

TEST_CASE("a sequence that is lost again and again keeps the first and the latest placements", "[gateway][explain]") {
    Owner owner({.placements_max = 20, .keeps_timelines = true});
    RecordingSink sink;
    const auto id = owner.table.open(promised(owner), sink);
    for (std::uint32_t epoch = 0; epoch < 10; ++epoch) {
        owner.clock.advance(1ms);
        owner.table.on_place_answered(id, base::Epoch{epoch},
                                      local_placement(make_endpoint(100 + epoch, 1000 + epoch)));
        owner.clock.advance(1ms);
        owner.table.on_worker_lost(base::Incarnation{1000 + epoch}, {base::ErrorCode::unavailable, "gone"});
    }
    owner.table.cancel(id, "client_gone");
    const SequenceTimeline& told = *sink.end.timeline;
    REQUIRE(told.placements == 10u);
    REQUIRE(told.attempts.size() == gateway::kAttemptsKept);
    REQUIRE(told.attempts[0].decode_worker == 100u);
    REQUIRE(told.attempts[2].decode_worker == 109u);
    REQUIRE_FALSE(told.attempts[3].placed_at);
}

TEST_CASE("of late tokens the sums of all and the longest gaps are kept", "[gateway][explain]") {
    Owner owner({.keeps_timelines = true});
    RecordingSink sink;
    auto request = promised(owner);
    request.new_tokens_max = 64;
    const auto id = owner.table.open(std::move(request), sink);
    owner.table.on_place_answered(id, base::Epoch{0}, local_placement(make_endpoint(2, 20)));
    owner.table.on_output(kDecode, traced(output(id, 0, "a"), 0));
    for (std::uint32_t i = 1; i <= 20; ++i) {
        owner.clock.advance(std::chrono::milliseconds(20 + i));
        owner.table.on_output(kDecode, traced(output(id, 0, "x"), 20 + i, 10));
    }
    owner.table.cancel(id, "client_gone");
    const SequenceTimeline& told = *sink.end.timeline;
    REQUIRE(told.late_count == 20u);
    REQUIRE(told.late_tokens.size() == gateway::kLateTokensKept);
    REQUIRE(told.late.of(Cause::queue_decode) == base::Duration(200ms));
    for (const auto& late : told.late_tokens) {
        REQUIRE(late.gap > base::Duration(32ms));
    }
}

TEST_CASE("an output that was held up where its worker stood still is that worker's", "[gateway][explain]") {
    Owner owner({.keeps_timelines = true});
    RecordingSink sink;
    const auto id = owner.table.open(promised(owner), sink);
    owner.table.on_place_answered(id, base::Epoch{0}, local_placement(make_endpoint(2, 20)));
    owner.table.on_output(kDecode, traced(output(id, 0, "a"), 0));
    owner.clock.advance(500ms);
    owner.table.on_output(kDecode, output(id, 0, "b"));  // in time by the worker's own account
    owner.clock.advance(1ms);
    owner.table.on_output(kDecode, traced(output(id, 0, "c"), 490));
    owner.clock.advance(100ms);
    owner.table.on_output(kDecode, output(id, 0, "d"));
    owner.clock.advance(5ms);
    owner.table.on_output(kDecode, output(id, 0, "e", SequenceOutput::FINISH_LENGTH));
    const SequenceTimeline& told = *sink.end.timeline;
    REQUIRE(told.late_count == 2u);
    REQUIRE(told.late.of(Cause::decode_batch) == base::Duration(489ms));
    REQUIRE(told.late.of(Cause::gateway) == base::Duration(111ms));  // nobody says what became of the last
    REQUIRE(told.late_workers[gateway::index_of(Cause::decode_batch)] == 2u);
    REQUIRE(told.late_tokens[0].cause == Cause::decode_batch);
    REQUIRE(told.late_tokens[1].cause == Cause::gateway);
}

TEST_CASE("outputs that left together after their worker stood still are explained by the account behind them",
          "[gateway][explain]") {
    const bool comes_in_time = GENERATE(true, false);  // or the tokens went on for as long without an account
    Owner owner({.keeps_timelines = true});
    RecordingSink sink;
    const auto id = owner.table.open(promised(owner), sink);
    owner.table.on_place_answered(id, base::Epoch{0}, local_placement(make_endpoint(2, 20)));
    owner.table.on_output(kDecode, traced(output(id, 0, "a"), 0));
    owner.clock.advance(60ms);
    owner.table.on_output(kDecode, output(id, 0, "b"));
    for (int i = 0; i < 3; ++i) {
        owner.clock.advance(comes_in_time ? 1ms : 20ms);
        owner.table.on_output(kDecode, output(id, 0, "c"));
    }
    owner.clock.advance(1ms);
    owner.table.on_output(kDecode, traced(output(id, 0, "d", SequenceOutput::FINISH_LENGTH), 55));
    const SequenceTimeline& told = *sink.end.timeline;
    REQUIRE(told.late_count == 1u);
    REQUIRE(told.late.of(Cause::decode_batch) == base::Duration(comes_in_time ? 54ms : 0ms));
    REQUIRE(told.late_tokens[0].cause == (comes_in_time ? Cause::decode_batch : Cause::gateway));
}

TEST_CASE("where no timelines are kept, nothing is asked for and nothing recorded", "[gateway][explain]") {
    Owner owner;
    RecordingSink sink;
    const auto id = owner.table.open(promised(owner), sink);
    owner.table.on_place_answered(id, base::Epoch{0}, split());
    REQUIRE_FALSE(owner.ports.sent_to(10)[0].start().explain());
    owner.table.cancel(id, "client_gone");
    REQUIRE(sink.end.timeline == nullptr);
}

TEST_CASE("the book keeps the latest, and late ones longer", "[gateway][explain]") {
    base::FakeClock clock;
    TimelineBook book({.requests_max = 3, .misses_max = 2}, clock);
    book.add(request_of("late-1", Cause::prefill, clock));
    book.add(request_of("late-2", Cause::handoff, clock));
    for (int i = 0; i < 5; ++i) {
        book.add(request_of("good-" + std::to_string(i), std::nullopt, clock));
    }
    REQUIRE(book.kept() == 5u);
    REQUIRE(book.find("late-1")->explanation.all->cause == Cause::prefill);
    REQUIRE(book.find("cmpl-late-2") != nullptr);
    REQUIRE(book.find("good-4") != nullptr);
    REQUIRE(book.find("good-1") == nullptr);
    REQUIRE(book.find("") == nullptr);
    book.add(request_of("late-3", Cause::handoff, clock));
    REQUIRE(book.find("late-1") == nullptr);
    book.add(request_of("late-3", Cause::refused, clock));  // an id that a client gave twice
    REQUIRE(book.find("late-3")->explanation.all->cause == Cause::refused);
    REQUIRE(book.kept() <= 5u);
}

TEST_CASE("the summary counts causes within its window, and workers of what is kept", "[gateway][explain]") {
    base::FakeClock clock;
    TimelineBook book({.requests_max = 10, .misses_max = 4}, clock);
    for (int i = 0; i < 3; ++i) {
        book.add(request_of("old-" + std::to_string(i), Cause::prefill, clock, 5));
    }
    clock.advance(20min);
    for (int i = 0; i < 5; ++i) {
        book.add(request_of("new-" + std::to_string(i), Cause::handoff, clock, 9));
    }
    book.add(request_of("good", std::nullopt, clock));
    book.add(request_of("left", Cause::client, clock, 0));
    const gateway::MissSummary recent = book.summary(10min);
    REQUIRE(recent.requests == 7u);
    REQUIRE(recent.with_targets == 7u);
    REQUIRE(recent.missed == 5u);
    REQUIRE(recent.causes[gateway::index_of(Cause::handoff)] == 5u);
    REQUIRE(recent.causes[gateway::index_of(Cause::prefill)] == 0u);
    REQUIRE(recent.workers.size() == 1u);
    REQUIRE(recent.workers[0].worker == 9u);
    REQUIRE(recent.workers[0].count == 3u);  // of the four that are kept one is the client's
    REQUIRE(recent.latest.front() == "new-4");
    REQUIRE(book.summary(1h).missed == 8u);
    clock.advance(24h);
    book.add(request_of("next-day", Cause::refused, clock, 0));
    REQUIRE(book.summary(10min).missed == 1u);
}

TEST_CASE("an answer that misses its target is counted once under its cause and can be asked for",
          "[gateway][explain]") {
    World world;
    const auto exchange = world.complete(R"("prompt":"a","max_tokens":4,"slo":{"ttft_ms":50,"tpot_ms":20})");
    world.owner.clock.advance(10ms);
    world.place();
    world.owner.clock.advance(100ms);
    world.owner.table.on_output(base::Incarnation{20}, traced(output(world.id(), 0, "x"), 95, 80));
    world.owner.clock.advance(5ms);
    world.say("y", SequenceOutput::FINISH_LENGTH);
    const std::string rows = world.owner.metrics.text();
    CAPTURE(rows);
    REQUIRE(
        rows.find(
            R"(sluice_gateway_slo_misses_total{cause="queue_prefill",model="m",slo="ttft",slo_class="default"} 1)") !=
        std::string::npos);
    REQUIRE(
        rows.find(
            R"(sluice_gateway_slo_misses_total{cause="queue_prefill",model="m",slo="all",slo_class="default"} 1)") !=
        std::string::npos);
    REQUIRE(rows.find(R"(cause="queue_prefill",model="m",slo="tpot")") == std::string::npos);

    const std::string id = field(*exchange->response, "x-request-id");
    const std::string answer = std::string(body(*exchange).at("id").as_string());
    for (const std::string& name : {id, answer}) {
        CAPTURE(name);
        const auto told = gateway::answer_explain(ask("/explain/" + name), "/explain/" + name, world.options.explain,
                                                  world.timelines);
        REQUIRE(told);
        const json::object timeline = json::parse(*told).as_object();
        REQUIRE(timeline.at("request_id").as_string() == id);
        REQUIRE(timeline.at("status").as_int64() == 200);
        REQUIRE(timeline.at("missed").at("ttft").at("cause").as_string() == "queue_prefill");
        REQUIRE_FALSE(timeline.at("missed").as_object().contains("tpot"));
        const json::object& sequence = timeline.at("sequences").at(0).as_object();
        REQUIRE(sequence.at("ttft_ms").as_double() == Approx(110));
        std::vector<std::string> events;
        for (const json::value& event : sequence.at("events").as_array()) {
            events.emplace_back(event.at("event").as_string());
        }
        REQUIRE(events ==
                std::vector<std::string>{"received", "parsed", "asked_for_place", "placed", "first_token", "ended"});
        REQUIRE(sequence.at("events").at(4).at("worker_says").at("waited_turn_ms").as_double() == Approx(80));
    }
}

TEST_CASE("a whole answer that is late is counted as that, and told with its target", "[gateway][explain]") {
    World world;
    const auto late = world.complete(R"("prompt":"a","max_tokens":4,"slo":{"ttft_ms":500,"e2e_ms":200})");
    world.place();
    world.owner.clock.advance(100ms);
    world.owner.table.on_output(base::Incarnation{20}, traced(output(world.id(), 0, "x"), 95));
    world.owner.clock.advance(200ms);
    world.say("y", SequenceOutput::FINISH_LENGTH);
    const auto in_time = world.complete(R"("prompt":"a","max_tokens":4,"slo":{"e2e_ms":200})");
    world.place(1);
    world.owner.clock.advance(200ms);
    world.owner.table.on_output(base::Incarnation{20}, output(world.id(1), 0, "x", SequenceOutput::FINISH_LENGTH));
    REQUIRE(in_time->response);
    const std::string rows = world.owner.metrics.text();
    CAPTURE(rows);
    const auto counted = [&](const std::string& slo, const std::string& outcome, int count) {
        const std::string row = R"(sluice_gateway_slo_requests_total{model="m",outcome=")" + outcome + R"(",slo=")" +
                                slo + R"(",slo_class="default"} )" + std::to_string(count) + "\n";
        return rows.find(row) != std::string::npos;
    };
    REQUIRE(counted("e2e", "good", 1));
    REQUIRE(counted("e2e", "bad", 1));
    REQUIRE(counted("ttft", "good", 1));
    REQUIRE(counted("all", "bad", 1));
    REQUIRE(counted("all", "good", 1));
    REQUIRE(rows.find(
                R"(sluice_gateway_slo_misses_total{cause="decode_batch",model="m",slo="e2e",slo_class="default"} 1)") !=
            std::string::npos);
    const std::string path = "/explain/" + field(*late->response, "x-request-id");
    const auto told = gateway::answer_explain(ask(path), path, world.options.explain, world.timelines);
    REQUIRE(told);
    const json::object timeline = json::parse(*told).as_object();
    REQUIRE(timeline.at("targets").at("e2e_ms").as_double() == Approx(200));
    REQUIRE(timeline.at("missed").at("e2e").at("cause").as_string() == "decode_batch");
    REQUIRE(timeline.at("missed").at("all").at("cause").as_string() == "decode_batch");
    REQUIRE_FALSE(timeline.at("missed").as_object().contains("ttft"));
}

TEST_CASE("who is refused, and who leaves, has a cause too", "[gateway][explain]") {
    World world;
    world.complete(R"("prompt":"a","max_tokens":4)");
    world.owner.table.on_place_answered(world.id(), base::Epoch{0}, refusal(base::ErrorCode::resource_exhausted, 500));
    const auto gone = world.complete(R"("prompt":"a","max_tokens":4)");
    world.place(1);
    gone->gone("slow_client");
    const std::string rows = world.owner.metrics.text();
    for (const std::string cause : {"refused", "client"}) {
        CAPTURE(cause);
        REQUIRE(rows.find("sluice_gateway_slo_misses_total{cause=\"" + cause +
                          "\",model=\"m\",slo=\"all\",slo_class=\"default\"} 1") != std::string::npos);
    }
}

TEST_CASE("timelines are told on this machine only", "[gateway][explain]") {
    base::FakeClock clock;
    TimelineBook book({}, clock);
    const auto status = [&](const gateway::HttpRequest& request, const gateway::ExplainOptions& options) {
        const auto answer = gateway::answer_explain(request, "/explain", options, book);
        return answer ? 200u : answer.error().status;
    };
    REQUIRE(status(ask("/explain"), {}) == 200u);
    REQUIRE(status(ask("/explain", "", "::/64"), {}) == 200u);
    REQUIRE(status(ask("/explain", "", "192.0.2.1"), {}) == 403u);
    REQUIRE(status(ask("/explain", "", ""), {}) == 403u);
    REQUIRE(status(ask("/explain", "", "192.0.2.1"), {.from_anywhere = true}) == 200u);
    for (const char* proxied : {"x-forwarded-for", "forwarded", "x-real-ip", "via"}) {
        CAPTURE(proxied);
        auto request = ask("/explain");
        request.head.fields.emplace_back(proxied, "192.0.2.1");
        REQUIRE(status(request, {}) == 403u);
    }
}

TEST_CASE("a summary is asked for with a window, and mistakes are told", "[gateway][explain]") {
    base::FakeClock clock;
    TimelineBook book({}, clock);
    const auto tell = [&](const std::string& path, const std::string& query = "") {
        return gateway::answer_explain(ask(path, query), path, {}, book);
    };
    REQUIRE(json::parse(*tell("/explain", "since=90")).at("since_s").as_int64() == 90);
    const json::value nothing = json::parse(*tell("/explain"));
    REQUIRE(nothing.at("since_s").as_int64() == 600);
    REQUIRE(nothing.at("bottleneck").is_null());
    book.add(request_of("r", Cause::handoff, clock, 7));
    const json::value one = json::parse(*tell("/explain"));
    REQUIRE(one.at("bottleneck").as_string() == "handoff");
    REQUIRE(one.at("causes").at(0).at("count").as_int64() == 1);
    REQUIRE(one.at("workers").at(0).at("worker").as_string() == "0000000000000007");
    for (const char* bad : {"since=", "since=0", "since=-1", "since=1h", "since=86401", "since=99999999999999999999"}) {
        CAPTURE(bad);
        REQUIRE(tell("/explain", bad).error().status == 400u);
    }
    REQUIRE(tell("/explain/nobody").error().status == 404u);
    TimelineBook off({.requests_max = 0}, clock);
    off.add(request_of("r", Cause::handoff, clock));
    REQUIRE(off.kept() == 0u);
    const auto refused = gateway::answer_explain(ask("/explain"), "/explain", {.requests_max = 0}, off);
    REQUIRE(refused.error().status == 404u);
    REQUIRE(refused.error().message.find("explain.requests_max") != std::string::npos);
}

TEST_CASE("the route is there, with its method", "[gateway][explain]") {
    World world;
    REQUIRE(world.send("GET", "/explain")->response->status == 403u);  // these requests come from nowhere
    REQUIRE(world.send("GET", "/v1/explain/some-id")->response->status == 403u);
    REQUIRE(world.send("POST", "/explain")->response->status == 405u);
    REQUIRE(world.send("GET", "/explained")->response->status == 404u);
}

TEST_CASE("what recording costs", "[.cost]") {
    // No assertion: prints nanoseconds a request for the recorder and the book, 64 tokens each, one of them late.
    base::FakeClock clock;
    TimelineBook book({}, clock);
    constexpr int kRequests = 100'000;
    proto::Placement placement = split().placement();
    SequenceOutput plain;
    SequenceOutput first = traced({}, 48, 30);
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < kRequests; ++i) {
        gateway::SequenceRecorder record;
        const base::TimePoint now = clock.now();
        record.begin(base::RequestId{static_cast<std::uint64_t>(i + 1)}, now, now, 512, {.ttft = 100ms, .tpot = 20ms});
        record.asks(now);
        record.placed(now, placement, true);
        record.token(now, 1, {}, first);
        for (std::uint32_t token = 2; token <= 64; ++token) {
            record.token(now, token, token == 9 ? 30ms : 10ms, token == 9 ? first : plain);
        }
        std::vector<std::shared_ptr<const SequenceTimeline>> sequences{
            record.end(now, 64, 15ms, gateway::SequenceRecorder::Doing::nothing)};
        RequestTimeline request = request_of("req-0123456789", std::nullopt, clock);
        request.explanation = gateway::explain(sequences, request.outcome);
        request.sequences = gateway::worst_of(sequences);
        book.add(std::move(request));
    }
    const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - begin;
    WARN("recording takes " << took.count() / kRequests << " ns a request of 64 tokens");
}
