#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "gateway/server.h"
#include "proto/channel.h"
#include "proto/scheduler.grpc.pb.h"
#include "proto/version.h"
#include "proto/worker.grpc.pb.h"
#include "tests/gateway/http_client.h"
#include "tests/gateway/support.h"

#include "tests/support/catch.h"

namespace {

using namespace std::chrono_literals;
using namespace gateway_test;

/// A worker process in this process: a real gRPC server around a FakeWorker, one step every millisecond.
class WorkerProcess final : public proto::Worker::Service {
public:
    WorkerProcess(std::uint64_t worker, std::uint64_t incarnation) {
        auto running = proto::start_server({.listen_address = "127.0.0.1:0"}, std::array<grpc::Service*, 1>{this});
        REQUIRE(running);
        server_ = std::move(running->server);
        auto endpoint = make_endpoint(worker, incarnation);
        endpoint.set_control_address("127.0.0.1:" + std::to_string(running->port));
        fake_ = std::make_unique<FakeWorker>(endpoint, FakeModel{.eos_every = 0});
    }
    ~WorkerProcess() override { kill(); }

    /// All streams break at once, nobody listens any more.
    void kill() {
        {
            const std::scoped_lock lock(mutex_);
            stopped_ = true;
        }
        changed_.notify_all();
        if (server_) { server_->Shutdown(std::chrono::system_clock::now()); }
    }
    void stop_heartbeats() { silent_ = true; }
    void answer_as(std::uint64_t incarnation) { answers_as_ = incarnation; }
    void compute_as(std::uint64_t numerics_id) { numerics_id_ = numerics_id; }

    grpc::Status Serve(grpc::ServerContext* context,
                       grpc::ServerReaderWriter<proto::WorkerEvent, proto::WorkerCommand>* stream) override {
        proto::WorkerCommand command;
        if (!stream->Read(&command) || !command.has_hello()) {
            return {grpc::StatusCode::FAILED_PRECONDITION, "no hello"};
        }
        const std::uint64_t asked = command.hello().header().numerics_id();
        if (asked != 0 && asked != numerics_id_) {
            return {grpc::StatusCode::FAILED_PRECONDITION, "another numerics id"};
        }
        hellos = hellos + 1;
        proto::WorkerEvent reply;
        *reply.mutable_hello()->mutable_endpoint() = fake_->endpoint();
        if (answers_as_ != 0) { reply.mutable_hello()->mutable_endpoint()->set_incarnation(answers_as_); }
        reply.mutable_hello()->set_heartbeat_ms(20);
        stream->Write(reply);
        std::atomic<bool> reading{true};
        std::thread reader([&] {
            proto::WorkerCommand next;
            while (stream->Read(&next)) {
                const std::scoped_lock lock(mutex_);
                fake_->take(next);
                if (next.has_drop_prefixes()) { drops_.push_back(next.drop_prefixes().number()); }
                sequences = fake_->sequences();
                changed_.notify_all();
            }
            const std::scoped_lock lock(mutex_);
            reading = false;
            changed_.notify_all();
        });
        while (reading && !stopped_ && !context->IsCancelled()) {
            proto::WorkerEvent event;
            {
                const std::scoped_lock lock(mutex_);
                if (!silent_) { fake_->step(); }
                ++steps;
                for (const auto& output : fake_->outputs()) {
                    *event.mutable_step()->add_sequences() = output;
                }
                fake_->outputs().clear();
                sequences = fake_->sequences();
            }
            if (event.event_case() == proto::WorkerEvent::EVENT_NOT_SET) { event.set_heartbeat(true); }
            for (const std::uint64_t number : dropped()) {
                proto::WorkerEvent answer;
                answer.mutable_prefixes_dropped()->set_number(number);
                answer.mutable_prefixes_dropped()->set_blocks(5);
                stream->Write(answer);
            }
            if (!silent_) { stream->Write(event); }
            // A step takes a millisecond, a heartbeat comes every ten; what ends us, or a first command, does not wait.
            std::unique_lock lock(mutex_);
            const bool has_work = fake_->sequences() > 0;
            changed_.wait_for(lock, has_work ? 1ms : 10ms,
                              [&] { return stopped_ || !reading || (!has_work && fake_->sequences() > 0); });
        }
        context->TryCancel();
        reader.join();
        return {grpc::StatusCode::UNAVAILABLE, "stopped"};
    }

