#include "worker/service.h"

#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <optional>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/log_limit.h"
#include "proto/channel.h"
#include "proto/status.h"
#include "proto/worker.grpc.pb.h"

namespace worker {
namespace {

using sluice::proto::WorkerCommand;
using sluice::proto::WorkerEvent;

constexpr std::chrono::milliseconds kHeartbeatPauseMin{1};

}  // namespace

struct WorkerServer::Impl {
    class Stream;
    class Service;

    WorkerOptions options;
    const base::Clock* clock = nullptr;
    proto::ClusterKey key;
    std::unique_ptr<Service> service;
    std::unique_ptr<grpc::Server> server;
    int port = 0;

    std::mutex mutex;  // guards all below
    bool is_serving = false;
    WorkerIdentity identity;
    StepLoop* loop = nullptr;
    const ReportBoard* board = nullptr;
    std::uint64_t next_gateway = 1;
    std::unordered_map<GatewayId, std::shared_ptr<Stream>> streams;
    std::deque<std::pair<base::TimePoint, std::weak_ptr<Stream>>> unknown;  // have not said Hello; oldest first
    std::size_t open_streams = 0;
    std::vector<GatewayId> gone;  // not yet told to the loop, whose queue was full

    std::jthread timer;

    void run_timer(std::stop_token stop);
    std::vector<std::shared_ptr<Stream>> all_streams();
    grpc::Status admit(const grpc::CallbackServerContext& context, const std::shared_ptr<Stream>& stream);
    void end_unknown(base::TimePoint now);
    base::Duration heartbeat() const;
    void forget(GatewayId gateway);
    void tell_gone();
};

/// One gateway's stream. Reads one command at a time; writes from a bounded queue. Kept alive by gRPC until OnDone.
class WorkerServer::Impl::Stream final : public grpc::ServerBidiReactor<WorkerCommand, WorkerEvent> {
public:
    Stream(Impl& impl, grpc::CallbackServerContext& context) : impl_(impl), context_(context) {}

    /// Called once, right after construction; `self` keeps this alive until OnDone.
    void begin(std::shared_ptr<Stream> self, grpc::Status admitted) {
        self_ = std::move(self);
        if (!admitted.ok()) { return refuse(std::move(admitted)); }
        StartRead(&command_);
    }

    void refuse(grpc::Status status) {
        const std::scoped_lock lock(mutex_);
        finish(std::move(status));
    }

    /// The stream is cut when more waits than the buffer may hold.
    void send(WorkerEvent event) {
        const std::scoped_lock lock(mutex_);
        if (is_finished_ || finish_status_) { return; }
        const std::size_t bytes = event.ByteSizeLong();
        queued_bytes_ += bytes;
        queue_.push_back({std::move(event), bytes});
        last_sent_ = impl_.clock->now();
        if (queue_.size() == 1) { StartWrite(&queue_.front().event); }
        if (queued_bytes_ > impl_.options.output_buffer_bytes && reads_too_slowly()) {
            base::warn_limited("slow gateway", "gateway {} reads too slowly ({} bytes wait): its stream is cut",
                               base::log_safe(name_), queued_bytes_);
            context_.TryCancel();
        }
    }

    base::TimePoint last_sent() const {
        const std::scoped_lock lock(mutex_);
        return last_sent_;
    }

    void end(grpc::Status status) {
        const std::scoped_lock lock(mutex_);
        finish(std::move(status));
    }

    void cut() { context_.TryCancel(); }

    void OnReadDone(bool ok) override {
        if (!ok) {
            leave();
            const std::scoped_lock lock(mutex_);
            return finish(grpc::Status::OK);
        }
        const grpc::Status status = handle(command_);
        if (!status.ok()) {
            leave();
            const std::scoped_lock lock(mutex_);
            return finish(status);
        }
        StartRead(&command_);
    }

    void OnWriteDone(bool ok) override {
        const std::scoped_lock lock(mutex_);
        queued_bytes_ -= queue_.front().bytes;
        queue_.pop_front();
        if (!ok) {
            queue_.clear();
            queued_bytes_ = 0;
        }
        if (!queue_.empty()) {
            StartWrite(&queue_.front().event);
        } else if (finish_status_ && !is_finished_) {
            is_finished_ = true;
            Finish(*finish_status_);
        }
    }

    void OnCancel() override {}  // the pending read ends with ok = false

    void OnDone() override {
        leave();
        if (is_counted_) {
            const std::scoped_lock lock(impl_.mutex);
            --impl_.open_streams;
        }
        self_.reset();  // may delete this
    }

