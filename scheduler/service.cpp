#include "scheduler/service.h"

#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <stop_token>
#include <thread>
#include <unordered_map>
#include <utility>

#include "base/bounded_queue.h"
#include "base/check.h"
#include "base/log.h"
#include "base/log_limit.h"
#include "proto/channel.h"
#include "proto/roles.h"
#include "proto/scheduler.grpc.pb.h"
#include "proto/status.h"
#include "scheduler/leadership.h"
#include "scheduler/scheduler.h"

namespace scheduler {

using base::PeerCall;

namespace {

/// Commands that one stream can have on their way: a read, a write, its end.
constexpr std::size_t kCommandsPerStream = 4;
/// How long calls that are being answered may take once the server is told to stop.
constexpr std::chrono::seconds kStopPatience{2};
/// How often a new leader looks whether it may place, besides when workers report.
constexpr std::chrono::milliseconds kGatherTick{50};
/// A leader is heard so often in the time after which workers look for another one.
constexpr int kSignsPerLease = 4;

/// Directives that wait for a slow worker; one that does not read them is cut off.
constexpr std::size_t kDirectivesMax = 64;

}  // namespace

class SchedulerServer::Impl {
public:
    Impl(SchedulerOptions options, const base::Clock& clock, base::Metrics& metrics, const proto::ClusterKey& key)
        : options_(std::move(options)),
          clock_(clock),
          metrics_(metrics),
          key_(key),
          streams_max_(std::size_t{options_.workers_max} * 2),
          commands_(options_.calls_max + streams_max_ * kCommandsPerStream + 4),
          leader_metrics_(metrics),
          service_(*this) {}

    ~Impl() { stop(); }

    base::Result<void> start(const std::string& listen_address, std::unique_ptr<LeaderLease> lease) {
        auto running = proto::start_server({.listen_address = listen_address, .key = key_},
                                           std::array<grpc::Service*, 1>{&service_});
        if (!running) { return base::pass_on(running, "scheduler"); }
        server_ = std::move(running->server);
        const auto colon = listen_address.rfind(':');
        address_ = listen_address.substr(0, colon) + ":" + std::to_string(running->port);
        server_->GetHealthCheckService()->SetServingStatus(true);
        if (lease) {
            set_leads(false);
            leadership_ =
                std::make_unique<Leadership>(Election::Options{.name = address_, .lease = options_.leader_silence},
                                             std::move(lease), clock_, leader_metrics_, [this] {
                                                 if (!look_asked_.exchange(true)) {
                                                     push([this] { look_asked_ = false; });
                                                 }
                                             });
        } else {
            scheduler_ = std::make_unique<Scheduler>(options_, clock_, metrics_);
            leader_metrics_.terms.Increment();
            set_leads(true);
        }
        thread_ = std::jthread([this](std::stop_token stop) { run(stop); });
        return {};
    }

    const std::string& address() const { return address_; }
    bool leads() const { return leads_; }

    void set_class_rules(ClassRules rules) {
        const std::scoped_lock lock(class_rules_mutex_);
        const bool is_asked = std::exchange(next_class_rules_, std::move(rules)).has_value();
        if (!is_asked) {
            push([this] { take_class_rules(); });
        }
    }

    void stop() {
        const std::scoped_lock lock(stop_mutex_);
        if (!server_) { return; }
        server_->GetHealthCheckService()->SetServingStatus(false);
        if (leadership_) { leadership_->stop(); }  // the lease is free; whoever comes from now on finds another leader
        CHECK(commands_.push([this] { end_all_streams(); }));
        server_->Shutdown(std::chrono::system_clock::now() + kStopPatience);
        server_->Wait();  // every reactor has had its OnDone; the state thread ran until here
        thread_.request_stop();
        commands_.close();
        thread_.join();
        for (Command& command : commands_.drain()) {
            command();  // the ends of the last streams
        }
        CHECK(streams_.empty(), streams_.size() << " streams left");
        server_.reset();
    }

private:
    using Command = std::function<void()>;

    /// One Attach stream. Its methods run on the state thread, which also deletes it; but for the On... ones, which
    /// gRPC calls.
    class Stream final : public grpc::ServerBidiReactor<proto::WorkerReport, proto::WorkerDirective> {
    public:
        Stream(Impl& owner, SessionId session, std::optional<base::PeerName> caller)
            : owner_(owner), session_(session), caller_(std::move(caller)) {}

