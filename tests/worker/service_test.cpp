// The gRPC side of a worker over a real loopback connection, with the engine that keeps books behind it.
#include "worker/service.h"

#include <grpcpp/grpcpp.h>

#include <deque>
#include <functional>
#include <future>
#include <mutex>
#include <thread>

#include "base/log.h"
#include "base/seal.h"
#include "gateway/cluster/worker_client.h"
#include "proto/channel.h"
#include "proto/version.h"
#include "proto/worker.grpc.pb.h"
#include "worker/run_steps.h"

#include "tests/support/catch.h"
#include "tests/support/health.h"
#include "tests/support/ledger_engine.h"

using sluice::proto::SequenceOutput;
using sluice::proto::WorkerCommand;
using sluice::proto::WorkerEvent;
using test_support::ledger_continuation;

namespace {

constexpr std::chrono::seconds kPatience{30};  // a hang is a failure, not a wait for ever

struct RunningWorker {
    explicit RunningWorker(worker::WorkerOptions options = {}, const proto::ClusterKey& key = proto::ClusterKey())
        : cache({.blocks_total = 64, .block_tokens = 16}),
          server(worker::WorkerServer::listen("127.0.0.1:0", options, clock, key).value()),
          loop({.limits = options, .hash_key = {}, .model = "ledger", .worker = "w", .role = worker::Role::mixed},
               engine, cache, *server, board, clock, metrics) {
        base::init_log({.role = "test", .level = "off"});
        identity.model = "ledger";
        identity.numerics_id = 42;
        identity.worker = base::WorkerId{1};
        identity.incarnation = base::Incarnation{7};
        loop.attach(worker::Part::whole, &whole);
        thread = std::jthread([this](std::stop_token stop) { worker::run_steps(loop, stop); });
        server->serve(identity, loop, board);
    }
    ~RunningWorker() {
        thread = {};
        server->stop();
    }
    std::uint32_t blocks_in_use() {
        std::promise<std::uint32_t> used;
        auto answer = used.get_future();
        REQUIRE(loop.post([&] {
            const auto counts = cache.counts();
            used.set_value(counts.used + counts.pinned + counts.stranded);
        }));
        REQUIRE(answer.wait_for(kPatience) == std::future_status::ready);
        return answer.get();
    }

    base::SystemClock clock;
    base::Metrics metrics;
    test_support::LedgerEngine engine{{}};
    kv_cache::KvCache cache;
    worker::ReportBoard board;
    std::unique_ptr<worker::WorkerServer> server;
    worker::WorkerIdentity identity;
    worker::RolePart whole;
    worker::StepLoop loop;
    std::jthread thread;
};

/// One gateway's end of the stream.
struct Client {
    explicit Client(const RunningWorker& running)
        : Client(proto::make_channel({.address = "127.0.0.1:" + std::to_string(running.server->port())})) {}
    explicit Client(std::shared_ptr<grpc::Channel> given)
        : channel(std::move(given)), stub(sluice::proto::Worker::NewStub(channel)) {
        context.set_deadline(std::chrono::system_clock::now() + kPatience);
        stream = stub->Serve(&context);
    }

    void hello(const worker::WorkerIdentity& identity) {
        WorkerCommand command;
        *command.mutable_hello()->mutable_header() = worker::make_header(identity);
        command.mutable_hello()->set_gateway("test");
        stream->Write(command);
    }
    void start(std::uint64_t request, const std::vector<base::TokenId>& prompt, std::uint32_t new_tokens) {
        WorkerCommand command;
        auto& start = *command.mutable_start();
        start.set_request_id(request);
        start.set_part(sluice::proto::Start::PART_WHOLE);
        start.mutable_prompt()->Add(prompt.begin(), prompt.end());
        start.mutable_stop()->set_new_tokens_max(new_tokens);
        start.mutable_sampling()->set_top_p(1);
        start.mutable_sampling()->set_repetition_penalty(1);
        stream->Write(command);
    }
    void read_hello() {
        WorkerEvent event;
        REQUIRE(stream->Read(&event));
        REQUIRE(event.has_hello());
    }
    /// Reads until `request` has its final output.
    std::vector<base::TokenId> read_to_end(std::uint64_t request, SequenceOutput::Finish& finish) {
        std::vector<base::TokenId> tokens;
        for (WorkerEvent event; stream->Read(&event);) {
            for (const SequenceOutput& output : event.step().sequences()) {
                if (output.request_id() != request) { continue; }
                for (const auto& token : output.tokens()) {
                    tokens.push_back(token.token());
                }
                if (output.finish() != SequenceOutput::FINISH_NONE) {
                    finish = output.finish();
                    return tokens;
                }
            }
        }
        finish = SequenceOutput::FINISH_NONE;
        return tokens;
    }