    /// It has said Hello.
    bool is_known() const { return is_known_; }
    /// Among the open streams of the worker; before begin().
    void count() { is_counted_ = true; }

private:
    struct Queued {
        WorkerEvent event;
        std::size_t bytes = 0;
    };

    /// mutex_ held. One message may be larger than the whole buffer (logprobs of a prompt): it is left out of the sum.
    bool reads_too_slowly() const {
        std::size_t largest = 0;
        for (const Queued& queued : queue_) {
            largest = std::max(largest, queued.bytes);
        }
        return queued_bytes_ - largest > impl_.options.output_buffer_bytes;
    }

    /// mutex_ held. Finishes once the queue is written (a Finish must not overtake a write).
    void finish(grpc::Status status) {
        if (is_finished_ || finish_status_) { return; }
        finish_status_ = std::move(status);
        if (queue_.empty()) {
            is_finished_ = true;
            Finish(*finish_status_);
        }
    }

    grpc::Status handle(const WorkerCommand& command);
    base::Result<void> check_addresses(const sluice::proto::Start& start) const;

    void leave() {
        if (gateway_ == GatewayId{}) { return; }
        impl_.forget(std::exchange(gateway_, GatewayId{}));
    }

    Impl& impl_;
    grpc::CallbackServerContext& context_;
    std::shared_ptr<Stream> self_;
    WorkerCommand command_;
    std::atomic<bool> is_known_{false};
    bool is_counted_ = false;
    GatewayId gateway_{};  // 0 until Hello; touched by read callbacks and OnDone only (never at once)
    std::string name_;

