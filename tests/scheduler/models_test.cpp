// Workers of several models at one scheduler, and schedulers one after the other.
#include "scheduler/scheduler.h"

#include <limits>
#include <string>

#include "tests/scheduler/builders.h"
#include "tests/scheduler/fixture.h"

#include "tests/support/catch.h"

using namespace std::chrono_literals;
using scheduler::SessionId;
using scheduler_test::Fixture;
using scheduler_test::make_events;
using scheduler_test::make_hashes;
using scheduler_test::make_header;
using scheduler_test::make_heartbeat;
using scheduler_test::make_place;

namespace {

constexpr auto kPrefill = proto::WORKER_ROLE_PREFILL;
constexpr auto kDecode = proto::WORKER_ROLE_DECODE;
constexpr auto kEncode = proto::WORKER_ROLE_ENCODE;

/// A chat model on a prefill and a decode worker, a second one on a mixed worker.
void attach_two_models(Fixture& f) {
    f.attach(1, {.id = 1, .incarnation = 11, .role = kPrefill, .model = "chat"});
    f.attach(2, {.id = 2, .incarnation = 21, .role = kDecode, .context_tokens = 2000, .model = "chat"});
    f.attach(3, {.id = 3, .incarnation = 31, .numerics_id = 9, .block_tokens = 32, .model = "small"});
}

proto::DescribeReply describe(Fixture& f, const std::string& model) {
    proto::DescribeRequest request;
    *request.mutable_header() = make_header(0, model);
    const auto reply = f.scheduler.describe(request);
    REQUIRE(reply.has_value());
    return *reply;
}

}  // namespace

TEST_CASE("a request is placed among the workers of its model", "[scheduler][models]") {
    Fixture f;
    attach_two_models(f);
    for (std::uint64_t request = 1; request <= 5; ++request) {
        const auto chat = f.scheduler.place(make_place({.request_id = request, .model = "chat"}));
        REQUIRE(chat.header().model() == "chat");
        REQUIRE(chat.header().numerics_id() == 7);
        REQUIRE(chat.placement().prefill().worker_id() == 1);
        REQUIRE(chat.placement().decode().worker_id() == 2);
        const auto small = f.scheduler.place(make_place({.request_id = 100 + request, .model = "small"}));
        REQUIRE(small.header().numerics_id() == 9);
        REQUIRE(small.placement().decode().worker_id() == 3);
    }
    SECTION("also when one has no worker left") {
        f.scheduler.detach(SessionId{3});
        REQUIRE(f.refused(make_place({.request_id = 7, .model = "small"})).error().code() == 14);
        REQUIRE(f.scheduler.place(make_place({.request_id = 8, .model = "chat"})).has_placement());
    }
}

TEST_CASE("a prefix of one model is none of another", "[scheduler][models]") {
    Fixture f;
    f.attach(1, {.id = 1, .incarnation = 11, .model = "chat"});
    f.attach(2, {.id = 2, .incarnation = 21, .model = "small"});
    const auto hashes = make_hashes(1, 6);
    auto heartbeat = make_heartbeat(1);
    *heartbeat.add_blocks() = make_events(1, hashes);
    REQUIRE(f.beat(1, heartbeat).has_value());
    REQUIRE(f.placed({.request_id = 1, .hashes = hashes, .model = "chat"}).cached_prompt_tokens() == 96);
    REQUIRE(f.placed({.request_id = 2, .hashes = hashes, .model = "small"}).cached_prompt_tokens() == 0);
}

