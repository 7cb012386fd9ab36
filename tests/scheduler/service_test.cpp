#include "scheduler/service.h"

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "proto/channel.h"
#include "proto/scheduler.grpc.pb.h"
#include "tests/scheduler/builders.h"
#include "tests/support/catch.h"
#include "tests/support/health.h"

using namespace std::chrono_literals;
using scheduler::SchedulerServer;
using scheduler_test::make_events;
using scheduler_test::make_hashes;
using scheduler_test::make_header;
using scheduler_test::make_heartbeat;
using scheduler_test::make_place;
using scheduler_test::make_registration;

namespace {

std::unique_ptr<SchedulerServer> start(const base::Clock& clock, base::Metrics& metrics,
                                       const std::string& address = "127.0.0.1:0",
                                       scheduler::SchedulerOptions options = {}) {
    auto server = SchedulerServer::start(std::move(options), address, clock, metrics);
    if (!server) { FAIL(server.error().message); }
    return std::move(*server);
}

/// A gateway's side.
struct Gateway {
    explicit Gateway(const std::string& address) : Gateway(proto::make_channel({.address = address})) {}
    explicit Gateway(std::shared_ptr<grpc::Channel> given)
        : channel(std::move(given)), stub(proto::Scheduler::NewStub(channel)) {}

    static void limit(grpc::ClientContext& context) {
        context.set_deadline(std::chrono::system_clock::now() + 30s);  // a hang is a failure, not a wait for ever
        context.set_wait_for_ready(true);
    }
    proto::PlaceReply place(const proto::PlaceRequest& request) {
        grpc::ClientContext context;
        limit(context);
        proto::PlaceReply reply;
        const auto status = stub->Place(&context, request, &reply);
        if (!status.ok()) { FAIL(status.error_message()); }
        return reply;
    }
    /// The only model.
    proto::ModelState describe() {
        grpc::ClientContext context;
        limit(context);
        proto::DescribeRequest request;
        *request.mutable_header() = make_header();
        proto::DescribeReply reply;
        const auto status = stub->Describe(&context, request, &reply);
        if (!status.ok()) { FAIL(status.error_message()); }
        REQUIRE(reply.models_size() <= 1);
        return reply.models_size() == 0 ? proto::ModelState() : reply.models(0);
    }
    /// Asks until the answer is as wanted; there is no other word about what a worker's report has changed.
    template <class Wanted>
    proto::ModelState describe_until(Wanted wanted) {
        const auto deadline = std::chrono::steady_clock::now() + 30s;
        while (true) {
            auto reply = describe();
            if (wanted(reply)) { return reply; }
            if (std::chrono::steady_clock::now() > deadline) { FAIL("never came: " << reply.ShortDebugString()); }
        }
    }

    std::shared_ptr<grpc::Channel> channel;
    std::unique_ptr<proto::Scheduler::Stub> stub;
};

/// A worker's side: one Attach stream.
struct Worker {
    explicit Worker(Gateway& gateway) {
        Gateway::limit(context);
        stream = gateway.stub->Attach(&context);
    }
    bool enroll(const scheduler_test::RegistrationSpec& spec) {
        proto::WorkerReport report;
        *report.mutable_registration() = make_registration(spec);
        return stream->Write(report) && read() && directive.has_registered();
    }
    bool beat(const proto::Heartbeat& heartbeat) {
        proto::WorkerReport report;
        *report.mutable_heartbeat() = heartbeat;
        return stream->Write(report);
    }
    bool read() { return stream->Read(&directive); }
    /// Reads to the end of the stream.
    grpc::Status ended() {
        while (read()) {}
        return stream->Finish();
    }

    grpc::ClientContext context;
    std::unique_ptr<grpc::ClientReaderWriter<proto::WorkerReport, proto::WorkerDirective>> stream;
    proto::WorkerDirective directive;
};

}  // namespace

