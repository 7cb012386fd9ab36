// Two schedulers behind gRPC that share a lease.
#include <grpcpp/grpcpp.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>

#include "base/clock.h"
#include "proto/channel.h"
#include "proto/scheduler.grpc.pb.h"
#include "scheduler/folder_lease.h"
#include "scheduler/service.h"
#include "tests/scheduler/builders.h"

#include "tests/support/catch.h"

using namespace std::chrono_literals;
using scheduler::FolderLease;
using scheduler::SchedulerServer;
using scheduler_test::make_header;
using scheduler_test::make_heartbeat;
using scheduler_test::make_place;
using scheduler_test::make_registration;

namespace {

constexpr auto kPatience = 30s;  // a hang is a failure, not a wait for ever

struct Folder {
    Folder() {
        std::string name = (std::filesystem::temp_directory_path() / "sluice-standby-XXXXXX").string();
        REQUIRE(mkdtemp(name.data()) != nullptr);
        path = name;
    }
    ~Folder() { std::filesystem::remove_all(path); }
    std::unique_ptr<FolderLease> lease() const { return std::move(FolderLease::open(path).value()); }
    std::string path;
};

scheduler::SchedulerOptions options_for(std::chrono::milliseconds gather_max) {
    scheduler::SchedulerOptions options;
    options.leader_silence = 60s;  // of a busy machine: these tests are about ends that are told
    options.lease = 60min;
    options.gather_max = gather_max;
    return options;
}

/// A scheduler with its metrics, and somebody who asks it.
struct Server {
    Server(const Folder& folder, const base::Clock& clock, std::chrono::milliseconds gather_max = 10min)
        : server(std::move(SchedulerServer::start(options_for(gather_max), "127.0.0.1:0", clock, metrics,
                                                  proto::ClusterKey(), folder.lease())
                               .value())),
          stub(proto::Scheduler::NewStub(proto::make_channel({.address = server->address()}))) {}

    static void limit(grpc::ClientContext& context) {
        context.set_deadline(std::chrono::system_clock::now() + kPatience);
        context.set_wait_for_ready(true);
    }
    grpc::Status place(proto::PlaceReply& reply) {
        grpc::ClientContext context;
        limit(context);
        return stub->Place(&context, make_place({}), &reply);
    }
    /// Asks until it is refused with words that hold `text`.
    void wait_refused(const std::string& text) {
        const auto deadline = std::chrono::steady_clock::now() + kPatience;
        while (true) {
            proto::PlaceReply reply;
            const grpc::Status status = place(reply);
            if (status.error_code() == grpc::StatusCode::UNAVAILABLE &&
                status.error_message().find(text) != std::string::npos) {
                return;
            }
            INFO(status.error_message());
            REQUIRE(std::chrono::steady_clock::now() < deadline);
        }
    }
    /// Asks until it answers as a leader does.
    proto::PlaceReply wait_answer() {
        const auto deadline = std::chrono::steady_clock::now() + kPatience;
        while (true) {
            proto::PlaceReply reply;
            const grpc::Status status = place(reply);
            if (status.ok()) { return reply; }
            INFO(status.error_message());
            REQUIRE(std::chrono::steady_clock::now() < deadline);
        }
    }

    bool tells(const std::string& line) const { return metrics.text().find(line) != std::string::npos; }
    void wait_tells(const std::string& line) const {
        const auto deadline = std::chrono::steady_clock::now() + kPatience;
        while (!tells(line)) {
            INFO(line);
            REQUIRE(std::chrono::steady_clock::now() < deadline);
        }
    }

    base::Metrics metrics;
    std::unique_ptr<SchedulerServer> server;
    std::unique_ptr<proto::Scheduler::Stub> stub;
};

/// A worker's stream to one of them.
struct Worker {
    explicit Worker(Server& server) {
        Server::limit(context);
        stream = server.stub->Attach(&context);
        proto::WorkerReport report;
        *report.mutable_registration() = make_registration({.id = 1, .incarnation = 11});
        REQUIRE(stream->Write(report));
        REQUIRE(stream->Read(&directive));
        REQUIRE(directive.has_registered());
    }
    ~Worker() { context.TryCancel(); }
    void beat() {
        proto::WorkerReport report;
        *report.mutable_heartbeat() = make_heartbeat(1);
        REQUIRE(stream->Write(report));
    }
    grpc::Status ended() {
        while (stream->Read(&directive)) {}
        return stream->Finish();
    }

    grpc::ClientContext context;
    proto::WorkerDirective directive;
    std::unique_ptr<grpc::ClientReaderWriter<proto::WorkerReport, proto::WorkerDirective>> stream;
};

void wait_record_of_one_worker(FolderLease& watcher) {
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    while (watcher.look().value().workers != 1) {
        REQUIRE(std::chrono::steady_clock::now() < deadline);
    }
}

}  // namespace