TEST_CASE("a model that is not served is refused with the names of those that are", "[scheduler][models]") {
    Fixture f;
    SECTION("but while workers may still be on their way, later is soon enough") {
        attach_two_models(f);
        const auto refusal = f.refused(make_place({.model = "big"}));
        REQUIRE(refusal.error().code() == 14);
        REQUIRE(refusal.retry_after_ms() > 0);
        REQUIRE(describe(f, "big").models_size() == 0);
    }
    SECTION("for good") {
        attach_two_models(f);
        f.settle();
        const auto refusal = f.refused(make_place({.model = "big"}));
        REQUIRE(refusal.error().code() == 5);
        REQUIRE(refusal.error().message() == "model big is not served here; served are chat, small");
        REQUIRE(refusal.retry_after_ms() == 0);
        proto::DescribeRequest request;
        *request.mutable_header() = make_header(0, "big");
        REQUIRE(f.scheduler.describe(request).error().code == base::ErrorCode::not_found);
        REQUIRE(f.tells(R"(sluice_scheduler_decisions_total{model="",path="refused",reason="unknown_model"} 1)"));
        REQUIRE_FALSE(f.tells("big"));  // whatever a request names makes no series
    }
    SECTION("none named, where there are several") {
        attach_two_models(f);
        const auto refusal = f.refused(make_place({.model = ""}));
        REQUIRE(refusal.error().code() == 3);
        REQUIRE(refusal.error().message().find("chat, small") != std::string::npos);
    }
    SECTION("none named, where there is one") {
        f.attach(3, {.id = 3, .incarnation = 31, .model = "small"});
        REQUIRE(f.scheduler.place(make_place({.model = ""})).header().model() == "small");
    }
}

TEST_CASE("all models are described, or the one that is asked for", "[scheduler][models]") {
    Fixture f;
    attach_two_models(f);
    const auto all = describe(f, "");
    REQUIRE(all.models_size() == 2);
    REQUIRE(all.models(0).model() == "chat");
    REQUIRE(all.models(0).workers_size() == 2);
    REQUIRE(all.models(0).context_tokens() == 2000);
    REQUIRE(all.models(0).block_tokens() == 16);
    REQUIRE(all.models(0).ready());
    REQUIRE(all.models(1).model() == "small");
    REQUIRE(all.models(1).numerics_id() == 9);
    REQUIRE(all.models(1).block_tokens() == 32);
    const auto one = describe(f, "small");
    REQUIRE(one.models_size() == 1);
    REQUIRE(one.header().model() == "small");
    REQUIRE(one.models(0).numerics_id() == 9);
    REQUIRE(one.models(0).block_tokens() == 32);
    REQUIRE(one.models(0).ready());
    f.scheduler.detach(SessionId{3});
    REQUIRE(describe(f, "").models_size() == 1);
    REQUIRE(describe(f, "small").models(0).workers_size() == 0);
}

TEST_CASE("metrics are told of each model", "[scheduler][models]") {
    Fixture f;
    attach_two_models(f);
    f.placed({.request_id = 1, .model = "small"});
    f.scheduler.tick();
    REQUIRE(f.tells(R"(sluice_scheduler_workers{model="chat",role="decode",state="ready"} 1)"));
    REQUIRE(f.tells(R"(sluice_scheduler_workers{model="small",role="mixed",state="ready"} 1)"));
    REQUIRE(f.tells(R"(sluice_scheduler_decisions_total{model="small",path="local",reason="cheapest"} 1)"));
    REQUIRE(f.tells(R"(sluice_scheduler_queue_requests{model="chat",stage="prefill"} 0)"));
    f.scheduler.detach(SessionId{3});
    REQUIRE(f.tells(R"(sluice_scheduler_workers{model="small",role="mixed",state="ready"} 0)"));
}

TEST_CASE("releases find their placement whatever model they come under", "[scheduler][models]") {
    Fixture f;
    f.attach(1, {.id = 1, .incarnation = 11, .queue_requests_max = 1, .model = "chat"});
    f.attach(2, {.id = 2, .incarnation = 21, .model = "small"});
    f.placed({.request_id = 1, .model = "chat"});
    REQUIRE(f.refused(make_place({.request_id = 2, .model = "chat"})).error().code() == 8);
    f.release(1, proto::ReleaseRequest::Ended::PHASE_ALL);  // under "test-model"
    f.placed({.request_id = 2, .model = "chat"});
}

TEST_CASE("only the models that the settings name may be served, where they name any", "[scheduler][models]") {
    Fixture f({.models = {"chat", "later"}});
    REQUIRE(f.enroll(3, {.id = 3, .incarnation = 31, .model = "small"}).error().code ==
            base::ErrorCode::failed_precondition);
    f.attach(1, {.id = 1, .incarnation = 11, .model = "chat"});
    REQUIRE(f.refused(make_place({.model = "small"})).error().code() == 5);
    f.settle();
    REQUIRE(f.refused(make_place({.model = "later"})).error().code() == 14);
}