        SessionId session() const { return session_; }
        const std::optional<base::PeerName>& caller() const { return caller_; }
        const proto::WorkerReport& report() const { return report_; }
        bool finished() const { return status_.has_value(); }

        void read() {
            if (!finished()) { StartRead(&report_); }
        }
        bool is_idle() const { return directives_.empty() && !finished(); }
        /// False when too many wait already.
        bool send(proto::WorkerDirective directive) {
            if (finished()) { return true; }
            if (directives_.size() >= kDirectivesMax) { return false; }
            directives_.push_back(std::move(directive));
            if (directives_.size() == 1) { StartWrite(&directives_.front()); }
            return true;
        }
        /// Ends the stream, after the write that is under way. Only the first status counts.
        void finish(const grpc::Status& status) {
            if (finished()) { return; }
            status_ = status;
            if (directives_.empty()) { Finish(status); }
        }
        /// Ends a stream that the state thread never sees; `counted`: among the open ones.
        void refuse(const grpc::Status& status, bool counted) {
            refused_ = true;
            is_counted_ = counted;
            Finish(status);
        }

        void OnReadDone(bool ok) override {
            owner_.push([this, ok] { owner_.on_read(*this, ok); });
        }
        void OnWriteDone(bool /*ok*/) override {  // a broken stream also ends the read that is always open
            owner_.push([this] { written(); });
        }
        void OnDone() override {
            if (refused_) {
                if (is_counted_) { owner_.open_streams_.fetch_sub(1); }
                delete this;
                return;
            }
            owner_.push([this] { owner_.on_done(*this); });
        }

    private:
        void written() {
            directives_.pop_front();
            if (finished()) {
                Finish(*status_);
            } else if (!directives_.empty()) {
                StartWrite(&directives_.front());
            }
        }

        Impl& owner_;
        const SessionId session_;
        const std::optional<base::PeerName> caller_;  // as its certificate says; none where there are none
        proto::WorkerReport report_;
        std::deque<proto::WorkerDirective> directives_;  // the first is being written
        std::optional<grpc::Status> status_;             // set: it ends, or will when the write is done
        bool refused_ = false;
        bool is_counted_ = true;
    };

    class Service final : public proto::Scheduler::CallbackService {
    public:
        explicit Service(Impl& owner) : owner_(owner) {}

        grpc::ServerUnaryReactor* Place(grpc::CallbackServerContext* context, const proto::PlaceRequest* request,
                                        proto::PlaceReply* reply) override {
            return owner_.call(context, PeerCall::place, [this, request, reply] {
                *reply = owner_.scheduler_->place(*request);
                return grpc::Status::OK;
            });
        }
        grpc::ServerUnaryReactor* Release(grpc::CallbackServerContext* context, const proto::ReleaseRequest* request,
                                          proto::ReleaseReply* reply) override {
            return owner_.call(context, PeerCall::release,
                               [this, request, reply] { return answer(owner_.scheduler_->release(*request), *reply); });
        }
        grpc::ServerUnaryReactor* Describe(grpc::CallbackServerContext* context, const proto::DescribeRequest* request,
                                           proto::DescribeReply* reply) override {
            return owner_.call(context, PeerCall::describe, [this, request, reply] {
                return answer(owner_.scheduler_->describe(*request), *reply);
            });
        }
        grpc::ServerUnaryReactor* Drain(grpc::CallbackServerContext* context, const proto::DrainRequest* request,
                                        proto::DrainReply* reply) override {
            return owner_.call(context, PeerCall::drain,
                               [this, request, reply] { return owner_.drain(*request, *reply); });
        }
        grpc::ServerBidiReactor<proto::WorkerReport, proto::WorkerDirective>* Attach(
            grpc::CallbackServerContext* context) override {
            return owner_.attach(*context);
        }

    private:
        template <class Reply>
        static grpc::Status answer(base::Result<Reply> result, Reply& reply) {
            if (!result) { return proto::status_of(result.error()); }
            reply = std::move(*result);
            return grpc::Status::OK;
        }
        Impl& owner_;
    };

    void set_leads(bool leads) {
        leads_ = leads;
        server_->GetHealthCheckService()->SetServingStatus(proto::Scheduler::service_full_name(), leads);
        leader_metrics_.leads.Set(leads ? 1 : 0);
        tell_epoch();
    }

    /// It may rise while the scheduler meets whoever has seen a higher one.
    void tell_epoch() { leader_metrics_.epoch.Set(places() ? static_cast<double>(scheduler_->epoch()) : 0); }