    const proto::WorkerEndpoint& endpoint() const { return fake_->endpoint(); }
    void keep_drops() { keeps_drops_ = true; }
    std::size_t drops_kept() {
        const std::scoped_lock lock(mutex_);
        return drops_.size();
    }
    std::atomic<int> hellos{0};
    std::atomic<std::size_t> sequences{0};
    std::atomic<std::size_t> steps{0};

private:
    std::vector<std::uint64_t> dropped() {
        const std::scoped_lock lock(mutex_);
        return keeps_drops_ ? std::vector<std::uint64_t>() : std::exchange(drops_, {});
    }

    std::mutex mutex_;
    std::condition_variable changed_;
    std::vector<std::uint64_t> drops_;  // guarded by mutex_; not answered yet
    std::atomic<bool> keeps_drops_{false};
    std::unique_ptr<FakeWorker> fake_;  // guarded by mutex_; its endpoint is constant
    std::atomic<bool> stopped_{false};
    std::atomic<bool> silent_{false};
    std::atomic<std::uint64_t> answers_as_{0};
    std::atomic<std::uint64_t> numerics_id_{77};  // as the scheduler describes the cluster
    std::unique_ptr<grpc::Server> server_;
};

/// A scheduler process in this process: places on what it was given, skipping workers to be avoided.
class SchedulerProcess final : public proto::Scheduler::Service {
public:
    SchedulerProcess() {
        auto running = proto::start_server({.listen_address = "127.0.0.1:0"}, std::array<grpc::Service*, 1>{this});
        REQUIRE(running);
        server_ = std::move(running->server);
        port_ = running->port;
    }
    std::string address() const { return "127.0.0.1:" + std::to_string(port_); }

    void use(const proto::WorkerEndpoint& prefill, std::vector<proto::WorkerEndpoint> decodes) {
        const std::scoped_lock lock(mutex_);
        prefill_ = prefill;
        decodes_ = std::move(decodes);
    }

