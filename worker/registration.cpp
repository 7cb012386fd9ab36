#include "worker/registration.h"

#include <grpcpp/grpcpp.h>

#include <condition_variable>
#include <mutex>
#include <utility>

#include "base/log.h"
#include "proto/liveness.h"
#include "proto/scheduler.grpc.pb.h"

namespace worker {
namespace {

constexpr std::chrono::milliseconds kBackoffMin{100};
constexpr std::chrono::milliseconds kBackoffMax{2000};

void sleep_for(std::stop_token stop, std::chrono::milliseconds duration) {
    std::mutex mutex;
    std::condition_variable_any condition;
    std::unique_lock lock(mutex);
    condition.wait_for(lock, stop, duration, [] { return false; });
}

}  // namespace

Registration::Registration(std::string scheduler_address, sluice::proto::RegisterWorker registration,
                           const WorkerOptions& options, ReportBoard& board, const base::Clock& clock,
                           std::function<void()> on_drain)
    : scheduler_address_(std::move(scheduler_address)),
      registration_(std::move(registration)),
      options_(options),
      board_(board),
      clock_(clock),
      on_drain_(std::move(on_drain)),
      thread_([this](std::stop_token stop) { run(stop); }) {}

Registration::~Registration() {
    stop();
}

void Registration::stop() {
    thread_ = {};
}

void Registration::run(std::stop_token stop) {
    std::chrono::milliseconds backoff = kBackoffMin;
    while (!stop.stop_requested()) {
        attach_once(stop);
        if (is_registered_.exchange(false)) { backoff = kBackoffMin; }
        sleep_for(stop, backoff);
        backoff = std::min(2 * backoff, kBackoffMax);
    }
}

void Registration::attach_once(std::stop_token stop) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // a fresh connection each time: no stale back-off
    ::proto::watch_peer(arguments);
    const auto channel = grpc::CreateCustomChannel(scheduler_address_, grpc::InsecureChannelCredentials(), arguments);
    const auto stub = sluice::proto::Scheduler::NewStub(channel);
    grpc::ClientContext context;
    const std::stop_callback cancel(stop, [&context] { context.TryCancel(); });
    const auto stream = stub->Attach(&context);

    sluice::proto::WorkerReport first;
    *first.mutable_registration() = registration_;
    std::atomic<bool> is_open{stream->Write(first)};
    std::jthread reader([&] {
        sluice::proto::WorkerDirective directive;
        while (stream->Read(&directive)) {
            if (directive.has_registered()) {
                spdlog::info("registered with the scheduler at {}", scheduler_address_);
                is_registered_ = true;
                board_.attach();
            } else if (directive.resend_snapshot()) {
                board_.want_snapshot();
            } else if (directive.drain()) {
                on_drain_();
            }
        }
        is_open = false;
    });

    std::uint64_t number = 0;
    while (is_open && !stop.stop_requested()) {
        sleep_for(stop, options_.heartbeat);
        if (!is_registered_) { continue; }
        if (clock_.now() - board_.last_progress() > options_.stall_limit) { continue; }
        sluice::proto::WorkerReport report;
        auto* heartbeat = report.mutable_heartbeat();
        *heartbeat->mutable_header() = registration_.header();
        heartbeat->set_number(++number);
        board_.take(*heartbeat);
        if (!stream->Write(report)) { break; }
    }
    context.TryCancel();
    reader.join();
    board_.detach();
    const grpc::Status status = stream->Finish();
    if (!stop.stop_requested()) {
        spdlog::warn("the stream to the scheduler at {} ended: {}", scheduler_address_, status.error_message());
    }
}

}  // namespace worker