    std::shared_ptr<grpc::Channel> channel;
    std::unique_ptr<sluice::proto::Worker::Stub> stub;
    grpc::ClientContext context;
    std::unique_ptr<grpc::ClientReaderWriter<WorkerCommand, WorkerEvent>> stream;
};

constexpr worker::GatewayId kFirstGateway{1};
constexpr worker::GatewayId kSecondGateway{2};

/// A real gateway's end of the stream. Its I/O thread is whoever calls run(): until then nothing is handled.
struct GatewaySide final : gateway::ClusterEvents {
    GatewaySide(const RunningWorker& running, std::size_t inbox_bytes_max,
                base::Duration lost_after = std::chrono::hours(1))
        : client(
              {.models = {"ledger"},
               .name = "held",
               .lost_after = lost_after,
               .hello_timeout = std::chrono::hours(1),
               .inbox_bytes_max = inbox_bytes_max},
              [this](std::function<void()> work) {
                  const std::scoped_lock lock(mutex);
                  posted.push_back(std::move(work));
              },
              [](base::TimePoint) {}, running.clock) {
        client.attach(*this);
        sluice::proto::DescribeReply cluster;
        cluster.set_worker_lease_ms(5000);
        auto& model = *cluster.add_models();
        model.set_model("ledger");
        auto& state = *model.add_workers();
        state.set_state("ready");
        *state.mutable_endpoint() = worker::make_endpoint(running.identity);
        state.mutable_endpoint()->set_control_address("127.0.0.1:" + std::to_string(running.server->port()));
        client.expect(cluster);
    }
    ~GatewaySide() override { client.stop(); }

    /// One turn of the I/O thread: what was posted until now.
    void run() {
        std::deque<std::function<void()>> work;
        {
            const std::scoped_lock lock(mutex);
            work.swap(posted);
        }
        for (const auto& one : work) {
            one();
        }
    }
    template <class Condition>
    void run_until(Condition condition) {
        const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
        while (!condition()) {
            if (std::chrono::steady_clock::now() >= end) { FAIL("the condition did not come true in 60 s"); }
            run();
            std::this_thread::yield();
        }
    }
    /// Until this is the worker's gateway `id`.
    void meet(RunningWorker& running, worker::GatewayId id);

    void on_place_answered(base::RequestId, base::Epoch, const base::Result<sluice::proto::PlaceReply>&) override {}
    void on_cluster(const base::Result<sluice::proto::DescribeReply>&) override {}
    void on_output(base::Incarnation, const SequenceOutput& output) override {
        tokens += static_cast<std::size_t>(output.tokens_size());
        bytes += output.ByteSizeLong();
    }
    void on_worker_lost(base::Incarnation, const base::Error&) override { is_lost = true; }

    std::size_t tokens = 0;
    std::size_t bytes = 0;
    bool is_lost = false;
    std::mutex mutex;
    std::deque<std::function<void()>> posted;  // guarded by mutex
    gateway::WorkerClient client;
};

/// An output of `count` tokens, as a prompt's logprobs make one.
std::vector<worker::SequenceOutput> make_outputs(std::uint64_t request, std::size_t count) {
    worker::SequenceOutput output;
    output.key = {base::RequestId{request}, base::Epoch{0}};
    output.tokens.resize(count);
    return {std::move(output)};
}

void GatewaySide::meet(RunningWorker& running, worker::GatewayId id) {
    // Seldom: what waits until the stream is there must not fill the worker's buffer for it.
    constexpr auto kBetween = std::chrono::milliseconds(20);
    auto next = std::chrono::steady_clock::now();
    run_until([&] {
        if (const auto now = std::chrono::steady_clock::now(); now >= next) {
            REQUIRE(running.loop.post([&running, id] { running.server->deliver(id, make_outputs(9, 1)); }));
            next = now + kBetween;
        }
        return tokens > 0;
    });
}

}  // namespace