TEST_CASE("workers attach and requests are placed over gRPC", "[scheduler][service]") {
    const base::SystemClock clock;
    base::Metrics metrics;
    const auto server = start(clock, metrics);
    Gateway gateway(server->address());
    REQUIRE(gateway.place(make_place({})).refusal().error().code() == grpc::StatusCode::UNAVAILABLE);

    Worker prefill(gateway);
    REQUIRE(prefill.enroll({.id = 1, .incarnation = 11, .role = proto::WORKER_ROLE_PREFILL}));
    REQUIRE(prefill.directive.registered().heartbeat_ms() == 250);
    REQUIRE(prefill.directive.registered().lease_ms() == 5000);
    Worker decode(gateway);
    REQUIRE(decode.enroll({.id = 2, .incarnation = 21, .role = proto::WORKER_ROLE_DECODE}));
    REQUIRE(gateway.describe().ready());

    auto heartbeat = make_heartbeat(1);
    heartbeat.mutable_load()->set_requests_waiting(3);
    *heartbeat.add_blocks() = make_events(5, make_hashes(1, 1));  // in the middle: a gap
    REQUIRE(prefill.beat(heartbeat));
    REQUIRE(prefill.read());
    REQUIRE(prefill.directive.resend_snapshot());
    heartbeat = make_heartbeat(2);
    heartbeat.mutable_load()->set_requests_waiting(4);
    *heartbeat.add_blocks() = make_events(6, make_hashes(1, 6), {}, true);
    REQUIRE(prefill.beat(heartbeat));
    gateway.describe_until([](const auto& reply) {
        return reply.workers(0).load().requests_waiting() == 4 || reply.workers(1).load().requests_waiting() == 4;
    });

    const auto reply = gateway.place(make_place({.prompt_tokens = 100, .hashes = make_hashes(1, 6)}));
    REQUIRE(reply.placement().prefill().worker_id() == 1);
    REQUIRE(reply.placement().decode().worker_id() == 2);
    REQUIRE(reply.placement().cached_prompt_tokens() == 96);

    grpc::ClientContext context;
    Gateway::limit(context);
    proto::ReleaseRequest release;
    *release.mutable_header() = make_header();
    auto& ended = *release.add_ended();
    ended.set_request_id(1);
    ended.set_phase(proto::ReleaseRequest::Ended::PHASE_ALL);
    ended.set_ttft_us(1000);
    proto::ReleaseReply released;
    REQUIRE(gateway.stub->Release(&context, release, &released).ok());
    REQUIRE(metrics.text().find(R"(sluice_scheduler_prediction_ratio_count{kind="ttft",model="test-model"} 1)") !=
            std::string::npos);
}

TEST_CASE("errors of a report end the stream with their code", "[scheduler][service]") {
    const base::SystemClock clock;
    base::Metrics metrics;
    const auto server = start(clock, metrics);
    Gateway gateway(server->address());
    Worker worker(gateway);
    SECTION("a heartbeat before a registration") {
        REQUIRE(worker.beat(make_heartbeat(1)));
        REQUIRE(worker.ended().error_code() == grpc::StatusCode::FAILED_PRECONDITION);
    }
    SECTION("a registration without a role") {
        proto::WorkerReport report;
        *report.mutable_registration() = make_registration({});
        report.mutable_registration()->clear_role();
        REQUIRE(worker.stream->Write(report));
        const auto status = worker.ended();
        REQUIRE(status.error_code() == grpc::StatusCode::INVALID_ARGUMENT);
        REQUIRE(status.error_message().find("role") != std::string::npos);
    }
    SECTION("another version, in a call") {
        grpc::ClientContext context;
        Gateway::limit(context);
        proto::DescribeRequest request;
        proto::DescribeReply reply;
        REQUIRE(gateway.stub->Describe(&context, request, &reply).error_code() ==
                grpc::StatusCode::FAILED_PRECONDITION);
        worker.context.TryCancel();
        worker.ended();
    }
    REQUIRE(gateway.describe().workers_size() == 0);
}

TEST_CASE("the end of a stream is the end of its worker", "[scheduler][service]") {
    const base::SystemClock clock;
    base::Metrics metrics;
    const auto server = start(clock, metrics);
    Gateway gateway(server->address());
    Worker worker(gateway);
    REQUIRE(worker.enroll({.id = 1, .incarnation = 11}));
    REQUIRE(gateway.describe().workers_size() == 1);
    SECTION("it says goodbye") {
        worker.stream->WritesDone();
        REQUIRE(worker.ended().ok());
    }
    SECTION("it is cut off") {
        worker.context.TryCancel();
        worker.ended();
    }
    gateway.describe_until([](const auto& reply) { return reply.workers_size() == 0; });
    Worker again(gateway);
    REQUIRE(again.enroll({.id = 1, .incarnation = 12}));
    REQUIRE(gateway.place(make_place({})).placement().prefill().incarnation() == 12);
}

