#include "worker/registration.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "proto/channel.h"
#include "proto/scheduler.grpc.pb.h"

namespace worker {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kBackoffMin{100};
constexpr milliseconds kBackoffMax{2000};
/// From the registration to the scheduler's answer. One that takes the stream and says nothing is left.
constexpr milliseconds kAnswerPatience{5000};
/// Where the scheduler does not say.
constexpr milliseconds kIntervalDefault{250};
constexpr milliseconds kIntervalMin{5};
constexpr int kReportsPerLease = 3;

}  // namespace

milliseconds report_interval(const sluice::proto::Registered& registered) {
    milliseconds interval = registered.heartbeat_ms() == 0 ? kIntervalDefault : milliseconds(registered.heartbeat_ms());
    if (registered.lease_ms() > 0) {
        interval = std::min(interval, milliseconds(registered.lease_ms() / kReportsPerLease));
    }
    return std::max(interval, kIntervalMin);
}

milliseconds idle_report_interval(const sluice::proto::Registered& registered) {
    sluice::proto::Registered idle = registered;
    if (registered.idle_heartbeat_ms() > 0) { idle.set_heartbeat_ms(registered.idle_heartbeat_ms()); }
    return std::max(report_interval(idle), report_interval(registered));
}

Registration::Registration(std::string scheduler_address, sluice::proto::RegisterWorker registration,
                           const WorkerOptions& options, ReportBoard& board, const base::Clock& clock,
                           std::function<void()> on_drain, proto::ClusterKey key)
    : scheduler_address_(std::move(scheduler_address)),
      key_(std::move(key)),
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

void Registration::report_soon() {
    {
        const std::scoped_lock lock(mutex_);
        report_soon_ = true;
    }
    changed_.notify_all();
}

void Registration::run(std::stop_token stop) {
    milliseconds backoff = kBackoffMin;
    while (!stop.stop_requested()) {
        attach_once(stop);
        if (is_registered_.exchange(false)) { backoff = kBackoffMin; }
        std::unique_lock lock(mutex_);
        changed_.wait_for(lock, stop, backoff, [] { return false; });
        backoff = std::min(2 * backoff, kBackoffMax);
    }
}

void Registration::follow(const sluice::proto::WorkerDirective& directive) {
    switch (directive.directive_case()) {
        case sluice::proto::WorkerDirective::kRegistered: {
            const std::uint64_t epoch = directive.registered().scheduler_epoch();
            if (epoch != 0 && epoch < scheduler_epoch_) {
                spdlog::warn("the scheduler at {} has epoch {}, a later one has been here: {}", scheduler_address_,
                             epoch, scheduler_epoch_.load());
            }
            scheduler_epoch_ = std::max(epoch, scheduler_epoch_.load());
            spdlog::info("registered with the scheduler at {}, epoch {}", scheduler_address_, epoch);
            if (directive.registered().lease_ms() > 0) {
                board_.set_heartbeat_max(milliseconds(directive.registered().lease_ms()) / kReportsPerLease);
            }
            board_.attach();
            const std::scoped_lock lock(mutex_);
            interval_ = report_interval(directive.registered());
            idle_interval_ = idle_report_interval(directive.registered());
            is_registered_ = true;
            break;
        }
        case sluice::proto::WorkerDirective::kResendSnapshot:
            if (directive.resend_snapshot()) { board_.want_snapshot(); }
            break;
        case sluice::proto::WorkerDirective::kDrain:
            if (directive.drain()) {
                on_drain_();
                report_soon();
            }
            break;
        case sluice::proto::WorkerDirective::DIRECTIVE_NOT_SET:
            break;  // of a newer scheduler
    }
    changed_.notify_all();
}

void Registration::attach_once(std::stop_token stop) {
    const auto channel =
        proto::make_channel({.address = scheduler_address_, .key = key_});  // each time: no stale back-off
    const auto stub = sluice::proto::Scheduler::NewStub(channel);
    grpc::ClientContext context;
    const std::stop_callback cancel(stop, [&context] { context.TryCancel(); });
    const auto stream = stub->Attach(&context);

    sluice::proto::WorkerReport first;
    *first.mutable_registration() = registration_;
    first.mutable_registration()->set_scheduler_epoch(scheduler_epoch_);
    first.mutable_registration()->set_draining(board_.draining());
    const bool is_sent = stream->Write(first);
    {
        const std::scoped_lock lock(mutex_);
        is_open_ = is_sent;
        interval_.reset();
    }
    std::jthread reader([&] {
        sluice::proto::WorkerDirective directive;
        while (stream->Read(&directive)) {
            follow(directive);
        }
        {
            const std::scoped_lock lock(mutex_);
            is_open_ = false;
        }
        changed_.notify_all();
    });

    {
        std::unique_lock lock(mutex_);
        changed_.wait_for(lock, stop, kAnswerPatience, [this] { return interval_ || !is_open_; });
        if (!interval_) {
            if (is_open_) { context.TryCancel(); }  // else it has ended, and its status says why
            is_open_ = false;
        }
    }
    std::uint64_t number = 0;
    std::optional<std::string> load_told;
    milliseconds silent{};
    while (true) {
        bool must_report = false;
        {
            std::unique_lock lock(mutex_);
            if (!is_open_) { break; }
            changed_.wait_for(lock, stop, *interval_, [this] { return report_soon_ || !is_open_; });
            if (!is_open_ || stop.stop_requested()) { break; }
            silent += *interval_;
            must_report = std::exchange(report_soon_, false) || silent >= idle_interval_;
        }
        if (clock_.now() - board_.last_progress() > options_.stall_limit) { continue; }
        sluice::proto::WorkerReport report;
        auto* heartbeat = report.mutable_heartbeat();
        *heartbeat->mutable_header() = registration_.header();
        board_.take(*heartbeat);
        std::string load = heartbeat->load().SerializeAsString();
        const bool is_news = load != load_told || heartbeat->steps_size() > 0 || heartbeat->transfers_size() > 0 ||
                             heartbeat->blocks_size() > 0;
        if (!is_news && !must_report) { continue; }
        load_told = std::move(load);
        silent = {};
        heartbeat->set_number(++number);
        if (!stream->Write(report)) { break; }
    }
    reader.join();
    board_.detach();
    const grpc::Status status = stream->Finish();
    if (!stop.stop_requested()) {
        spdlog::warn("the stream to the scheduler at {} ended: {}", scheduler_address_, status.error_message());
    }
}

}  // namespace worker