TEST_CASE("a gateway says hello, starts a request and gets its tokens", "[worker]") {
    RunningWorker running;
    Client client(running);
    client.hello(running.identity);
    WorkerEvent reply;
    REQUIRE(client.stream->Read(&reply));
    REQUIRE(reply.hello().endpoint().incarnation() == 7);
    REQUIRE(reply.hello().heartbeat_ms() > 0);
    client.start(5, {1, 2, 3}, 12);
    SequenceOutput::Finish finish{};
    REQUIRE(client.read_to_end(5, finish) == ledger_continuation({1, 2, 3}, 12, 1000));
    REQUIRE(finish == SequenceOutput::FINISH_LENGTH);
    client.stream->WritesDone();
    REQUIRE(client.stream->Finish().ok());
}

TEST_CASE("a bad request gets an error and the stream lives on", "[worker]") {
    RunningWorker running;
    Client client(running);
    client.hello(running.identity);
    client.start(5, {}, 12);
    SequenceOutput::Finish finish{};
    client.read_to_end(5, finish);
    REQUIRE(finish == SequenceOutput::FINISH_ERROR);
    client.start(6, {4}, 2);
    REQUIRE(client.read_to_end(6, finish) == ledger_continuation({4}, 2, 1000));
}

TEST_CASE("a stream without a fitting hello is ended with the reason", "[worker]") {
    RunningWorker running;
    {
        Client client(running);
        client.start(5, {1}, 1);
        WorkerEvent event;
        REQUIRE(!client.stream->Read(&event));
        REQUIRE(client.stream->Finish().error_code() == grpc::StatusCode::FAILED_PRECONDITION);
    }
    Client client(running);
    auto other = running.identity;
    other.model = "another";
    client.hello(other);
    WorkerEvent event;
    REQUIRE(!client.stream->Read(&event));
    REQUIRE(client.stream->Finish().error_code() == grpc::StatusCode::FAILED_PRECONDITION);
}

TEST_CASE("a gateway of another minor version streams; one of another major version is told both", "[worker]") {
    RunningWorker running;
    const auto hello_with = [&](Client& client, std::uint32_t version, std::uint32_t minor) {
        WorkerCommand command;
        auto& header = *command.mutable_hello()->mutable_header();
        header = worker::make_header(running.identity);
        header.set_protocol_version(version);
        header.set_protocol_minor(minor);
        client.stream->Write(command);
    };
    for (const std::uint32_t minor : {std::uint32_t{0}, proto::kProtocolMinor + 1}) {
        CAPTURE(minor);
        Client client(running);
        hello_with(client, proto::kProtocolVersion, minor);
        client.read_hello();
        client.start(5 + minor, {1, 2, 3}, 12);
        SequenceOutput::Finish finish{};
        REQUIRE(client.read_to_end(5 + minor, finish) == ledger_continuation({1, 2, 3}, 12, 1000));
        REQUIRE(finish == SequenceOutput::FINISH_LENGTH);
    }
    Client client(running);
    hello_with(client, proto::kProtocolVersion + 1, 4);
    WorkerEvent event;
    REQUIRE(!client.stream->Read(&event));
    const grpc::Status status = client.stream->Finish();
    REQUIRE(status.error_code() == grpc::StatusCode::FAILED_PRECONDITION);
    REQUIRE(status.error_message() == "protocol version " + std::to_string(proto::kProtocolVersion + 1) +
                                          ".4, ours is " + std::to_string(proto::kProtocolVersion) + "." +
                                          std::to_string(proto::kProtocolMinor));
}

TEST_CASE("who does not show the cluster's key gets no stream", "[worker][hostile]") {
    const proto::ClusterKey key(*base::parse_hash_key("00112233445566778899aabbccddeeff"));
    RunningWorker running({}, key);
    const std::string address = "127.0.0.1:" + std::to_string(running.server->port());
    for (const auto& channel : {grpc::CreateChannel(address, grpc::InsecureChannelCredentials()),
                                proto::make_channel({.address = address})}) {
        Client stranger(channel);
        stranger.hello(running.identity);
        stranger.start(5, {1, 2, 3}, 12);
        WorkerEvent event;
        REQUIRE(!stranger.stream->Read(&event));
        REQUIRE(stranger.stream->Finish().error_code() == grpc::StatusCode::UNAUTHENTICATED);
    }
    Client client(proto::make_channel({.address = address, .key = key}));
    client.hello(running.identity);
    client.read_hello();
    client.start(5, {1, 2, 3}, 12);
    SequenceOutput::Finish finish{};
    REQUIRE(client.read_to_end(5, finish) == ledger_continuation({1, 2, 3}, 12, 1000));
}