    /// Its commands are counted, so the queue has room by construction.
    void push(Command command) {
        CHECK(commands_.push(std::move(command)), "command queue of " << commands_.capacity());
    }

    /// Runs `work` on the state thread and ends the call with its status. gRPC keeps request and reply until then.
    grpc::ServerUnaryReactor* call(grpc::CallbackServerContext* context, PeerCall what,
                                   std::function<grpc::Status()> work) {
        grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
        if (grpc::Status known = key_.check(*context, what); !known.ok()) {
            reactor->Finish(known);
            return reactor;
        }
        if (calls_.fetch_add(1) >= options_.calls_max) {
            calls_.fetch_sub(1);
            reactor->Finish({grpc::StatusCode::RESOURCE_EXHAUSTED,
                             std::to_string(options_.calls_max) + " calls are being answered"});
            return reactor;
        }
        push([this, context, reactor, work = std::move(work)] {
            // Nobody waits for the answer any more: what is placed now would count as load for nothing.
            const grpc::Status status = context->IsCancelled() ? grpc::Status::CANCELLED
                                        : places()             ? work()
                                                               : stands_by();
            calls_.fetch_sub(1);
            reactor->Finish(status);
        });
        return reactor;
    }

    grpc::ServerBidiReactor<proto::WorkerReport, proto::WorkerDirective>* attach(
        const grpc::CallbackServerContext& context) {
        std::optional<base::PeerName> caller;
        const grpc::Status known = key_.check(context, PeerCall::attach, caller);
        auto* stream = new Stream(*this, SessionId{next_session_.fetch_add(1)}, std::move(caller));
        if (!known.ok()) {
            stream->refuse(known, false);
            return stream;
        }
        if (open_streams_.fetch_add(1) >= streams_max_) {
            stream->refuse({grpc::StatusCode::RESOURCE_EXHAUSTED, std::to_string(streams_max_) + " streams are open"},
                           true);
            return stream;
        }
        push([this, stream] {
            streams_.emplace(stream->session(), stream);
            if (stopping_) {
                stream->finish({grpc::StatusCode::UNAVAILABLE, "the scheduler stops"});
            } else if (!scheduler_) {
                stream->finish(stands_by());
            } else {
                expect_registration(*stream);
                stream->read();
            }
        });
        return stream;
    }

    // The rest runs on the state thread.

    void run(std::stop_token stop) {
        // Real time, also when the clock is a test's: when to look at the clock, not what it says.
        const auto interval = std::clamp<std::chrono::milliseconds>(options_.lease / 5, std::chrono::milliseconds(5),
                                                                    std::chrono::seconds(1));
        auto next_tick = std::chrono::steady_clock::now();
        auto next_sign = next_tick;
        while (!stop.stop_requested()) {
            const auto now = std::chrono::steady_clock::now();
            look_at_standing();
            if (now >= next_tick) {
                if (scheduler_) { expire(now); }
                next_tick = now + (gathers_since_ ? std::min(interval, kGatherTick) : interval);
            }
            if (leadership_ && now >= next_sign) {
                give_sign();
                next_sign = now + options_.leader_silence / kSignsPerLease;
            }
            const auto wake = leadership_ ? std::min(next_tick, next_sign) : next_tick;
            if (auto command = commands_.pop(stop, wake)) {
                look_at_standing();  // this thread may have stood still before, with its process
                (*command)();
            }
        }
    }

    void expire(std::chrono::steady_clock::time_point now) {
        for (const SessionId session : scheduler_->tick()) {
            finish(session, {grpc::StatusCode::DEADLINE_EXCEEDED, "no heartbeat during the lease"});
        }
        end_unregistered(now);
        tell_epoch();
    }

    // Leading by a lease. A scheduler object lives for one term, and knows nothing of those before it.

    bool places() const { return scheduler_ != nullptr && !gathers_since_; }

    grpc::Status stands_by() const {
        if (scheduler_) {
            return {grpc::StatusCode::UNAVAILABLE, "this scheduler begins to lead, and waits for its workers"};
        }
        return {grpc::StatusCode::UNAVAILABLE,
                "this scheduler stands by: " + (leader_.empty() ? "nobody leads" : leader_ + " leads")};
    }