TEST_CASE("models and workers are bounded over all models", "[scheduler][models]") {
    Fixture f({.workers_max = 3, .models_max = 2});
    attach_two_models(f);
    f.placed({.request_id = 1, .model = "small"});
    REQUIRE(f.tells(R"(sluice_scheduler_decisions_total{model="small",path="local",reason="cheapest"} 1)"));
    REQUIRE(f.enroll(4, {.id = 4, .incarnation = 41, .model = "chat"}).error().code ==
            base::ErrorCode::resource_exhausted);
    f.scheduler.detach(SessionId{2});
    REQUIRE(f.enroll(4, {.id = 4, .incarnation = 41, .model = "third"}).error().code ==
            base::ErrorCode::resource_exhausted);
    f.scheduler.detach(SessionId{3});
    REQUIRE(f.tells(R"(sluice_scheduler_pool_saturation_ratio{model="small",stage="prefill"} 1)"));  // nobody is there
    f.attach(5, {.id = 4, .incarnation = 41, .model = "third"});  // in place of the one without workers
    REQUIRE(describe(f, "").models_size() == 2);
    REQUIRE(f.tells(R"(model="chat")"));
    REQUIRE_FALSE(f.tells(R"(model="small")"));  // nor of what was decided for it
}

TEST_CASE("a worker that comes back with another model has left the former one", "[scheduler][models]") {
    Fixture f;
    f.attach(1, {.id = 1, .incarnation = 11, .model = "chat"});
    REQUIRE(f.enroll(2, {.id = 1, .incarnation = 11, .model = "small"}).error().code ==
            base::ErrorCode::failed_precondition);
    // The id is the former life's until its stream has ended.
    REQUIRE(f.enroll(2, {.id = 1, .incarnation = 12, .model = "small"}).error().code ==
            base::ErrorCode::failed_precondition);
    f.scheduler.detach(SessionId{1});
    f.attach(2, {.id = 1, .incarnation = 12, .model = "small"});
    REQUIRE(f.scheduler.workers() == 1);
    REQUIRE(f.refused(make_place({.model = "chat"})).error().code() == 14);
    REQUIRE(f.placed({.model = "small"}).decode().incarnation() == 12);
    f.scheduler.detach(SessionId{1});
    REQUIRE(f.scheduler.workers() == 1);
    // The former life is late, whatever it says.
    REQUIRE(f.enroll(3, {.id = 1, .incarnation = 11, .model = "chat"}).error().code ==
            base::ErrorCode::failed_precondition);
    REQUIRE(f.placed({.request_id = 2, .model = "small"}).decode().incarnation() == 12);
}

TEST_CASE("an encoder registers without KV, is described, and gets no request that generates", "[scheduler][models]") {
    Fixture f;
    f.attach(1, {.id = 1,
                 .incarnation = 11,
                 .role = kEncode,
                 .numerics_id = 5,
                 .kv_blocks_total = 0,
                 .block_tokens = 0,
                 .context_tokens = 512,
                 .model = "vectors"});
    const auto vectors = describe(f, "vectors").models(0);
    REQUIRE(vectors.ready());
    REQUIRE(vectors.numerics_id() == 5);
    REQUIRE(vectors.context_tokens() == 512);
    REQUIRE(vectors.workers(0).role() == kEncode);
    REQUIRE(f.refused(make_place({.model = "vectors"})).error().code() == 14);
    f.scheduler.tick();
    REQUIRE(f.tells(R"(sluice_scheduler_workers{model="vectors",role="encode",state="ready"} 1)"));

    f.attach(2, {.id = 2, .incarnation = 21, .model = "both"});
    f.attach(3,
             {.id = 3, .incarnation = 31, .role = kEncode, .kv_blocks_total = 0, .block_tokens = 0, .model = "both"});
    f.attach(4,
             {.id = 4, .incarnation = 41, .role = kEncode, .kv_blocks_total = 0, .block_tokens = 0, .model = "both"});
    REQUIRE(f.placed({.request_id = 2, .model = "both"}).prefill().worker_id() == 2);
    REQUIRE(describe(f, "both").models(0).ready());

    auto text = make_place({.request_id = 3, .model = "both"});
    text.set_encode(true);
    text.set_new_tokens_max(0);
    const auto placed = f.scheduler.place(text);
    REQUIRE(placed.has_placement());
    REQUIRE(placed.placement().prefill().worker_id() == 3);
    REQUIRE(placed.placement().decode().worker_id() == 3);
    REQUIRE(placed.placement().path() == "encode");
    text.set_request_id(4);
    REQUIRE(f.scheduler.place(text).placement().prefill().worker_id() == 4);  // what 3 was sent counts
    REQUIRE(f.tells(R"(sluice_scheduler_decisions_total{model="both",path="encode",reason="cheapest"} 2)"));
}