TEST_CASE("a Start with the address of nobody of the cluster is refused, and the stream lives on",
          "[worker][hostile]") {
    RunningWorker running;
    Client client(running);
    client.hello(running.identity);
    client.read_hello();
    const std::string good = base::seal_address({}, base::Incarnation{9}, "an address");
    for (const std::string& bad : {std::string(9, 'x'), good.substr(0, 12), good + "x",
                                   base::seal_address({}, base::Incarnation{8}, "an address")}) {
        for (const bool as_source : {false, true}) {
            WorkerCommand command;
            auto& start = *command.mutable_start();
            start.set_request_id(6);
            start.set_part(sluice::proto::Start::PART_DECODE);
            auto& endpoint = as_source ? *start.mutable_kv_source()->mutable_worker() : *start.mutable_peer();
            endpoint.set_incarnation(9);
            endpoint.set_kv_address(bad);
            client.stream->Write(command);
            WorkerEvent event;
            while (client.stream->Read(&event) && event.step().sequences_size() == 0) {}
            REQUIRE(event.step().sequences_size() == 1);
            REQUIRE(event.step().sequences(0).finish() == SequenceOutput::FINISH_ERROR);
            REQUIRE(event.step().sequences(0).error().message().find("KV address") != std::string::npos);
        }
    }
    client.start(7, {1, 2, 3}, 12);
    SequenceOutput::Finish finish{};
    REQUIRE(client.read_to_end(7, finish) == ledger_continuation({1, 2, 3}, 12, 1000));
}

TEST_CASE("streams that say no Hello keep no gateway out", "[worker][hostile]") {
    worker::WorkerOptions options;
    options.gateways_max = 4;
    RunningWorker running(options);
    std::vector<std::unique_ptr<Client>> idle;
    for (int i = 0; i < 40; ++i) {
        idle.push_back(std::make_unique<Client>(running));
    }
    // Whoever says Hello finds room, at the latest when he comes again: as a gateway does.
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    bool is_greeted = false;
    while (!is_greeted && std::chrono::steady_clock::now() < deadline) {
        Client client(running);
        client.hello(running.identity);
        WorkerEvent event;
        is_greeted = client.stream->Read(&event) && event.has_hello();
    }
    REQUIRE(is_greeted);
}

TEST_CASE("the scheduler's lease bounds the heartbeats of gateways' streams", "[worker][hostile]") {
    worker::WorkerOptions options;
    options.heartbeat = std::chrono::hours(1);
    RunningWorker running(options);
    running.board.set_heartbeat_max(std::chrono::milliseconds(20));
    Client client(running);
    client.hello(running.identity);
    WorkerEvent event;
    REQUIRE(client.stream->Read(&event));
    REQUIRE(event.hello().heartbeat_ms() == 20);
}

TEST_CASE("a gateway waits no longer than the scheduler's lease for a worker, whatever that one promises",
          "[worker][hostile]") {
    worker::WorkerOptions options;
    options.heartbeat = std::chrono::hours(1);  // four of which it would be waited for
    RunningWorker running(options);
    GatewaySide gateway(running, 1 << 20, std::chrono::milliseconds(1));
    const auto lost_in = [&] {
        const base::TimePoint now = running.clock.now();
        return gateway.client.tick(now).value_or(now + std::chrono::hours(9)) - now;
    };
    // Until its Hello is answered it has the hello timeout, an hour.
    gateway.run_until([&] { return lost_in() < std::chrono::minutes(50); });
    CHECK(lost_in() <= std::chrono::seconds(5));
}

TEST_CASE("when a gateway goes, its sequences go", "[worker]") {
    RunningWorker running;
    {
        Client client(running);
        client.hello(running.identity);
        client.start(5, {1, 2, 3}, 800);
        WorkerEvent event;
        while (client.stream->Read(&event) && event.step().sequences_size() == 0) {}
        client.context.TryCancel();
        client.stream->Finish();
    }
    const auto give_up = std::chrono::steady_clock::now() + kPatience;
    while (running.blocks_in_use() != 0) {
        REQUIRE(std::chrono::steady_clock::now() < give_up);
    }
}