TEST_CASE("who stands by places nothing, and takes over when the leader goes, as soon as its workers have told",
          "[scheduler][leader]") {
    const base::SystemClock clock;
    const Folder folder;
    const auto watcher = folder.lease();
    Server first(folder, clock);
    const std::uint64_t epoch = first.wait_answer().scheduler_epoch();
    Worker worker(first);
    worker.beat();
    Server second(folder, clock);
    second.wait_refused("stands by");
    wait_record_of_one_worker(*watcher);
    first.server->drain_and_stop();
    REQUIRE(worker.ended().error_code() == grpc::StatusCode::UNAVAILABLE);
    second.wait_refused("waits for its workers");
    REQUIRE(second.tells("sluice_scheduler_epoch 0\n"));

    Worker again(second);
    REQUIRE(again.directive.scheduler_epoch() > epoch);
    second.wait_refused("waits for its workers");  // it has registered, and not said how it stands
    again.beat();
    const auto reply = second.wait_answer();
    REQUIRE(reply.has_placement());
    REQUIRE(reply.scheduler_epoch() == again.directive.scheduler_epoch());
    REQUIRE(second.metrics.text().find("sluice_scheduler_leads 1") != std::string::npos);
    const std::string text = second.metrics.text();
    const std::string name = "\nsluice_scheduler_epoch ";
    REQUIRE(std::stod(text.substr(text.find(name) + name.size())) == static_cast<double>(reply.scheduler_epoch()));
}

TEST_CASE("other priorities count at once where it leads, and when its turn comes where it stands by",
          "[scheduler][leader]") {
    const base::SystemClock clock;
    const Folder folder;
    const auto watcher = folder.lease();
    std::uint64_t requests = 0;
    /// How much its tenant has had beyond those whom it is compared with: only requests of one priority are.
    const auto tokens_ahead = [&requests](Server& server, const std::string& tenant, const std::string& slo_class) {
        auto ask = make_place({.request_id = ++requests, .tenant = tenant});
        ask.set_slo_class(slo_class);
        grpc::ClientContext context;
        Server::limit(context);
        proto::PlaceReply reply;
        const grpc::Status status = server.stub->Place(&context, ask, &reply);
        INFO(status.error_message());
        REQUIRE(reply.has_placement());
        return reply.placement().tenant_tokens();
    };
    Server first(folder, clock);
    first.wait_answer();
    Worker worker(first);
    worker.beat();
    Server second(folder, clock);
    second.wait_refused("stands by");
    second.server->set_class_rules({{"chat", {.priority = 1}}});
    wait_record_of_one_worker(*watcher);
    tokens_ahead(first, "red", "batch");
    tokens_ahead(first, "blue", "chat");
    REQUIRE(tokens_ahead(first, "blue", "chat") > 0);
    first.server->set_class_rules({{"chat", {.priority = 1}}});
    REQUIRE(tokens_ahead(first, "blue", "chat") == 0);
    first.server->drain_and_stop();

    second.wait_refused("waits for its workers");
    Worker again(second);
    again.beat();
    second.wait_answer();
    tokens_ahead(second, "red", "batch");
    tokens_ahead(second, "blue", "chat");
    REQUIRE(tokens_ahead(second, "blue", "chat") == 0);
    second.server->set_class_rules({});
    REQUIRE(tokens_ahead(second, "blue", "chat") > 0);
}

TEST_CASE("a new leader waits for workers that do not come only for a time", "[scheduler][leader]") {
    const base::SystemClock clock;
    const Folder folder;
    {
        const auto former = folder.lease();
        scheduler::LeaderTerm term;
        term.serial = 1;
        term.epoch = 7;
        term.workers = 100;
        REQUIRE(former->begin({}, term).value());
    }
    Server next(folder, clock, 1ms);
    const auto reply = next.wait_answer();
    REQUIRE(reply.has_refusal());
    REQUIRE(reply.scheduler_epoch() > 7);
}

TEST_CASE("a leader that stood still past its lease ends its streams and leads, if at all, with a new epoch",
          "[scheduler][leader]") {
    base::FakeClock clock;
    const Folder folder;
    Server server(folder, clock);
    const std::uint64_t epoch = server.wait_answer().scheduler_epoch();
    Worker worker(server);
    wait_record_of_one_worker(*folder.lease());
    server.wait_tells(R"(state="ready"} 1)");
    clock.advance(61s);
    REQUIRE(worker.ended().error_code() == grpc::StatusCode::UNAVAILABLE);
    // Of workers that are another one's now nobody hears from it any more.
    server.wait_refused("waits for its workers");
    REQUIRE(!server.tells("sluice_scheduler_workers"));
    // Nobody else was there to take over; it awaits the worker that it had, which comes again.
    server.wait_refused("waits for its workers");
    Worker again(server);
    again.beat();
    REQUIRE(server.wait_answer().scheduler_epoch() > epoch);
}
