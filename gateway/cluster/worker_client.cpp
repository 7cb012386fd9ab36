#include "gateway/cluster/worker_client.h"

#include <grpcpp/grpcpp.h>

#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "base/log.h"
#include "gateway/cluster/channel.h"
#include "proto/version.h"
#include "proto/worker.grpc.pb.h"

namespace gateway {
namespace {

/// Counts streams that gRPC still holds, so that stop() can wait for them.
struct LiveCount {
    std::mutex mutex;
    std::condition_variable idle;
    int live = 0;  // guarded by mutex
    void change(int by) {
        const std::scoped_lock lock(mutex);
        live += by;
        idle.notify_all();
    }
    void wait() {
        std::unique_lock lock(mutex);
        idle.wait(lock, [this] { return live == 0; });
    }
};

class Stream;

/// What a stream tells, on the gateway's thread.
class StreamOwner {
public:
    virtual ~StreamOwner() = default;
    virtual void on_event(const std::shared_ptr<Stream>& stream, const proto::WorkerEvent& event) = 0;
    virtual void on_closed(const std::shared_ptr<Stream>& stream, const base::Error& error) = 0;
};

/// One Serve stream. Reactions run on gRPC's threads and only post; everything else on the gateway's thread.
class Stream final : public grpc::ClientBidiReactor<proto::WorkerCommand, proto::WorkerEvent>,
                     public std::enable_shared_from_this<Stream> {
public:
    Stream(const proto::WorkerEndpoint& endpoint, Post post, std::weak_ptr<StreamOwner> owner,
           std::shared_ptr<LiveCount> live, base::TimePoint now)
        : incarnation_(endpoint.incarnation()),
          address_(endpoint.control_address()),
          stub_(proto::Worker::NewStub(make_channel(endpoint.control_address()))),
          post_(std::move(post)),
          owner_(std::move(owner)),
          live_(std::move(live)),
          heard_at_(now) {}

    void open() {
        live_->change(1);
        self_ = shared_from_this();  // until OnDone
        stub_->async()->Serve(&context_, this);
        AddHold();  // writes start outside of reactions
        StartRead(&reading_);
        StartCall();
    }

    void push(proto::WorkerCommand command) {
        if (dead_) { return; }
        commands_.push_back(std::move(command));
        pump();
    }

    /// Nothing more is written or reported; gRPC lets go of the stream soon.
    void abandon() {
        if (std::exchange(dead_, true)) { return; }
        commands_.clear();
        context_.TryCancel();
        RemoveHold();
    }

    std::uint64_t incarnation() const { return incarnation_; }
    const std::string& address() const { return address_; }
    bool dead() const { return dead_; }
    std::size_t commands_waiting() const { return commands_.size(); }
    base::TimePoint heard_at() const { return heard_at_; }
    void heard(base::TimePoint now) { heard_at_ = now; }
    bool greeted() const { return heartbeat_ > base::Duration::zero(); }
    base::Duration heartbeat() const { return heartbeat_; }
    void greet(base::Duration heartbeat) { heartbeat_ = heartbeat; }

    void OnReadDone(bool ok) override {
        if (!ok) {
            post_([self = shared_from_this()] { self->abandon(); });
            return;
        }
        auto event = std::make_shared<proto::WorkerEvent>(std::move(reading_));
        reading_.Clear();
        post_([self = shared_from_this(), event] {
            if (const auto owner = self->owner_.lock(); owner && !self->dead_) { owner->on_event(self, *event); }
        });
        StartRead(&reading_);
    }

    void OnWriteDone(bool ok) override {
        if (!ok) { return; }  // the read fails too
        post_([self = shared_from_this()] {
            self->is_writing_ = false;
            if (!self->dead_) { self->pump(); }
        });
    }

    void OnDone(const grpc::Status& status) override {
        base::Error error{base::ErrorCode::unavailable, "the stream to the worker ended"};
        if (!status.ok()) {
            error = {base::error_code_from_grpc(static_cast<int>(status.error_code())), status.error_message()};
        }
        auto self = std::move(self_);
        post_([self, error] {
            if (const auto owner = self->owner_.lock()) { owner->on_closed(self, error); }
        });
        const auto live = live_;
        self.reset();
        live->change(-1);
    }

private:
    void pump() {
        if (is_writing_ || commands_.empty()) { return; }
        is_writing_ = true;
        writing_ = std::move(commands_.front());
        commands_.pop_front();
        StartWrite(&writing_);
    }

    const std::uint64_t incarnation_;
    const std::string address_;
    std::unique_ptr<proto::Worker::Stub> stub_;
    Post post_;
    std::weak_ptr<StreamOwner> owner_;
    std::shared_ptr<LiveCount> live_;
    grpc::ClientContext context_;
    std::shared_ptr<Stream> self_;

    proto::WorkerEvent reading_;    // gRPC's, between StartRead and OnReadDone
    proto::WorkerCommand writing_;  // gRPC's, while is_writing_
    std::deque<proto::WorkerCommand> commands_;
    bool is_writing_ = false;
    bool dead_ = false;
    base::TimePoint heard_at_;
    base::Duration heartbeat_{};  // as the worker promised; zero before its HelloReply
};

}  // namespace

struct WorkerClient::State final : StreamOwner, std::enable_shared_from_this<State> {
    State(Options given, Post given_post, const base::Clock& given_clock)
        : options(std::move(given)), post(std::move(given_post)), clock(given_clock) {}