    mutable std::mutex mutex_;  // guards all below
    std::deque<Queued> queue_;  // front: being written
    std::size_t queued_bytes_ = 0;
    base::TimePoint last_sent_{};
    std::optional<grpc::Status> finish_status_;
    bool is_finished_ = false;
};

class WorkerServer::Impl::Service final : public sluice::proto::Worker::CallbackService {
public:
    explicit Service(Impl& impl) : impl_(impl) {}
    grpc::ServerBidiReactor<WorkerCommand, WorkerEvent>* Serve(grpc::CallbackServerContext* context) override {
        auto stream = std::make_shared<Stream>(impl_, *context);
        Stream* reactor = stream.get();
        grpc::Status admitted = impl_.admit(*context, stream);
        reactor->begin(std::move(stream), std::move(admitted));
        return reactor;
    }

private:
    Impl& impl_;
};

/// The other workers that a Start names were made by this cluster. Where processes without a key are served, too, the
/// transport refuses their addresses, and the KV is computed.
base::Result<void> WorkerServer::Impl::Stream::check_addresses(const sluice::proto::Start& start) const {
    if (impl_.key.admits_without()) { return {}; }
    if (auto fine = impl_.key.check_address(start.peer()); !fine) { return base::pass_on(fine, "Start.peer"); }
    if (auto fine = impl_.key.check_address(start.kv_source().worker()); !fine) {
        return base::pass_on(fine, "Start.kv_source");
    }
    return {};
}

grpc::Status WorkerServer::Impl::Stream::handle(const WorkerCommand& command) {
    if (command.has_hello()) {
        const auto& hello = command.hello();
        WorkerEvent reply;
        {
            const std::scoped_lock lock(impl_.mutex);
            if (!impl_.is_serving) { return {grpc::StatusCode::UNAVAILABLE, "the worker is not ready"}; }
            if (gateway_ != GatewayId{}) { return {grpc::StatusCode::INVALID_ARGUMENT, "a second Hello"}; }
            if (const auto checked = check_header(hello.header(), impl_.identity); !checked) {
                return proto::status_of(checked.error());
            }
            if (hello.incarnation() != 0 && hello.incarnation() != base::raw(impl_.identity.incarnation)) {
                return {grpc::StatusCode::FAILED_PRECONDITION, "another incarnation of this worker was meant"};
            }
            name_ = hello.gateway();
            gateway_ = GatewayId{impl_.next_gateway++};
            is_known_ = true;
            impl_.streams.emplace(gateway_, self_);
            *reply.mutable_hello()->mutable_header() = make_header(impl_.identity);
            *reply.mutable_hello()->mutable_endpoint() = make_endpoint(impl_.identity);
            reply.mutable_hello()->set_heartbeat_ms(static_cast<std::uint32_t>(
                std::chrono::duration_cast<std::chrono::milliseconds>(impl_.heartbeat()).count()));
        }
        send(std::move(reply));
        return grpc::Status::OK;
    }
    if (gateway_ == GatewayId{}) { return {grpc::StatusCode::FAILED_PRECONDITION, "the first command must be Hello"}; }

    bool is_taken = true;
    if (command.has_start()) {
        const auto& start = command.start();
        spdlog::debug("request {:016x}/{}: {} tokens, placed by scheduler {}", start.request_id(), start.epoch(),
                      start.prompt_size() + start.generated_size(), start.scheduler_epoch());
        auto request = check_addresses(start).and_then([&] { return read_start(start, gateway_, *impl_.clock); });
        if (request) {
            is_taken = impl_.loop->post_command(std::move(*request));
            if (!is_taken) {
                request = base::fail(base::ErrorCode::resource_exhausted, "the worker's command queue is full");
            }
        }
        if (!request) {  // the stream lives on: this is about one request
            SequenceOutput output;
            output.key = {base::RequestId{start.request_id()}, base::Epoch{start.epoch()}};
            output.finish = worker::Finish::error;
            output.error = request.error();
            WorkerEvent event;
            write_output(output, *event.mutable_step()->add_sequences());
            send(std::move(event));
            return grpc::Status::OK;
        }
    } else if (command.has_go_on()) {
        is_taken = impl_.loop->post_command(read_continue(command.go_on(), gateway_));
    } else if (command.has_cancel()) {
        is_taken = impl_.loop->post_command(read_cancel(command.cancel(), gateway_));
    } else if (command.has_drop_prefixes()) {
        is_taken = impl_.loop->post_command(DropRequest{
            [stream = std::weak_ptr(self_), number = command.drop_prefixes().number()](std::uint32_t blocks) {
                const auto alive = stream.lock();
                if (!alive) { return; }
                WorkerEvent event;
                event.mutable_prefixes_dropped()->set_number(number);
                event.mutable_prefixes_dropped()->set_blocks(blocks);
                alive->send(std::move(event));
            }});
    }
    if (!is_taken) { return {grpc::StatusCode::RESOURCE_EXHAUSTED, "the worker's command queue is full"}; }
    return grpc::Status::OK;
}

/// Counts the stream, and looks at who opens it.
grpc::Status WorkerServer::Impl::admit(const grpc::CallbackServerContext& context,
                                       const std::shared_ptr<Stream>& stream) {
    grpc::Status status = key.check(context, base::PeerCall::serve);
    if (!status.ok()) { return status; }
    std::shared_ptr<Stream> oldest;
    stream->count();
    {
        const std::scoped_lock lock(mutex);
        ++open_streams;
        if (open_streams > options.gateways_max) {
            while (!unknown.empty() && (oldest == nullptr || oldest->is_known())) {
                oldest = unknown.front().second.lock();
                unknown.pop_front();
            }
            if (oldest == nullptr || oldest->is_known()) {
                oldest = nullptr;
                status = {grpc::StatusCode::RESOURCE_EXHAUSTED,
                          std::to_string(options.gateways_max) + " gateways have streams here (worker.gateways_max)"};
            }
        }
        if (status.ok()) { unknown.emplace_back(clock->now(), stream); }
    }
    if (oldest != nullptr) {
        oldest->end({grpc::StatusCode::RESOURCE_EXHAUSTED, "no Hello came, and others wait for the stream"});
    }
    return status;
}

/// Any thread but one that holds the mutex.
void WorkerServer::Impl::end_unknown(base::TimePoint now) {
    std::vector<std::shared_ptr<Stream>> late;
    {
        const std::scoped_lock lock(mutex);
        while (!unknown.empty() && now - unknown.front().first >= kHelloPatience) {
            if (auto stream = unknown.front().second.lock(); stream && !stream->is_known()) {
                late.push_back(std::move(stream));
            }
            unknown.pop_front();
        }
    }
    for (const auto& stream : late) {
        stream->end({grpc::StatusCode::DEADLINE_EXCEEDED, "no Hello came"});
    }
}

/// As the settings say, but no scheduler's lease may end between two of them. After serve().
base::Duration WorkerServer::Impl::heartbeat() const {
    return std::max<base::Duration>(kHeartbeatPauseMin,
                                    std::min<base::Duration>(options.heartbeat, board->heartbeat_max()));
}

void WorkerServer::Impl::forget(GatewayId gateway) {
    {
        const std::scoped_lock lock(mutex);
        streams.erase(gateway);
        gone.push_back(gateway);
    }
    tell_gone();
}

void WorkerServer::Impl::tell_gone() {
    const std::scoped_lock lock(mutex);
    if (loop == nullptr) { return; }
    while (!gone.empty() && loop->post_command(GatewayGone{gone.back()})) {
        gone.pop_back();
    }
}

std::vector<std::shared_ptr<WorkerServer::Impl::Stream>> WorkerServer::Impl::all_streams() {
    const std::scoped_lock lock(mutex);
    std::vector<std::shared_ptr<Stream>> all;
    for (const auto& [gateway, stream] : streams) {
        all.push_back(stream);
    }
    return all;
}

void WorkerServer::Impl::run_timer(std::stop_token stop) {
    std::mutex sleep_mutex;
    std::condition_variable_any sleep;
    base::Duration pause = heartbeat();  // a stream that begins meanwhile is due no earlier
    while (!stop.stop_requested()) {
        {
            std::unique_lock lock(sleep_mutex);
            sleep.wait_for(lock, stop, std::clamp<base::Duration>(pause, kHeartbeatPauseMin, heartbeat()),
                           [] { return false; });
        }
        tell_gone();
        pause = heartbeat();
        const base::TimePoint now = clock->now();
        end_unknown(now);
        if (now - board->last_progress() > options.stall_limit) { continue; }  // silence tells the others
        for (const auto& stream : all_streams()) {
            const base::TimePoint due = stream->last_sent() + heartbeat();
            if (now < due) {
                pause = std::min(pause, due - now);
                continue;
            }
            WorkerEvent event;
            event.set_heartbeat(true);
            stream->send(std::move(event));
        }
    }
}

WorkerServer::WorkerServer() : impl_(std::make_unique<Impl>()) {}

WorkerServer::~WorkerServer() {
    stop();
}

base::Result<std::unique_ptr<WorkerServer>> WorkerServer::listen(const std::string& address,
                                                                 const WorkerOptions& options, const base::Clock& clock,
                                                                 const proto::ClusterKey& key, grpc::Service* beside) {
    auto server = std::unique_ptr<WorkerServer>(new WorkerServer());
    Impl& impl = *server->impl_;
    impl.options = options;
    impl.clock = &clock;
    impl.key = key;
    impl.service = std::make_unique<Impl::Service>(impl);
    std::vector<grpc::Service*> services{impl.service.get()};
    if (beside != nullptr) { services.push_back(beside); }
    auto running = proto::start_server({.listen_address = address, .key = key}, services);
    if (!running) { return base::pass_on(running); }
    impl.server = std::move(running->server);
    impl.port = running->port;
    impl.server->GetHealthCheckService()->SetServingStatus(false);
    return server;
}

std::uint16_t WorkerServer::port() const {
    return static_cast<std::uint16_t>(impl_->port);
}

void WorkerServer::serve(const WorkerIdentity& identity, StepLoop& loop, const ReportBoard& board) {
    {
        const std::scoped_lock lock(impl_->mutex);
        impl_->identity = identity;
        impl_->loop = &loop;
        impl_->board = &board;
        impl_->is_serving = true;
    }
    impl_->timer = std::jthread([impl = impl_.get()](std::stop_token stop) { impl->run_timer(stop); });
    impl_->server->GetHealthCheckService()->SetServingStatus(true);
}

void WorkerServer::deliver(GatewayId gateway, std::vector<SequenceOutput> outputs) {
    std::shared_ptr<Impl::Stream> stream;
    {
        const std::scoped_lock lock(impl_->mutex);
        const auto at = impl_->streams.find(gateway);
        if (at == impl_->streams.end()) { return; }  // gone: its sequences are being cancelled
        stream = at->second;
    }
    WorkerEvent event;
    for (const SequenceOutput& output : outputs) {
        write_output(output, *event.mutable_step()->add_sequences());
    }
    stream->send(std::move(event));
}

void WorkerServer::announce_drain() {
    impl_->server->GetHealthCheckService()->SetServingStatus(false);
}

void WorkerServer::stop() {
    if (impl_->server == nullptr) { return; }
    {
        const std::scoped_lock lock(impl_->mutex);
        impl_->is_serving = false;
    }
    for (const auto& stream : impl_->all_streams()) {
        stream->end(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the worker has stopped"));
    }
    impl_->server->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(1));
    impl_->server->Wait();
    impl_->timer = {};
    impl_->server.reset();
}

}  // namespace worker