TEST_CASE("a lease ends by the clock and closes the stream", "[scheduler][service]") {
    base::FakeClock clock;
    base::Metrics metrics;
    const auto server = start(clock, metrics);
    Gateway gateway(server->address());
    Worker silent(gateway);
    REQUIRE(silent.enroll({.id = 1, .incarnation = 11}));
    Worker alive(gateway);
    REQUIRE(alive.enroll({.id = 2, .incarnation = 21}));
    clock.advance(4s);
    REQUIRE(alive.beat(make_heartbeat(1, 5)));
    gateway.describe_until([](const auto& reply) {
        for (const auto& worker : reply.workers()) {
            if (worker.endpoint().worker_id() == 2 && worker.load().blocks_free() == 5) { return true; }
        }
        return false;
    });
    clock.advance(1s);
    REQUIRE(silent.ended().error_code() == grpc::StatusCode::DEADLINE_EXCEEDED);
    const auto description = gateway.describe();
    REQUIRE(description.workers_size() == 1);
    REQUIRE(description.workers(0).endpoint().worker_id() == 2);
}

TEST_CASE("a worker that attaches again ends its former stream", "[scheduler][service]") {
    const base::SystemClock clock;
    base::Metrics metrics;
    const auto server = start(clock, metrics);
    Gateway gateway(server->address());
    Worker former(gateway);
    REQUIRE(former.enroll({.id = 1, .incarnation = 11}));
    Worker later(gateway);
    REQUIRE(later.enroll({.id = 1, .incarnation = 11}));
    REQUIRE(former.ended().error_code() == grpc::StatusCode::ABORTED);
    const auto description = gateway.describe();
    REQUIRE(description.workers_size() == 1);
    REQUIRE(description.workers(0).endpoint().incarnation() == 11);
}

TEST_CASE("a scheduler on the same port takes over from one that stopped", "[scheduler][service]") {
    const base::SystemClock clock;
    base::Metrics metrics;
    auto first = start(clock, metrics);
    const std::string address = first->address();
    Gateway gateway(address);
    Worker worker(gateway);
    REQUIRE(worker.enroll({.id = 1, .incarnation = 11}));
    first->drain_and_stop();
    first->drain_and_stop();  // again is no harm
    REQUIRE(worker.ended().error_code() == grpc::StatusCode::UNAVAILABLE);
    first.reset();

    const auto second = start(clock, metrics, address);
    REQUIRE(second->address() == address);
    Gateway gateway_again(address);
    Worker again(gateway_again);
    REQUIRE(again.enroll({.id = 1, .incarnation = 11}));  // the same life: nothing of it was lost
    auto heartbeat = make_heartbeat(400);
    heartbeat.mutable_load()->set_blocks_cached(6);
    REQUIRE(again.beat(heartbeat));
    REQUIRE(again.read());
    REQUIRE(again.directive.resend_snapshot());
    heartbeat = make_heartbeat(401, 77);
    *heartbeat.add_blocks() = make_events(90, make_hashes(1, 6), {}, true);
    REQUIRE(again.beat(heartbeat));
    gateway_again.describe_until([](const auto& reply) { return reply.workers(0).load().blocks_free() == 77; });
    const auto reply = gateway_again.place(make_place({.prompt_tokens = 100, .hashes = make_hashes(1, 6)}));
    REQUIRE(reply.placement().cached_prompt_tokens() == 96);
}

TEST_CASE("two schedulers cannot have one port", "[scheduler][service]") {
    const base::SystemClock clock;
    base::Metrics metrics;
    const auto server = start(clock, metrics);
    const auto other = SchedulerServer::start({}, server->address(), clock, metrics);
    REQUIRE_FALSE(other.has_value());
    REQUIRE(other.error().code == base::ErrorCode::unavailable);
}