TEST_CASE("one output larger than the buffer reaches its gateway, small ones before and behind it too", "[worker]") {
    RunningWorker running({.output_buffer_bytes = 1 << 16});
    Client client(running);
    client.hello(running.identity);
    client.read_hello();
    std::size_t sent = 0;
    REQUIRE(running.loop.post([&] {
        for (const std::size_t count : {std::size_t{1}, std::size_t{200'000}, std::size_t{1}, std::size_t{1}}) {
            running.server->deliver(kFirstGateway, make_outputs(9, count));
        }
    }));
    while (sent < 200'003) {
        WorkerEvent event;
        REQUIRE(client.stream->Read(&event));
        for (const SequenceOutput& output : event.step().sequences()) {
            sent += static_cast<std::size_t>(output.tokens_size());
        }
    }
    client.start(6, {4}, 2);  // the stream lives on
    SequenceOutput::Finish finish{};
    REQUIRE(client.read_to_end(6, finish) == ledger_continuation({4}, 2, 1000));
}

TEST_CASE("a gateway that does not read is cut, and what waits for it stays bounded", "[worker]") {
    RunningWorker running({.output_buffer_bytes = 1 << 16});
    Client client(running);
    client.hello(running.identity);
    client.read_hello();
    std::promise<void> delivered;
    REQUIRE(running.loop.post([&] {
        for (int i = 0; i < 4000; ++i) {  // about 200 MB: no socket holds so much
            running.server->deliver(kFirstGateway, make_outputs(9, 10'000));
        }
        delivered.set_value();
    }));
    REQUIRE(delivered.get_future().wait_for(kPatience) == std::future_status::ready);
    for (WorkerEvent event; client.stream->Read(&event);) {}
    REQUIRE(client.stream->Finish().error_code() == grpc::StatusCode::CANCELLED);
}

TEST_CASE("a gateway whose I/O thread is held keeps little, is cut by the rule, and others do not notice", "[worker]") {
    constexpr std::size_t kInboxBytes = 1 << 16;
    constexpr std::size_t kRounds = 2000;
    constexpr std::size_t kTokens = 8000;  // of one event: 16 KB, so 32 MB in all: no socket holds so much
    constexpr std::size_t kEventBytesMax = kTokens * 4;
    RunningWorker running({.output_buffer_bytes = 1 << 16});
    GatewaySide held(running, kInboxBytes);
    held.meet(running, kFirstGateway);
    GatewaySide well(running, kInboxBytes);
    well.meet(running, kSecondGateway);
    held.run();

    const std::size_t before = well.tokens;
    for (std::size_t round = 1; round <= kRounds; ++round) {
        REQUIRE(running.loop.post([&] {
            running.server->deliver(kFirstGateway, make_outputs(9, kTokens));
            running.server->deliver(kSecondGateway, make_outputs(9, kTokens));
        }));
        // No faster than a gateway that reads: it is not for the speed that the other one is cut.
        well.run_until([&] { return well.tokens >= before + round * kTokens; });
    }
    REQUIRE_FALSE(well.is_lost);

    const std::size_t bytes = held.bytes;
    held.run();
    REQUIRE(held.bytes - bytes <= kInboxBytes + kEventBytesMax);
    held.run_until([&] { return held.is_lost; });
}

TEST_CASE("an idle stream gets heartbeats", "[worker]") {
    RunningWorker running({.heartbeat = std::chrono::milliseconds(10)});
    Client client(running);
    client.hello(running.identity);
    WorkerEvent event;
    int heartbeats = 0;
    while (heartbeats < 3 && client.stream->Read(&event)) {
        heartbeats += event.heartbeat() ? 1 : 0;
    }
    REQUIRE(heartbeats == 3);
}

TEST_CASE("a draining worker is not serving, refuses new starts and finishes what runs", "[worker]") {
    RunningWorker running;
    Client client(running);
    client.hello(running.identity);
    client.read_hello();
    REQUIRE(test_support::is_serving(client.channel));
    client.start(4, {1, 2, 3}, 400);
    WorkerEvent event;
    while (client.stream->Read(&event) && event.step().sequences_size() == 0) {}
    const int first = event.step().sequences(0).tokens_size();
    running.loop.begin_drain();
    running.server->announce_drain();
    REQUIRE_FALSE(test_support::is_serving(client.channel));
    client.start(5, {1, 2, 3}, 5);
    int tokens = first;
    SequenceOutput::Finish running_ends{};
    SequenceOutput::Finish new_ends{};
    while (running_ends == SequenceOutput::FINISH_NONE && client.stream->Read(&event)) {
        for (const SequenceOutput& output : event.step().sequences()) {
            if (output.request_id() == 4) { tokens += output.tokens_size(); }
            (output.request_id() == 4 ? running_ends : new_ends) = output.finish();
        }
    }
    REQUIRE(running_ends == SequenceOutput::FINISH_LENGTH);
    REQUIRE(tokens == 400);
    if (new_ends == SequenceOutput::FINISH_NONE) { client.read_to_end(5, new_ends); }
    REQUIRE(new_ends == SequenceOutput::FINISH_ERROR);
}