    grpc::Status Place(grpc::ServerContext*, const proto::PlaceRequest* request, proto::PlaceReply* reply) override {
        const std::scoped_lock lock(mutex_);
        if (request->header().protocol_version() != proto::kProtocolVersion) {
            return {grpc::StatusCode::FAILED_PRECONDITION, "version"};
        }
        const auto& avoid = request->avoid_workers();
        for (const auto& decode : decodes_) {
            if (std::find(avoid.begin(), avoid.end(), decode.incarnation()) == avoid.end()) {
                *reply = split_placement(prefill_, decode);
                ++open;
                return grpc::Status::OK;
            }
        }
        *reply = refusal(base::ErrorCode::unavailable, 100, "no worker");
        return grpc::Status::OK;
    }
    grpc::Status Release(grpc::ServerContext*, const proto::ReleaseRequest* request, proto::ReleaseReply*) override {
        for (const auto& ended : request->ended()) {
            if (ended.phase() == proto::ReleaseRequest::Ended::PHASE_ALL) { --open; }
        }
        return grpc::Status::OK;
    }
    grpc::Status Describe(grpc::ServerContext*, const proto::DescribeRequest*, proto::DescribeReply* reply) override {
        const std::scoped_lock lock(mutex_);
        *reply = description(!decodes_.empty());
        for (const auto& decode : decodes_) {
            proto::WorkerState& worker = *reply->mutable_models(0)->add_workers();
            *worker.mutable_endpoint() = decode;
            worker.set_state("ready");
        }
        return grpc::Status::OK;
    }
    std::atomic<int> open{0};  // placements without their release

private:
    int port_ = 0;
    std::mutex mutex_;
    proto::WorkerEndpoint prefill_;               // guarded by mutex_
    std::vector<proto::WorkerEndpoint> decodes_;  // guarded by mutex_
    std::unique_ptr<grpc::Server> server_;
};

/// Text that can hold the gateway's I/O thread, where sequences are opened.
class HoldingText final : public ByteText {
public:
    std::unique_ptr<gateway::Detokenizer> detokenizer(bool skip_special) const override {
        if (holds) {
            is_held = true;
            wait_until([this] { return !holds; });
            is_held = false;
        }
        return ByteText::detokenizer(skip_special);
    }
    mutable std::atomic<bool> is_held{false};
    std::atomic<bool> holds{false};
};

struct Cluster {
    explicit Cluster(gateway::GatewayOptions options = {}) {
        scheduler.use(prefill.endpoint(), {first.endpoint(), second.endpoint()});
        options.http.port = 0;
        options.describe_interval = 20ms;
        options.worker_lost_after = 300ms;
        auto started = gateway::GatewayServer::start({.options = options,
                                                      .models = {{.name = "m", .text = text}},
                                                      .scheduler_addresses = {scheduler.address()},
                                                      .hash_key = {},
                                                      .clock = clock,
                                                      .metrics = metrics});
        REQUIRE(started);
        server = std::move(*started);
        wait_until([&] { return status_of(exchange(server->port(), kHealthClose)) == 200; });
    }
    std::string complete(const std::string& fields) const {
        return exchange(server->port(), post("{\"prompt\":\"a\",\"seed\":1,\"ignore_eos\":true," + fields + "}",
                                             "Connection: close\r\n"));
    }

    base::SystemClock clock;
    base::Metrics metrics;
    WorkerProcess prefill{1, 10};
    WorkerProcess first{2, 20};
    WorkerProcess second{3, 30};
    SchedulerProcess scheduler;
    std::shared_ptr<HoldingText> text = std::make_shared<HoldingText>();
    std::unique_ptr<gateway::GatewayServer> server;
};

std::string text_in(const std::string& answer) {
    const auto begin = answer.find("\"text\":\"");
    REQUIRE(begin != std::string::npos);
    const auto end = answer.find("\",\"logprobs\"", begin);
    return answer.substr(begin + 8, end - begin - 8);
}

}  // namespace

TEST_CASE("a request goes over gRPC to prefill and decode, and leaves nothing behind", "[gateway][cluster]") {
    Cluster cluster;
    const std::string answer = cluster.complete("\"max_tokens\":40");
    REQUIRE(status_of(answer) == 200);
    REQUIRE(answer.find("\"completion_tokens\":40") != std::string::npos);
    REQUIRE(text_in(cluster.complete("\"max_tokens\":40")) == text_in(answer));
    wait_until([&] { return cluster.scheduler.open == 0; });
    wait_until([&] { return cluster.prefill.sequences == 0u && cluster.first.sequences == 0u; });
}

TEST_CASE("a decode worker that dies in the middle is replaced without the client noticing", "[gateway][cluster]") {
    const bool is_silent = GENERATE(false, true);
    Cluster cluster;
    const std::string expected = text_in(cluster.complete("\"max_tokens\":400"));
    std::string answer;
    std::thread client([&] { answer = cluster.complete("\"max_tokens\":400"); });
    wait_until([&] { return cluster.first.sequences == 1u; });
    if (is_silent) {
        cluster.first.stop_heartbeats();  // as a stopped process: the connection stays
    } else {
        cluster.first.kill();
    }
    client.join();
    REQUIRE(status_of(answer) == 200);
    REQUIRE(text_in(answer) == expected);
    const std::string metrics = cluster.metrics.text();
    INFO(metrics);
    // A server that goes may still end its streams (cancelled) before the connection breaks (unavailable).
    const auto retried_once = [&](const std::string& reason) {
        return metrics.find("sluice_gateway_retries_total{model=\"m\",reason=\"" + reason + "\"} 1") !=
               std::string::npos;
    };
    REQUIRE((retried_once("unavailable") || retried_once("cancelled")));
    wait_until([&] { return cluster.scheduler.open == 0; });
    wait_until([&] { return cluster.prefill.sequences == 0u && cluster.second.sequences == 0u; });
}