TEST_CASE("who does not show the cluster's key gets nothing, and keeps nobody out", "[scheduler][service][hostile]") {
    const base::SystemClock clock;
    base::Metrics metrics;
    scheduler::SchedulerOptions options;
    options.workers_max = 2;
    const auto key = *base::parse_hash_key("00112233445566778899aabbccddeeff");
    auto server = SchedulerServer::start(options, "127.0.0.1:0", clock, metrics, proto::ClusterKey(key)).value();
    const std::string address = server->address();
    Gateway honest(proto::make_channel({.address = address, .key = proto::ClusterKey(key)}));
    Worker worker(honest);
    REQUIRE(worker.enroll({.id = 1, .incarnation = 11, .key = key}));

    std::shared_ptr<grpc::Channel> channel;
    SECTION("no token") {
        channel = grpc::CreateChannel(address, grpc::InsecureChannelCredentials());
    }
    SECTION("another cluster's token") {
        channel = proto::make_channel({.address = address});
    }
    Gateway stranger(channel);
    const auto refused = [](const grpc::Status& status) {
        INFO(status.error_message());
        REQUIRE(status.error_code() == grpc::StatusCode::UNAUTHENTICATED);
        REQUIRE(status.error_message().find("cluster.key_file") != std::string::npos);
    };
    const auto unary = [&](auto method, auto request, auto reply) {
        *request.mutable_header() = make_header();
        grpc::ClientContext context;
        Gateway::limit(context);
        refused((stranger.stub.get()->*method)(&context, request, &reply));
    };
    // Every method that a scheduler has: who adds one adds it here.
    const auto* service = proto::PlaceRequest::descriptor()->file()->FindServiceByName("Scheduler");
    REQUIRE(service->method_count() == 5);
    unary(&proto::Scheduler::Stub::Place, proto::PlaceRequest(), proto::PlaceReply());
    unary(&proto::Scheduler::Stub::Release, proto::ReleaseRequest(), proto::ReleaseReply());
    unary(&proto::Scheduler::Stub::Describe, proto::DescribeRequest(), proto::DescribeReply());
    unary(&proto::Scheduler::Stub::Drain, proto::DrainRequest(), proto::DrainReply());
    for (std::uint64_t i = 0; i < 100; ++i) {
        Worker intruder(stranger);
        REQUIRE_FALSE(intruder.enroll({.id = 100 + i, .incarnation = 11}));
        refused(intruder.stream->Finish());
    }
    REQUIRE(test_support::is_serving(channel));
    REQUIRE(honest.describe().workers_size() == 1);
    Worker second(honest);
    REQUIRE(second.enroll({.id = 2, .incarnation = 21, .key = key}));
}

TEST_CASE("during an upgrade who shows no key is served, and a wrong key never", "[scheduler][service][hostile]") {
    const base::SystemClock clock;
    base::Metrics metrics;
    const auto key = *base::parse_hash_key("00112233445566778899aabbccddeeff");
    auto server = SchedulerServer::start({}, "127.0.0.1:0", clock, metrics, proto::ClusterKey(key, true)).value();
    Gateway old(grpc::CreateChannel(server->address(), grpc::InsecureChannelCredentials()));
    Worker worker(old);
    REQUIRE(worker.enroll({.id = 1, .incarnation = 11}));
    Gateway wrong(server->address());
    Worker intruder(wrong);
    REQUIRE(intruder.ended().error_code() == grpc::StatusCode::UNAUTHENTICATED);
}

TEST_CASE("an address that nobody of the cluster made is not registered", "[scheduler][service][hostile]") {
    const base::SystemClock clock;
    base::Metrics metrics;
    const auto server = start(clock, metrics);
    Gateway gateway(server->address());
    proto::WorkerReport report;
    auto& registration = *report.mutable_registration();
    registration = make_registration({.id = 1, .incarnation = 11});
    std::string& address = *registration.mutable_endpoint()->mutable_kv_address();
    SECTION("nine bytes") {
        address = std::string(9, 'x');
    }
    SECTION("a flipped bit") {
        address[10] = static_cast<char>(address[10] ^ 1);
    }
    SECTION("another life's") {
        address = make_registration({.id = 1, .incarnation = 12}).endpoint().kv_address();
    }
    SECTION("another cluster's") {
        address = base::seal_address(*base::parse_hash_key(std::string(32, '7')), base::Incarnation{11}, "kv-1");
    }
    Worker worker(gateway);
    REQUIRE(worker.stream->Write(report));
    REQUIRE(worker.ended().error_code() == grpc::StatusCode::PERMISSION_DENIED);
    REQUIRE(gateway.describe().workers_size() == 0);
}

TEST_CASE("streams on which nobody registers are bounded, end, and keep no worker out",
          "[scheduler][service][hostile]") {
    const base::SystemClock clock;
    base::Metrics metrics;
    scheduler::SchedulerOptions options;
    options.workers_max = 2;  // four streams
    options.suspect_after = 100ms;
    options.lease = 100ms;
    const auto server = start(clock, metrics, "127.0.0.1:0", options);
    Gateway gateway(server->address());
    std::vector<std::unique_ptr<Worker>> idle;
    for (int i = 0; i < 50; ++i) {
        idle.push_back(std::make_unique<Worker>(gateway));
    }
    // Whoever registers finds room, at the latest when he comes again: as a worker does.
    bool taken = false;
    const auto deadline = std::chrono::steady_clock::now() + 30s;
    for (std::uint64_t life = 11; !taken && std::chrono::steady_clock::now() < deadline; ++life) {
        Worker worker(gateway);
        taken = worker.enroll({.id = 1, .incarnation = life});
    }
    REQUIRE(taken);
    for (const auto& one : idle) {
        const auto code = one->ended().error_code();
        REQUIRE((code == grpc::StatusCode::RESOURCE_EXHAUSTED || code == grpc::StatusCode::DEADLINE_EXCEEDED));
    }
}

