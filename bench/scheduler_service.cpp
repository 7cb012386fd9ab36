#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/metrics.h"
#include "base/seal.h"
#include "bench/scheduler_decisions.h"
#include "bench/scheduler_prompts.h"
#include "proto/block_hashes.h"
#include "proto/channel.h"
#include "proto/header.h"
#include "proto/scheduler.grpc.pb.h"
#include "scheduler/service.h"

namespace bench {
namespace {

using base::ErrorCode;
using Clock = std::chrono::steady_clock;
namespace proto = sluice::proto;

constexpr const char* kModel = "bench";
constexpr std::uint64_t kNumerics = 7;
constexpr std::chrono::minutes kPatience{10};
/// Calls at once, for what the service takes at most.
constexpr std::uint32_t kCallers = 4;
/// Ends that a gateway tells in one message.
constexpr int kEndsTold = 64;

/// One attached worker, which holds some prefixes and is idle.
struct AttachedWorker {
    grpc::ClientContext context;
    std::unique_ptr<grpc::ClientReaderWriter<proto::WorkerReport, proto::WorkerDirective>> stream;

    base::Result<void> attach(proto::Scheduler::Stub& stub, std::uint64_t id, proto::WorkerRole role,
                              const std::vector<base::BlockHash>& held) {
        stream = stub.Attach(&context);
        const base::Incarnation life{id + 1'000'000};
        proto::WorkerReport report;
        proto::RegisterWorker& registration = *report.mutable_registration();
        *registration.mutable_header() = proto::make_header(kModel, kNumerics);
        registration.mutable_endpoint()->set_worker_id(id);
        registration.mutable_endpoint()->set_incarnation(base::raw(life));
        registration.mutable_endpoint()->set_control_address("127.0.0.1:1");
        registration.mutable_endpoint()->set_kv_address(base::seal_address({}, life, "kv"));
        registration.set_role(role);
        registration.set_kv_blocks_total(1 << 20);
        registration.set_block_tokens(PromptChains::kBlockTokens);
        registration.set_context_tokens(2'000'000);
        registration.set_batch_sequences_max(256);
        registration.set_batch_tokens_max(8192);
        registration.set_queue_requests_max(100'000);
        registration.set_kv_bytes_per_token(100'000);
        proto::WorkerDirective directive;
        if (!stream->Write(report) || !stream->Read(&directive)) { return lost("register"); }
        proto::WorkerReport news;
        proto::Heartbeat& heartbeat = *news.mutable_heartbeat();
        *heartbeat.mutable_header() = proto::make_header(kModel, kNumerics);
        heartbeat.set_number(1);
        heartbeat.mutable_load()->set_blocks_free(1 << 20);
        heartbeat.add_blocks()->set_number(1);
        heartbeat.mutable_blocks(0)->set_stored(proto::write_block_hashes(held));
        if (!stream->Write(news)) { return lost("report"); }
        return {};
    }
    static base::Result<void> lost(const char* what) {
        return base::fail(ErrorCode::unavailable, std::string("a worker could not ") + what);
    }
};

/// Places requests one after another, and tells their ends.
struct Caller {
    std::unique_ptr<proto::Scheduler::Stub> stub;
    std::uint64_t next_id = 1;
    proto::ReleaseRequest ends = {};
    std::vector<double> place_us = {};

    base::Result<void> place(const SchedulerBenchOptions& options, const std::string& hashes) {
        proto::PlaceRequest request;
        *request.mutable_header() = proto::make_header(kModel, 0);
        request.set_request_id(next_id);
        request.set_prompt_tokens(options.prompt_tokens);
        request.set_new_tokens_max(200);
        request.set_block_hashes(hashes);
        grpc::ClientContext context;
        context.set_deadline(std::chrono::system_clock::now() + kPatience);
        proto::PlaceReply reply;
        const Clock::time_point begin = Clock::now();
        const grpc::Status status = stub->Place(&context, request, &reply);
        place_us.push_back(std::chrono::duration<double, std::micro>(Clock::now() - begin).count());
        if (!status.ok()) { return base::fail(ErrorCode::unavailable, "Place: " + status.error_message()); }
        if (!reply.has_placement()) {
            return base::fail(ErrorCode::internal, "refused: " + reply.refusal().error().message());
        }
        proto::ReleaseRequest::Ended& end = *ends.add_ended();
        end.set_request_id(next_id);
        end.set_phase(proto::ReleaseRequest::Ended::PHASE_ALL);
        next_id += kCallers;
        return ends.ended_size() < kEndsTold ? base::Result<void>{} : tell();
    }
    base::Result<void> tell() {
        *ends.mutable_header() = proto::make_header(kModel, 0);
        grpc::ClientContext context;
        context.set_deadline(std::chrono::system_clock::now() + kPatience);
        proto::ReleaseReply reply;
        const grpc::Status status = stub->Release(&context, ends, &reply);
        ends.Clear();
        if (!status.ok()) { return base::fail(ErrorCode::unavailable, "Release: " + status.error_message()); }
        return {};
    }
};

}  // namespace

base::Result<void> measure_service(const SchedulerBenchOptions& options, SchedulerFigure& figure) {
    const base::SystemClock clock;
    base::Metrics metrics;
    scheduler::SchedulerOptions settings;
    settings.workers_max = std::max(figure.workers, 1u);
    settings.suspect_after = kPatience;  // its workers report once
    settings.lease = kPatience;
    settings.gateway_lease = kPatience;
    auto server = scheduler::SchedulerServer::start(settings, "127.0.0.1:0", clock, metrics);
    if (!server) { return base::pass_on(server); }
    const auto channel = proto::make_channel({.address = (*server)->address()});
    PromptChains prompts(options.prompt_tokens / PromptChains::kBlockTokens, options.seed);

    const auto stub = proto::Scheduler::NewStub(channel);
    std::vector<std::unique_ptr<AttachedWorker>> workers;
    const auto prefill = static_cast<std::uint32_t>(options.prefill_share * figure.workers);
    for (std::uint32_t i = 0; i < figure.workers; ++i) {
        const proto::WorkerRole role = options.prefill_share == 0  ? proto::WORKER_ROLE_MIXED
                                       : i < std::max(1u, prefill) ? proto::WORKER_ROLE_PREFILL
                                                                   : proto::WORKER_ROLE_DECODE;
        std::vector<base::BlockHash> held(prompts.of(0).begin(), prompts.of(0).begin() + PromptChains::kSharedBlocks);
        if (i < prompts.conversations()) {
            held.assign(prompts.of(i).begin(), prompts.of(i).begin() + prompts.held_blocks());
        }
        auto& worker = *workers.emplace_back(std::make_unique<AttachedWorker>());
        if (auto attached = worker.attach(*stub, i + 1, role, held); !attached) { return attached; }
    }

    std::vector<std::string> hashes;
    for (std::size_t i = 0; i < prompts.conversations(); ++i) {
        hashes.push_back(proto::write_block_hashes(prompts.of(i)));
    }
    Caller one{.stub = proto::Scheduler::NewStub(channel), .next_id = kCallers};
    for (std::uint32_t i = 0; i < options.service_placements; ++i) {
        if (auto placed = one.place(options, hashes[i % hashes.size()]); !placed) { return placed; }
    }
    figure.service_us = summarize(std::move(one.place_us));

    std::vector<base::Result<void>> results(kCallers);
    const Clock::time_point begin = Clock::now();
    {
        std::vector<std::jthread> threads;
        for (std::uint32_t caller = 0; caller < kCallers; ++caller) {
            threads.emplace_back([&, caller] {
                Caller many{.stub = proto::Scheduler::NewStub(channel),
                            .next_id = 1'000'000'000 + std::uint64_t{caller}};
                for (std::uint32_t i = 0; i < options.service_placements / kCallers; ++i) {
                    auto placed = many.place(options, hashes[(i * kCallers + caller) % hashes.size()]);
                    if (!placed) {
                        results[static_cast<std::size_t>(caller)] = placed;
                        return;
                    }
                }
            });
        }
    }
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    for (const base::Result<void>& result : results) {
        if (!result) { return result; }
    }
    figure.service_per_s = options.service_placements / kCallers * kCallers / seconds;
    for (const auto& worker : workers) {
        worker->context.TryCancel();
    }
    for (const auto& worker : workers) {
        static_cast<void>(worker->stream->Finish());
    }
    (*server)->drain_and_stop();
    return {};
}

}  // namespace bench
