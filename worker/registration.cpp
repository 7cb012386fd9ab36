#include "worker/registration.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "base/log_limit.h"
#include "proto/channel.h"
#include "proto/scheduler.grpc.pb.h"

namespace worker {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kBackoffMin{100};
constexpr milliseconds kBackoffMax{2000};
/// Where there is another one to ask: of two schedulers one leads again within seconds.
constexpr milliseconds kBackoffMaxOfSeveral{500};
/// From the registration to the scheduler's answer. One that takes the stream and says nothing is left.
constexpr milliseconds kAnswerPatience{5000};
/// The same at first where there is another one to ask; twice as long in each round, for a machine that is slow. One
/// that stands still must not hold up the way to the one that leads by now.
constexpr milliseconds kAnswerPatienceOfSeveral{250};
/// How long a thread that waits for a connection may take to see that it should end.
constexpr milliseconds kStopPatience{100};
/// Where the scheduler does not say.
constexpr milliseconds kIntervalDefault{250};
constexpr milliseconds kIntervalMin{5};
constexpr int kReportsPerLease = 3;

/// Whether the connection is there. A process that is stopped takes connections and says nothing on them.
bool connects(grpc::Channel& channel, const std::stop_token& stop, milliseconds patience) {
    const auto deadline = std::chrono::system_clock::now() + patience;
    while (!stop.stop_requested()) {
        const grpc_connectivity_state state = channel.GetState(true);
        if (state == GRPC_CHANNEL_READY) { return true; }
        const auto now = std::chrono::system_clock::now();
        if (state == GRPC_CHANNEL_TRANSIENT_FAILURE || now >= deadline) { return false; }
        channel.WaitForStateChange(state, std::min(deadline, now + kStopPatience));
    }
    return false;
}

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

Registration::Registration(std::vector<std::string> scheduler_addresses, sluice::proto::RegisterWorker registration,
                           const WorkerOptions& options, ReportBoard& board, const base::Clock& clock,
                           base::Metrics& metrics, std::function<void()> on_drain, proto::ClusterKey key)
    : scheduler_addresses_(std::move(scheduler_addresses)),
      key_(std::move(key)),
      registration_(std::move(registration)),
      options_(options),
      board_(board),
      clock_(clock),
      fenced_commands_(
          metrics.counter("sluice_worker_fenced_commands_total", "Commands refused since a later scheduler leads")),
      on_drain_(std::move(on_drain)),
      role_(registration_.role()),
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

void Registration::register_as(Role role) {
    {
        const std::scoped_lock lock(mutex_);
        role_ = proto::role_message(role);
        is_role_told_ = false;
        report_soon_ = true;
    }
    changed_.notify_all();
}

/// As things stand.
sluice::proto::WorkerReport Registration::registration() {
    sluice::proto::WorkerReport report;
    *report.mutable_registration() = registration_;
    report.mutable_registration()->set_scheduler_epoch(scheduler_epoch_);
    report.mutable_registration()->set_draining(board_.draining());
    const std::scoped_lock lock(mutex_);
    report.mutable_registration()->set_role(role_);
    is_role_told_ = true;
    return report;
}

void Registration::run(std::stop_token stop) {
    const bool are_several = scheduler_addresses_.size() > 1;
    const milliseconds backoff_max = are_several ? kBackoffMaxOfSeveral : kBackoffMax;
    milliseconds backoff = kBackoffMin;
    milliseconds patience = are_several ? kAnswerPatienceOfSeveral : kAnswerPatience;
    for (std::size_t next = 0; !stop.stop_requested(); next = (next + 1) % scheduler_addresses_.size()) {
        attach_once(stop, scheduler_addresses_[next], patience);
        if (is_registered_.exchange(false)) {
            backoff = kBackoffMin;
            patience = are_several ? kAnswerPatienceOfSeveral : kAnswerPatience;
            if (are_several) { continue; }  // another one may lead
        }
        // Long pauses are between rounds: whoever has just begun to lead is not kept waiting behind one that is gone.
        const bool ends_round = next + 1 == scheduler_addresses_.size();
        std::unique_lock lock(mutex_);
        changed_.wait_for(lock, stop, ends_round ? backoff : kBackoffMin, [] { return false; });
        if (!ends_round) { continue; }
        backoff = std::min(2 * backoff, backoff_max);
        patience = std::min(2 * patience, kAnswerPatience);
    }
}

/// It was said by a scheduler that led before another one did.
bool Registration::is_superseded(const sluice::proto::WorkerDirective& directive) const {
    const bool is_registered = directive.has_registered();
    const std::uint64_t epoch = is_registered ? directive.registered().scheduler_epoch() : directive.scheduler_epoch();
    const bool has_lease = is_registered ? directive.registered().leader_silence_ms() > 0 : silence_max_.has_value();
    return has_lease && epoch != 0 && epoch < scheduler_epoch_;
}

/// False when the scheduler leads no more: it is to be left.
bool Registration::follow(const std::string& address, const sluice::proto::WorkerDirective& directive) {
    {
        const std::scoped_lock lock(mutex_);
        if (is_superseded(directive)) {
            fenced_commands_.Increment();
            spdlog::warn("what the scheduler at {} says is refused: its epoch is over, a later one has been here: {}",
                         address, scheduler_epoch_.load());
            return false;
        }
        scheduler_epoch_ = std::max(scheduler_epoch_.load(), directive.scheduler_epoch());
        heard_at_ = clock_.now();
    }
    switch (directive.directive_case()) {
        case sluice::proto::WorkerDirective::kRegistered: {
            const std::uint64_t epoch = directive.registered().scheduler_epoch();
            if (epoch != 0 && epoch < scheduler_epoch_) {
                spdlog::warn("the scheduler at {} has epoch {}, a later one has been here: {}", address, epoch,
                             scheduler_epoch_.load());
            }
            scheduler_epoch_ = std::max(epoch, scheduler_epoch_.load());
            spdlog::info("registered with the scheduler at {}, epoch {}", address, epoch);
            if (directive.registered().lease_ms() > 0) {
                board_.set_heartbeat_max(milliseconds(directive.registered().lease_ms()) / kReportsPerLease);
            }
            board_.attach();
            const std::scoped_lock lock(mutex_);
            interval_ = report_interval(directive.registered());
            idle_interval_ = idle_report_interval(directive.registered());
            if (directive.registered().leader_silence_ms() > 0) {
                silence_max_ = milliseconds(directive.registered().leader_silence_ms());
                interval_ = std::min(*interval_, *silence_max_ / 2);
            }
            report_soon_ = true;  // who has just begun to lead waits for it before anything is placed
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
        case sluice::proto::WorkerDirective::kAlive:
            return true;  // nothing has changed
        case sluice::proto::WorkerDirective::DIRECTIVE_NOT_SET:
            break;  // of a newer scheduler
    }
    changed_.notify_all();
    return true;
}

void Registration::attach_once(std::stop_token stop, const std::string& address, milliseconds patience) {
    const auto channel = proto::make_channel({.address = address, .key = key_});  // each time: no stale back-off
    if (scheduler_addresses_.size() > 1 && !connects(*channel, stop, patience)) {
        if (!stop.stop_requested()) {
            base::warn_limited("scheduler connection", "no connection to the scheduler at {}", address);
        }
        return;
    }
    const auto stub = sluice::proto::Scheduler::NewStub(channel);
    grpc::ClientContext context;
    const std::stop_callback cancel(stop, [&context] { context.TryCancel(); });
    const auto stream = stub->Attach(&context);

    const bool is_sent = stream->Write(registration());
    {
        const std::scoped_lock lock(mutex_);
        is_open_ = is_sent;
        interval_.reset();
        silence_max_.reset();
    }
    std::jthread reader([&] {
        sluice::proto::WorkerDirective directive;
        while (stream->Read(&directive)) {
            if (!follow(address, directive)) { context.TryCancel(); }
        }
        {
            const std::scoped_lock lock(mutex_);
            is_open_ = false;
        }
        changed_.notify_all();
    });

    {
        std::unique_lock lock(mutex_);
        changed_.wait_for(lock, stop, patience, [this] { return interval_ || !is_open_; });
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
        bool has_turned = false;
        {
            std::unique_lock lock(mutex_);
            if (!is_open_) { break; }
            changed_.wait_for(lock, stop, *interval_, [this] { return report_soon_ || !is_open_; });
            if (!is_open_ || stop.stop_requested()) { break; }
            if (silence_max_ && clock_.now() - heard_at_ > *silence_max_) {
                spdlog::warn("the scheduler at {} is silent: another one may lead", address);
                context.TryCancel();
                break;
            }
            silent += *interval_;
            must_report = std::exchange(report_soon_, false) || silent >= idle_interval_;
            has_turned = !is_role_told_;
        }
        if (has_turned && !stream->Write(registration())) { break; }
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
        base::warn_limited("scheduler stream", "the stream to the scheduler at {} ended: {}", address,
                           status.error_message());
    }
}

}  // namespace worker