    void look_at_standing() {
        if (!leadership_) { return; }
        const Standing standing = leadership_->standing();
        const bool leads = standing.leads_at(clock_.now());
        leader_ = base::log_safe(standing.leader);
        if (scheduler_ && (!leads || standing.serial != term_)) { step_down(); }
        if (!scheduler_ && leads && !stopping_) { step_up(standing); }
        if (scheduler_) { gather(); }
    }

    void step_up(const Standing& standing) {
        scheduler_ = std::make_unique<Scheduler>(options_, clock_, metrics_, standing.epoch);
        term_ = standing.serial;
        workers_awaited_ = standing.workers_before;
        gathers_since_ = clock_.now();
    }

    void step_down() {
        for (auto& [session, stream] : streams_) {
            stream->finish({grpc::StatusCode::UNAVAILABLE, "this scheduler leads no more"});
        }
        unregistered_.clear();
        scheduler_.reset();
        gathers_since_.reset();
        set_leads(false);
    }

    void gather() {
        const std::size_t heard = scheduler_->workers_heard();
        if (gathers_since_ &&
            has_gathered(heard, workers_awaited_, *gathers_since_, clock_.now(), options_.gather_max)) {
            spdlog::info("places requests on {} workers; {} were awaited", scheduler_->workers(), workers_awaited_);
            gathers_since_.reset();
            set_leads(true);
        }
        const auto workers = static_cast<std::uint32_t>(scheduler_->workers());
        leadership_->tell(
            {.workers = gathers_since_ ? std::max(workers, workers_awaited_) : workers, .epoch = scheduler_->epoch()});
    }

    /// To every worker: the lease goes on. Whatever else is on its way to one says so, too.
    void give_sign() {
        if (!scheduler_) { return; }
        for (auto& [session, stream] : streams_) {
            if (!stream->is_idle()) { continue; }
            proto::WorkerDirective sign;
            sign.set_alive(true);
            sign.set_scheduler_epoch(scheduler_->epoch());
            stream->send(std::move(sign));
        }
    }

    /// Workers are at most half of the streams, so those that register find room whatever the others do.
    void expect_registration(const Stream& stream) {
        unregistered_.emplace(stream.session(), std::chrono::steady_clock::now());
        if (unregistered_.size() <= streams_max_ / 2) { return; }
        finish(unregistered_.begin()->first,
               {grpc::StatusCode::RESOURCE_EXHAUSTED, "too many streams wait for a registration"});
        unregistered_.erase(unregistered_.begin());
    }

    void end_unregistered(std::chrono::steady_clock::time_point now) {
        while (!unregistered_.empty() && now - unregistered_.begin()->second >= options_.lease) {
            finish(unregistered_.begin()->first,
                   {grpc::StatusCode::DEADLINE_EXCEEDED, "no registration during the lease"});
            unregistered_.erase(unregistered_.begin());
        }
    }

    void take_class_rules() {
        const std::scoped_lock lock(class_rules_mutex_);
        options_.classes = *std::exchange(next_class_rules_, std::nullopt);
        if (scheduler_) { scheduler_->set_class_rules(options_.classes); }
    }

    /// No effect for a session of a former term.
    void detach(SessionId session) {
        if (scheduler_) { scheduler_->detach(session); }
    }

    void finish(SessionId session, const grpc::Status& status) {
        if (const auto stream = streams_.find(session); stream != streams_.end()) { stream->second->finish(status); }
    }

    void on_read(Stream& stream, bool ok) {
        if (stream.finished()) { return; }
        if (!ok) {
            detach(stream.session());
            stream.finish(grpc::Status::OK);
            return;
        }
        unregistered_.erase(stream.session());  // it registers now, or ends
        auto answer =
            check_registration(stream).and_then([&] { return scheduler_->report(stream.session(), stream.report()); });
        if (!answer) {
            base::warn_limited("stream closed", "a worker's stream is closed: {}", answer.error().message);
            detach(stream.session());
            stream.finish(proto::status_of(answer.error()));
            return;
        }
        if (answer->superseded) {
            finish(*answer->superseded, {grpc::StatusCode::ABORTED, "the worker has opened another stream"});
        }
        for (proto::WorkerDirective& directive : answer->directives) {
            if (!send(stream, std::move(directive))) { return; }
        }
        stream.read();
    }

