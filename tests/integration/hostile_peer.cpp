// Whoever reaches a cluster's internal ports, for the integration tests.
//   hostile_peer SCHEDULER stranger     knows the protocol but not the key (or has another one, from
//   SLUICE_CLUSTER_KEY) hostile_peer SCHEDULER liar         has the key (from SLUICE_CLUSTER_KEY) and says what is not
//   true
// Asks the scheduler who is there where it is let in, else takes worker addresses (host:port) from further arguments.
// Prints a line "WHAT: STATUS" for each attempt, "holding" when it has done everything and holds what it could get, and
// ends with its stdin.
#include <grpcpp/grpcpp.h>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/block_hash.h"
#include "base/seal.h"
#include "proto/channel.h"
#include "proto/header.h"
#include "proto/scheduler.grpc.pb.h"
#include "proto/worker.grpc.pb.h"

namespace {

constexpr int kStreams = 600;
constexpr std::uint64_t kPlacements =
    200;  // below a worker's queue: beyond it everybody is refused until the lease ends
constexpr std::uint64_t kLife = 0xbad;

void say(const std::string& what, const grpc::Status& status) {
    std::printf("%s: %d %s\n", what.c_str(), static_cast<int>(status.error_code()), status.error_message().c_str());
    std::fflush(stdout);
}

void limit(grpc::ClientContext& context) {
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
}

std::shared_ptr<grpc::Channel> channel_to(const std::string& address) {
    const char* const key = std::getenv("SLUICE_CLUSTER_KEY");
    if (key == nullptr) { return grpc::CreateChannel(address, grpc::InsecureChannelCredentials()); }
    return proto::make_channel({.address = address, .key = proto::ClusterKey(base::parse_hash_key(key).value())});
}

struct Held {
    grpc::ClientContext context;
    std::unique_ptr<grpc::ClientReaderWriter<proto::WorkerReport, proto::WorkerDirective>> attached;
    std::unique_ptr<grpc::ClientReaderWriter<proto::WorkerCommand, proto::WorkerEvent>> served;
};
std::vector<std::unique_ptr<Held>> held;

proto::DescribeReply describe(proto::Scheduler::Stub& stub) {
    grpc::ClientContext context;
    limit(context);
    proto::DescribeRequest request;
    *request.mutable_header() = proto::make_header("", 0);
    proto::DescribeReply reply;
    say("describe", stub.Describe(&context, request, &reply));
    return reply;
}

void attach(proto::Scheduler::Stub& stub, const std::string& what, const proto::RegisterWorker& registration) {
    grpc::ClientContext context;
    limit(context);
    const auto stream = stub.Attach(&context);
    proto::WorkerReport report;
    *report.mutable_registration() = registration;
    stream->Write(report);
    proto::WorkerDirective directive;
    if (stream->Read(&directive)) {
        std::printf("%s: taken in\n", what.c_str());
        context.TryCancel();
    }
    say(what, stream->Finish());
}

proto::RegisterWorker registration_of(const proto::ModelState& model, const proto::WorkerState& worker) {
    proto::RegisterWorker registration;
    *registration.mutable_header() = proto::make_header(model.model(), model.numerics_id());
    *registration.mutable_endpoint() = worker.endpoint();
    registration.set_role(worker.role());
    registration.set_kv_blocks_total(1000);
    registration.set_block_tokens(model.block_tokens());
    registration.set_context_tokens(model.context_tokens());
    registration.set_batch_sequences_max(64);
    registration.set_batch_tokens_max(512);
    registration.set_queue_requests_max(256);
    return registration;
}

void place(proto::Scheduler::Stub& stub, const std::string& model, std::uint64_t count) {
    grpc::Status status;
    for (std::uint64_t i = 0; i < count && status.ok(); ++i) {
        grpc::ClientContext context;
        limit(context);
        proto::PlaceRequest request;
        *request.mutable_header() = proto::make_header(model, 0);
        request.set_request_id(kLife + i);
        request.set_gateway(kLife);
        request.set_prompt_tokens(100);
        request.set_new_tokens_max(100);
        proto::PlaceReply reply;
        status = stub.Place(&context, request, &reply);
    }
    say("place", status);
}

/// Starts that name KV addresses of nobody, behind a Hello that fits or does not.
void serve(const std::string& address, const std::string& model, std::uint64_t incarnation) {
    const auto stub = proto::Worker::NewStub(channel_to(address));
    grpc::ClientContext context;
    limit(context);
    const auto stream = stub->Serve(&context);
    proto::WorkerCommand command;
    *command.mutable_hello()->mutable_header() = proto::make_header(model, 0);
    command.mutable_hello()->set_incarnation(incarnation);
    stream->Write(command);
    proto::WorkerEvent event;
    int refused = 0;
    if (stream->Read(&event) && event.has_hello()) {
        for (const std::string& bad : {std::string(9, 'x'), std::string(300, '\xff')}) {
            for (const auto part : {proto::Start::PART_PREFILL, proto::Start::PART_DECODE}) {
                proto::Start& start = *command.mutable_start();
                start.set_request_id(kLife);
                start.set_part(part);
                start.add_prompt(1);
                start.mutable_peer()->set_incarnation(kLife);
                start.mutable_peer()->set_kv_address(bad);
                *start.mutable_kv_source()->mutable_worker() = start.peer();
                stream->Write(command);
                while (stream->Read(&event) && event.step().sequences_size() == 0) {}
                if (event.step().sequences_size() > 0 && event.step().sequences(0).has_error()) { ++refused; }
            }
        }
        std::printf("starts refused: %d\n", refused);
        context.TryCancel();
    }
    say("serve", stream->Finish());
}

void hold(const std::function<void(Held&)>& open) {
    for (int i = 0; i < kStreams; ++i) {
        auto& one = *held.emplace_back(std::make_unique<Held>());
        open(one);
    }
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 3) { return 2; }
    const auto channel = channel_to(argv[1]);
    const auto scheduler = proto::Scheduler::NewStub(channel);
    const bool lies = std::string(argv[2]) == "liar";
    const proto::DescribeReply cluster = describe(*scheduler);
    place(*scheduler, "", lies ? kPlacements : 1);
    std::vector<std::unique_ptr<proto::Worker::Stub>> workers;
    if (!lies) {
        proto::RegisterWorker registration;
        *registration.mutable_header() = proto::make_header("stories260k", 0);
        registration.mutable_endpoint()->set_worker_id(1);
        attach(*scheduler, "attach", registration);
        for (int i = 3; i < argc; ++i) {
            serve(argv[i], "stories260k", 0);
            workers.push_back(proto::Worker::NewStub(channel_to(argv[i])));
        }
    }
    for (const proto::ModelState& model : cluster.models()) {
        for (const proto::WorkerState& worker : model.workers()) {
            proto::RegisterWorker registration = registration_of(model, worker);
            attach(*scheduler, "the same life", registration);
            registration.mutable_endpoint()->set_incarnation(kLife);
            attach(*scheduler, "an address of another life", registration);
            registration.mutable_endpoint()->set_kv_address(std::string(9, 'x'));
            attach(*scheduler, "nine bytes", registration);
            registration.mutable_endpoint()->clear_kv_address();
            attach(*scheduler, "another life", registration);
            serve(worker.endpoint().control_address(), model.model(), worker.endpoint().incarnation());
            serve(worker.endpoint().control_address(), model.model(), kLife);
            workers.push_back(proto::Worker::NewStub(channel_to(worker.endpoint().control_address())));
        }
    }
    hold([&](Held& one) { one.attached = scheduler->Attach(&one.context); });
    for (const auto& worker : workers) {
        hold([&](Held& one) { one.served = worker->Serve(&one.context); });
    }
    std::printf("holding\n");
    std::fflush(stdout);
    while (std::fgetc(stdin) != EOF) {}
    for (const auto& one : held) {
        one->context.TryCancel();
    }
    for (const auto& one : held) {
        if (one->attached) { one->attached->Finish(); }
        if (one->served) { one->served->Finish(); }
    }
    return 0;
}