TEST_CASE("a newer scheduler has a higher epoch, and the older one knows when it is superseded", "[scheduler][epoch]") {
    Fixture older;
    older.attach(1, {.id = 1, .incarnation = 11});
    base::FakeClock later_clock;
    later_clock.advance(1h);
    base::Metrics metrics;
    scheduler::Scheduler newer({}, later_clock, metrics);
    REQUIRE(newer.epoch() > older.scheduler.epoch());

    auto request = make_place({});
    const auto first = older.scheduler.place(request);
    REQUIRE(first.scheduler_epoch() == older.scheduler.epoch());
    REQUIRE(describe(older, "test-model").scheduler_epoch() == older.scheduler.epoch());
    request.set_scheduler_epoch(first.scheduler_epoch());
    REQUIRE(older.scheduler.place(request).has_placement());
    request.set_scheduler_epoch(newer.epoch());
    const auto refusal = older.refused(request);
    REQUIRE(refusal.error().code() == 10);
    REQUIRE(refusal.error().message().find("superseded") != std::string::npos);
}

TEST_CASE("who leads by a lease is above every epoch that anybody has seen", "[scheduler][epoch][leader]") {
    base::FakeClock clock;
    base::Metrics metrics;
    scheduler::Scheduler leader({}, clock, metrics, 500);
    REQUIRE(leader.epoch() == 500);
    const auto enroll = [&](std::uint64_t session, const scheduler_test::RegistrationSpec& spec) {
        proto::WorkerReport report;
        *report.mutable_registration() = scheduler_test::make_registration(spec);
        return leader.report(scheduler::SessionId{session}, report);
    };
    const auto first = enroll(1, {.id = 1, .incarnation = 11, .scheduler_epoch = 499});
    REQUIRE(first->directives.at(0).scheduler_epoch() == 500);
    REQUIRE(first->directives.at(0).registered().leader_silence_ms() == 2000);
    REQUIRE(enroll(2, {.id = 2, .incarnation = 21, .scheduler_epoch = 900})->directives.at(0).scheduler_epoch() == 901);
    REQUIRE(leader.workers() == 2);
    REQUIRE(leader.workers_heard() == 0);
    proto::WorkerReport report;
    *report.mutable_heartbeat() = scheduler_test::make_heartbeat(1);
    REQUIRE(leader.report(scheduler::SessionId{1}, report).has_value());
    REQUIRE(leader.workers_heard() == 1);
    auto request = make_place({});
    request.set_scheduler_epoch(2000);
    const auto reply = leader.place(request);
    REQUIRE(reply.has_placement());
    REQUIRE(reply.scheduler_epoch() == 2001);
    request.set_scheduler_epoch(std::numeric_limits<std::uint64_t>::max());  // nobody's epoch
    REQUIRE(leader.place(request).has_refusal());
    REQUIRE(leader.epoch() == 2001);
}

TEST_CASE("a scheduler whose clock has gone back is newer than what its first worker has seen", "[scheduler][epoch]") {
    Fixture f;
    const std::uint64_t by_clock = f.scheduler.epoch();
    const auto answer = f.enroll(1, {.id = 1, .incarnation = 11, .scheduler_epoch = by_clock + 1000});
    REQUIRE(answer->directives.at(0).registered().scheduler_epoch() == by_clock + 1001);
    REQUIRE(f.scheduler.epoch() == by_clock + 1001);
    // Later ones come from a scheduler that has taken over, or by mistake.
    REQUIRE(f.enroll(2, {.id = 2, .incarnation = 21, .scheduler_epoch = by_clock + 5000}).has_value());
    REQUIRE(f.scheduler.epoch() == by_clock + 1001);
}