TEST_CASE("another life of a worker at the same address is not mistaken for the one meant", "[gateway][cluster]") {
    Cluster cluster;
    const std::string expected = text_in(cluster.complete("\"max_tokens\":20"));
    WorkerProcess restarted(2, 20);
    restarted.answer_as(21);
    cluster.scheduler.use(cluster.prefill.endpoint(), {[&] {
                                                           auto stale = restarted.endpoint();
                                                           stale.set_incarnation(22);
                                                           return stale;
                                                       }(),
                                                       cluster.second.endpoint()});
    const std::string answer = cluster.complete("\"max_tokens\":20");
    REQUIRE(text_in(answer) == expected);
    REQUIRE(restarted.hellos > 0);
}

TEST_CASE("a worker of another numerics id than the cluster's description is served too", "[gateway][cluster]") {
    Cluster cluster;
    WorkerProcess other(4, 40);
    other.compute_as(78);
    cluster.scheduler.use(cluster.prefill.endpoint(), {other.endpoint()});
    REQUIRE(status_of(cluster.complete("\"max_tokens\":20")) == 200);
    REQUIRE(other.hellos > 0);
}

TEST_CASE("a client that goes frees the workers", "[gateway][cluster]") {
    Cluster cluster;
    Client client(cluster.server->port());
    client.send(post(R"({"prompt":"a","max_tokens":4000,"ignore_eos":true,"stream":true})"));
    client.read_until("data: ");
    wait_until([&] { return cluster.first.sequences == 1u; });
    client.close();
    wait_until([&] { return cluster.first.sequences == 0u && cluster.prefill.sequences == 0u; });
    wait_until([&] { return cluster.scheduler.open == 0; });
}

TEST_CASE("without workers there is a 503 that says when to come again", "[gateway][cluster]") {
    Cluster cluster;
    cluster.scheduler.use({}, {});
    wait_until([&] { return status_of(exchange(cluster.server->port(), kHealthClose)) == 503; });
    const std::string answer = cluster.complete("\"max_tokens\":4");
    REQUIRE(status_of(answer) == 503);
    REQUIRE(answer.find("Retry-After: 1\r\n") != std::string::npos);
}

TEST_CASE("a gateway stops while streams are running", "[gateway][cluster]") {
    Cluster cluster;
    Client client(cluster.server->port());
    client.send(post(R"({"prompt":"a","max_tokens":200,"ignore_eos":true,"stream":true})"));
    client.read_until("data: ");
    std::thread stopping([&] { cluster.server->drain_and_stop(); });
    REQUIRE(client.read_all().find("data: [DONE]") != std::string::npos);
    stopping.join();
}