    std::shared_ptr<Stream> stream_to(const proto::WorkerEndpoint& endpoint) {
        std::shared_ptr<Stream>& stream = streams[endpoint.incarnation()];
        if (!stream) {
            stream = std::make_shared<Stream>(endpoint, post, weak_from_this(), live, clock.now());
            stream->open();
            proto::WorkerCommand command;
            proto::Hello& hello = *command.mutable_hello();
            hello.mutable_header()->set_protocol_version(::proto::kProtocolVersion);
            hello.mutable_header()->set_model(options.model);
            // No numerics id: workers of every id are served, the scheduler picks those that fit a sequence.
            hello.set_gateway(options.name);
            hello.set_incarnation(endpoint.incarnation());
            stream->push(std::move(command));
        }
        return stream;
    }

    void on_event(const std::shared_ptr<Stream>& stream, const proto::WorkerEvent& event) override {
        stream->heard(clock.now());
        if (event.has_hello()) {
            if (event.hello().endpoint().incarnation() != stream->incarnation()) {
                lose(stream, {base::ErrorCode::failed_precondition,
                              "another life of the worker answers at " + stream->address()});
                return;
            }
            stream->greet(std::chrono::milliseconds(std::max(event.hello().heartbeat_ms(), 1u)));
        } else if (event.has_step()) {
            const base::Incarnation worker{stream->incarnation()};
            for (const proto::SequenceOutput& output : event.step().sequences()) {
                if (events == nullptr) { return; }
                events->on_output(worker, output);
            }
        }
    }

    void on_closed(const std::shared_ptr<Stream>& stream, const base::Error& error) override { lose(stream, error); }

    /// Reports the loss once and forgets the stream; the next command to that life opens another.
    void lose(const std::shared_ptr<Stream>& stream, const base::Error& error) {
        stream->abandon();
        const auto at = streams.find(stream->incarnation());
        if (at == streams.end() || at->second != stream) { return; }
        streams.erase(at);
        if (events != nullptr) { events->on_worker_lost(base::Incarnation{stream->incarnation()}, error); }
    }

    Options options;
    Post post;
    const base::Clock& clock;
    ClusterEvents* events = nullptr;
    std::map<std::uint64_t, std::shared_ptr<Stream>> streams;  // by incarnation
    std::shared_ptr<LiveCount> live = std::make_shared<LiveCount>();
};

WorkerClient::WorkerClient(Options options, Post post, const base::Clock& clock)
    : state_(std::make_shared<State>(std::move(options), std::move(post), clock)) {}

WorkerClient::~WorkerClient() {
    stop();
}

void WorkerClient::attach(ClusterEvents& events) {
    state_->events = &events;
}

void WorkerClient::send(const proto::WorkerEndpoint& to, proto::WorkerCommand command) {
    State& state = *state_;
    if (command.has_cancel() && !state.streams.contains(to.incarnation())) { return; }  // gone, and its work with it
    const auto stream = state.stream_to(to);
    if (stream->commands_waiting() >= state.options.commands_max) {
        // Never from inside a call: the loss is told from the event loop.
        state.post([self = state_, stream] {
            self->lose(stream, {base::ErrorCode::unavailable, "the worker does not read its commands"});
        });
        return;
    }
    stream->push(std::move(command));
}

void WorkerClient::expect(const proto::DescribeReply& cluster) {
    State& state = *state_;
    for (const proto::WorkerState& worker : cluster.workers()) {
        if (worker.state() == "ready") { state.stream_to(worker.endpoint()); }
    }
}

void WorkerClient::tick(base::TimePoint now) {
    State& state = *state_;
    std::vector<std::shared_ptr<Stream>> silent;
    for (const auto& [incarnation, stream] : state.streams) {
        const base::Duration allowed = stream->greeted()
                                           ? std::max<base::Duration>(state.options.lost_after, stream->heartbeat() * 4)
                                           : state.options.hello_timeout;
        if (!stream->dead() && now - stream->heard_at() > allowed) { silent.push_back(stream); }
    }
    for (const auto& stream : silent) {
        const auto quiet = std::chrono::duration_cast<std::chrono::milliseconds>(now - stream->heard_at()).count();
        state.lose(stream, {base::ErrorCode::unavailable, "nothing was heard from the worker at " + stream->address() +
                                                              " for " + std::to_string(quiet) + " ms"});
    }
}

void WorkerClient::stop() {
    State& state = *state_;
    state.events = nullptr;
    for (const auto& [incarnation, stream] : std::exchange(state.streams, {})) {
        stream->abandon();
    }
    state.live->wait();
}

}  // namespace gateway