    /// Others will be given the address that a worker registers, and send it what is for its role. Who has no key at
    /// all may be here where `cluster.admit_without_key` says so; then those who are given such an address refuse it.
    base::Result<void> check_registration(const Stream& stream) const {
        const proto::WorkerReport& report = stream.report();
        if (!report.has_registration() || key_.admits_without()) { return {}; }
        const auto role = proto::role_of(report.registration().role());
        const auto run = role ? base::peer_role_of(proto::role_name(*role)) : std::nullopt;
        if (stream.caller() && run && !base::may_run_as(stream.caller()->role, *run)) {
            return base::fail(base::ErrorCode::permission_denied, base::peer_uri(*stream.caller()) +
                                                                      " may not register as a worker of role " +
                                                                      std::string(base::peer_role_name(*run)));
        }
        return key_.check_address(report.registration().endpoint());
    }

    /// False when the stream is cut, because its worker does not read.
    bool send(Stream& stream, proto::WorkerDirective directive) {
        if (stream.send(std::move(directive))) { return true; }
        detach(stream.session());
        stream.finish({grpc::StatusCode::RESOURCE_EXHAUSTED, "the worker does not read its directives"});
        return false;
    }

    grpc::Status drain(const proto::DrainRequest& request, proto::DrainReply& reply) {
        auto drained = scheduler_->drain(request);
        if (!drained) { return proto::status_of(drained.error()); }
        reply = std::move(drained->reply);
        if (const auto stream = streams_.find(drained->session); stream != streams_.end()) {
            send(*stream->second, std::move(drained->directive));
        }
        return grpc::Status::OK;
    }

    void on_done(Stream& stream) {
        detach(stream.session());
        unregistered_.erase(stream.session());
        streams_.erase(stream.session());
        open_streams_.fetch_sub(1);
        delete &stream;
    }

    void end_all_streams() {
        stopping_ = true;
        for (auto& [session, stream] : streams_) {
            detach(session);
            stream->finish({grpc::StatusCode::UNAVAILABLE, "the scheduler stops"});
        }
    }

    SchedulerOptions options_;  // but for the rules of classes, which are the state thread's, they stay
    const base::Clock& clock_;
    base::Metrics& metrics_;
    const proto::ClusterKey key_;
    const std::size_t streams_max_;
    base::BoundedQueue<Command> commands_;
    std::atomic<std::uint32_t> calls_ = 0;
    std::atomic<std::size_t> open_streams_ = 0;
    std::atomic<std::uint64_t> next_session_ = 1;
    std::atomic<bool> look_asked_ = false;
    std::mutex class_rules_mutex_;
    std::optional<ClassRules> next_class_rules_;  // guarded by it; not taken yet
    LeaderMetrics leader_metrics_;
    // Owned by the state thread.
    std::unique_ptr<Scheduler> scheduler_;          // none while another one leads
    std::uint64_t term_ = 0;                        // its term
    std::uint32_t workers_awaited_ = 0;             // the leader before it had so many
    std::optional<base::TimePoint> gathers_since_;  // set: it begins to lead
    std::string leader_;                            // for people
    std::unordered_map<SessionId, Stream*> streams_;
    std::map<SessionId, std::chrono::steady_clock::time_point> unregistered_;  // of streams_: since when; oldest first
    bool stopping_ = false;

    Service service_;
    std::unique_ptr<grpc::Server> server_;
    std::string address_;
    std::atomic<bool> leads_{false};
    std::jthread thread_;
    std::unique_ptr<Leadership> leadership_;  // none: it is alone
    std::mutex stop_mutex_;                   // one stop at a time
};

SchedulerServer::SchedulerServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
SchedulerServer::~SchedulerServer() = default;

base::Result<std::unique_ptr<SchedulerServer>> SchedulerServer::start(SchedulerOptions options,
                                                                      const std::string& listen_address,
                                                                      const base::Clock& clock, base::Metrics& metrics,
                                                                      const proto::ClusterKey& key,
                                                                      std::unique_ptr<LeaderLease> lease) {
    auto impl = std::make_unique<Impl>(std::move(options), clock, metrics, key);
    if (auto started = impl->start(listen_address, std::move(lease)); !started) { return pass_on(started); }
    return std::unique_ptr<SchedulerServer>(new SchedulerServer(std::move(impl)));
}

std::string SchedulerServer::address() const {
    return impl_->address();
}

bool SchedulerServer::leads() const {
    return impl_->leads();
}

void SchedulerServer::set_class_rules(ClassRules rules) {
    impl_->set_class_rules(std::move(rules));
}

void SchedulerServer::drain_and_stop() {
    impl_->stop();
}

}  // namespace scheduler