TEST_CASE("64 streams of a client that stops reading are cut, what waits for it is bounded, others go on",
          "[gateway][cluster]") {
    constexpr std::size_t kStreams = 64;
    constexpr double kBufferBytes = 16 * 1024;
    gateway::GatewayOptions options;
    options.http.send_buffer_bytes_max = static_cast<std::size_t>(kBufferBytes);
    options.http.socket_send_bytes = 4096;
    options.http.write_timeout = 10min;  // only the rule about the buffer cuts
    options.request.generations_max = kStreams + 1;
    Cluster cluster(options);
    const std::string expected = text_in(cluster.complete("\"max_tokens\":400"));
    double most = 0;
    /// Of all rows that begin so and hold `label`.
    const auto sum_of = [&](std::string_view name, std::string_view label) {
        const std::string rows =
            exchange(cluster.server->port(), "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        double sum = 0;
        for (auto at = rows.find(name); at != std::string::npos; at = rows.find(name, at + 1)) {
            const std::string row = rows.substr(at, rows.find('\n', at) - at);
            if (rows[at - 1] == '\n' && row.find(label) != std::string::npos) {
                sum += std::stod(row.substr(row.rfind(' ')));
            }
        }
        return sum;
    };
    const auto look = [&] { most = std::max(most, sum_of("sluice_gateway_send_buffer_bytes", "")); };
    std::vector<std::unique_ptr<Client>> slow;
    for (std::size_t number = 0; number < kStreams; ++number) {
        slow.push_back(std::make_unique<Client>(cluster.server->port(), 4096));
        slow.back()->send(post(R"({"prompt":"a","max_tokens":4000,"ignore_eos":true,"stream":true})"));
        look();
    }
    REQUIRE(text_in(cluster.complete("\"max_tokens\":400")) == expected);
    wait_until([&] {
        look();
        return sum_of("sluice_gateway_cancellations_total", "cause=\"slow_client\"") == double{kStreams};
    });
    wait_until([&] { return cluster.first.sequences == 0u; });
    REQUIRE(most <= static_cast<double>(kStreams + 1) * 17 * kBufferBytes);  // 16 times the limit cuts at once
    const std::string rows = cluster.metrics.text();
    INFO(rows);
    REQUIRE(rows.find("cause=\"client_gone\"") == std::string::npos);
    REQUIRE(text_in(cluster.complete("\"max_tokens\":400")) == expected);
    wait_until([&] { return cluster.scheduler.open == 0; });
}

TEST_CASE("a gateway whose I/O thread was held goes on with every stream, and thinks nobody lost",
          "[gateway][cluster]") {
    gateway::GatewayOptions options;
    options.worker_inbox_bytes_max = 4096;
    Cluster cluster(options);
    const std::string expected = text_in(cluster.complete("\"max_tokens\":2000"));
    std::string first;
    std::thread client([&] { first = cluster.complete("\"max_tokens\":2000"); });
    wait_until([&] { return cluster.first.sequences == 1u; });
    cluster.text->holds = true;
    std::string second;
    std::thread holder([&] { second = cluster.complete("\"max_tokens\":20"); });
    wait_until([&] { return cluster.text->is_held.load(); });
    // Several times as long as silence is borne: a step takes a millisecond at least.
    const std::size_t steps = cluster.first.steps;
    wait_until([&] { return cluster.first.steps >= steps + 1500; });
    cluster.text->holds = false;
    client.join();
    holder.join();
    REQUIRE(text_in(first) == expected);
    REQUIRE(status_of(second) == 200);
    const std::string rows = cluster.metrics.text();
    INFO(rows);
    REQUIRE(rows.find("sluice_gateway_retries_total") == std::string::npos);
}

TEST_CASE("every worker drops its prefixes, and the answer waits for the last", "[gateway][cluster]") {
    gateway::GatewayOptions options;
    options.allow_reset_prefix_cache = true;
    Cluster cluster(options);
    wait_until([&] { return cluster.first.hellos == 1 && cluster.second.hellos == 1; });
    const std::string reset = "POST /reset_prefix_cache HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    const std::string done = exchange(cluster.server->port(), reset);
    REQUIRE(status_of(done) == 200);
    REQUIRE(done.ends_with(R"({"status":"ok","workers":2,"blocks":10})"));

    // One that dies before it has answered has not said that it did.
    cluster.second.keep_drops();
    Client client(cluster.server->port());
    client.send(reset);
    wait_until([&] { return cluster.second.drops_kept() == 1u; });
    cluster.second.kill();
    const std::string lost = client.read_all();
    REQUIRE(status_of(lost) == 504);
    REQUIRE(lost.find("1 of 2 workers") != std::string::npos);
}