TEST_CASE("workers are bounded", "[scheduler][service]") {
    const base::SystemClock clock;
    base::Metrics metrics;
    scheduler::SchedulerOptions options;
    options.workers_max = 1;
    const auto server = start(clock, metrics, "127.0.0.1:0", options);
    Gateway gateway(server->address());
    Worker first(gateway);
    REQUIRE(first.enroll({.id = 1, .incarnation = 11}));
    Worker second(gateway);
    REQUIRE_FALSE(second.enroll({.id = 2, .incarnation = 21}));
    REQUIRE(second.ended().error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED);
    REQUIRE(gateway.describe().workers_size() == 1);
}

TEST_CASE("many callers and restarting workers get an answer each", "[scheduler][service]") {
    const base::SystemClock clock;
    base::Metrics metrics;
    const auto server = start(clock, metrics);
    Gateway gateway(server->address());
    Worker steady(gateway);
    REQUIRE(steady.enroll({.id = 1, .incarnation = 11}));
    std::atomic<int> answers = 0;
    std::atomic<int> lives = 0;
    {
        std::vector<std::jthread> threads;
        for (std::uint64_t caller = 0; caller < 4; ++caller) {
            threads.emplace_back([&, caller] {
                for (std::uint64_t i = 0; i < 50; ++i) {
                    grpc::ClientContext context;
                    Gateway::limit(context);
                    proto::PlaceReply reply;
                    const auto request = make_place({.request_id = 1 + caller * 1000 + i});
                    if (gateway.stub->Place(&context, request, &reply).ok() &&
                        (reply.has_placement() || reply.has_refusal())) {
                        ++answers;
                    }
                }
            });
        }
        threads.emplace_back([&] {
            for (std::uint64_t life = 1; life <= 20; ++life) {
                // The id is free when the scheduler has seen the end of the former life's stream.
                for (bool taken = false; !taken;) {
                    Worker worker(gateway);
                    taken = worker.enroll({.id = 2, .incarnation = 100 + life});
                    if (taken) { worker.beat(make_heartbeat(1)); }
                    worker.context.TryCancel();
                    worker.ended();
                }
                ++lives;
            }
        });
    }
    REQUIRE(answers == 200);
    REQUIRE(lives == 20);
    gateway.describe_until([](const auto& reply) { return reply.workers_size() == 1; });
}

TEST_CASE("the standard health service answers", "[scheduler][service]") {
    const base::SystemClock clock;
    base::Metrics metrics;
    const auto server = start(clock, metrics);
    Gateway gateway(server->address());
    REQUIRE(test_support::is_serving(gateway.channel));
    REQUIRE(test_support::is_serving(gateway.channel, "sluice.proto.Scheduler"));
}

TEST_CASE("a worker is told to drain by whoever asks the scheduler, and is placed on no more", "[scheduler][service]") {
    const base::SystemClock clock;
    base::Metrics metrics;
    const auto server = start(clock, metrics);
    Gateway gateway(server->address());
    const auto drain = [&gateway](std::uint64_t worker, proto::DrainReply& reply) {
        grpc::ClientContext context;
        Gateway::limit(context);
        proto::DrainRequest request;
        *request.mutable_header() = make_header(0, "");
        request.set_worker_id(worker);
        return gateway.stub->Drain(&context, request, &reply).error_code();
    };
    proto::DrainReply reply;
    REQUIRE(drain(1, reply) == grpc::StatusCode::NOT_FOUND);
    Worker leaving(gateway);
    REQUIRE(leaving.enroll({.id = 1, .incarnation = 11}));
    Worker staying(gateway);
    REQUIRE(staying.enroll({.id = 2, .incarnation = 21}));
    REQUIRE(drain(1, reply) == grpc::StatusCode::OK);
    REQUIRE(reply.worker().state() == "draining");
    REQUIRE(leaving.read());
    REQUIRE(leaving.directive.drain());
    for (std::uint64_t request = 1; request <= 4; ++request) {
        REQUIRE(gateway.place(make_place({.request_id = request})).placement().decode().worker_id() == 2);
    }
}
