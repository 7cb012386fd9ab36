#include "gateway/cluster/worker_client.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "base/log.h"
#include "gateway/cluster/worker_stream.h"
#include "proto/channel.h"
#include "proto/header.h"

namespace gateway {
namespace {

constexpr base::Duration kLeaseDefault = std::chrono::seconds(5);   // where the scheduler does not say
constexpr base::Duration kStopPatience = std::chrono::seconds(10);  // gRPC ends a cancelled stream in milliseconds

}  // namespace

struct WorkerClient::State final : WorkerStreamOwner, std::enable_shared_from_this<State> {
    State(Options given, Post given_post, Wake given_wake, const base::Clock& given_clock)
        : options(std::move(given)), post(std::move(given_post)), wake(std::move(given_wake)), clock(given_clock) {}

    /// When it is given up if nothing more is heard of it.
    base::TimePoint lost_at(const WorkerStream& stream) const {
        if (!stream.greeted()) { return stream.heard_at() + options.hello_timeout; }
        const base::Duration promised = std::min<base::Duration>(stream.heartbeat() * 4, lease);
        return stream.heard_at() + std::max<base::Duration>(options.lost_after, promised);
    }

    std::shared_ptr<WorkerStream> stream_to(const std::string& model, const proto::WorkerEndpoint& endpoint) {
        std::shared_ptr<WorkerStream>& stream = streams[endpoint.incarnation()];
        if (!stream) {
            stream = std::make_shared<WorkerStream>(WorkerStream::Setup{
                .endpoint = endpoint,
                .channel = proto::make_channel(
                    {.address = endpoint.control_address(), .key = options.key, .callee = base::PeerKind::worker}),
                .post = post,
                .owner = weak_from_this(),
                .live = live,
                .now = clock.now(),
                .inbox_bytes_max = options.inbox_bytes_max});
            stream->open();
            proto::WorkerCommand command;
            proto::Hello& hello = *command.mutable_hello();
            // No numerics id: workers of every id are served, the scheduler picks those that fit a sequence.
            *hello.mutable_header() = proto::make_header(model, 0);
            hello.set_gateway(options.name);
            hello.set_incarnation(endpoint.incarnation());
            stream->push(std::move(command));
            wake(lost_at(*stream));
        }
        return stream;
    }

    void on_event(const std::shared_ptr<WorkerStream>& stream, const proto::WorkerEvent& event) override {
        stream->heard(clock.now());
        if (event.has_hello()) {
            if (event.hello().endpoint().incarnation() != stream->incarnation()) {
                lose(stream, {base::ErrorCode::failed_precondition,
                              "another life of the worker answers at " + stream->address()});
                return;
            }
            stream->greet(std::chrono::milliseconds(std::max(event.hello().heartbeat_ms(), 1u)));
            wake(lost_at(*stream));
        } else if (event.has_prefixes_dropped()) {
            const auto at = droppings.find(event.prefixes_dropped().number());
            if (at == droppings.end() || at->second.waiting.erase(stream->incarnation()) == 0) { return; }
            ++at->second.sum.answered;
            at->second.sum.blocks += event.prefixes_dropped().blocks();
            settle(at->first);
        } else if (event.has_step()) {
            const base::Incarnation worker{stream->incarnation()};
            for (const proto::SequenceOutput& output : event.step().sequences()) {
                if (events == nullptr) { return; }
                events->on_output(worker, output);
            }
        }
    }

    void on_closed(const std::shared_ptr<WorkerStream>& stream, const base::Error& error) override {
        lose(stream, error);
    }

    /// A dropping ends when nobody is left to answer it.
    void settle(std::uint64_t number) {
        const auto at = droppings.find(number);
        if (at == droppings.end() || !at->second.waiting.empty()) { return; }
        const Dropping ended = std::move(at->second);
        droppings.erase(at);
        ended.done(ended.sum);
    }

    /// Reports the loss once and forgets the stream; the next command to that life opens another.
    void lose(const std::shared_ptr<WorkerStream>& stream, const base::Error& error) {
        stream->abandon();
        const auto at = streams.find(stream->incarnation());
        if (at == streams.end() || at->second != stream) { return; }
        streams.erase(at);
        std::vector<std::uint64_t> numbers;
        for (auto& [number, dropping] : droppings) {
            if (dropping.waiting.erase(stream->incarnation()) > 0) { numbers.push_back(number); }
        }
        for (const std::uint64_t number : numbers) {
            settle(number);
        }
        if (events != nullptr) { events->on_worker_lost(base::Incarnation{stream->incarnation()}, error); }
    }

    struct Dropping {
        WorkerPort::Dropped sum;
        std::set<std::uint64_t> waiting;  // incarnations that have not answered
        base::TimePoint until;
        std::function<void(const WorkerPort::Dropped&)> done;
    };

    Options options;
    Post post;
    Wake wake;
    const base::Clock& clock;
    base::Duration lease = kLeaseDefault;
    std::map<std::uint64_t, Dropping> droppings;  // by number
    std::uint64_t last_dropping = 0;
    ClusterEvents* events = nullptr;
    std::map<std::uint64_t, std::shared_ptr<WorkerStream>> streams;  // by incarnation
    std::shared_ptr<LiveCount> live = std::make_shared<LiveCount>();
};

WorkerClient::WorkerClient(Options options, Post post, Wake wake, const base::Clock& clock)
    : state_(std::make_shared<State>(std::move(options), std::move(post), std::move(wake), clock)) {}

WorkerClient::~WorkerClient() {
    stop();
}

void WorkerClient::attach(ClusterEvents& events) {
    state_->events = &events;
}

void WorkerClient::send(const std::string& model, const proto::WorkerEndpoint& to, proto::WorkerCommand command) {
    State& state = *state_;
    if (command.has_cancel() && !state.streams.contains(to.incarnation())) { return; }  // gone, and its work with it
    const auto stream = state.stream_to(model, to);
    if (stream->commands_waiting() >= state.options.commands_max) {
        // Never from inside a call: the loss is told from the event loop.
        state.post([self = state_, stream] {
            self->lose(stream, {base::ErrorCode::unavailable, "the worker does not read its commands"});
        });
        return;
    }
    stream->push(std::move(command));
}

void WorkerClient::drop_prefixes(base::Duration timeout, std::function<void(const Dropped&)> done) {
    State& state = *state_;
    const std::uint64_t number = ++state.last_dropping;
    State::Dropping& dropping = state.droppings[number];
    dropping.until = state.clock.now() + timeout;
    dropping.done = std::move(done);
    for (const auto& [incarnation, stream] : state.streams) {
        proto::WorkerCommand command;
        command.mutable_drop_prefixes()->set_number(number);
        stream->push(std::move(command));
        dropping.waiting.insert(incarnation);
    }
    dropping.sum.workers = dropping.waiting.size();
    state.wake(dropping.until);
    state.post([self = state_, number] { self->settle(number); });
}

void WorkerClient::expect(const proto::DescribeReply& cluster) {
    State& state = *state_;
    if (cluster.worker_lease_ms() > 0) { state.lease = std::chrono::milliseconds(cluster.worker_lease_ms()); }
    const auto& models = state.options.models;
    for (const proto::ModelState& of : cluster.models()) {
        if (std::find(models.begin(), models.end(), of.model()) == models.end()) { continue; }
        for (const proto::WorkerState& worker : of.workers()) {
            if (worker.state() == "ready") { state.stream_to(of.model(), worker.endpoint()); }
        }
    }
}

std::optional<base::TimePoint> WorkerClient::tick(base::TimePoint now) {
    State& state = *state_;
    std::optional<base::TimePoint> next;
    std::vector<std::shared_ptr<WorkerStream>> silent;
    for (const auto& [incarnation, stream] : state.streams) {
        if (stream->dead()) { continue; }
        const base::TimePoint lost_at = state.lost_at(*stream);
        if (now < lost_at) {
            next = std::min(next.value_or(lost_at), lost_at);
        } else if (stream->has_unread()) {
            next = now;  // its silence is ours, and about to end
        } else {
            silent.push_back(stream);
        }
    }
    std::vector<std::uint64_t> late;
    for (auto& [number, dropping] : state.droppings) {
        if (now < dropping.until) {
            next = std::min(next.value_or(dropping.until), dropping.until);
            continue;
        }
        dropping.waiting.clear();
        late.push_back(number);
    }
    for (const std::uint64_t number : late) {
        state.settle(number);
    }
    for (const auto& stream : silent) {
        const auto quiet = std::chrono::duration_cast<std::chrono::milliseconds>(now - stream->heard_at()).count();
        state.lose(stream, {base::ErrorCode::unavailable, "nothing was heard from the worker at " + stream->address() +
                                                              " for " + std::to_string(quiet) + " ms"});
    }
    return next;
}

void WorkerClient::stop() {
    State& state = *state_;
    state.events = nullptr;
    state.droppings.clear();  // nobody is left to be told
    for (const auto& [incarnation, stream] : std::exchange(state.streams, {})) {
        stream->abandon();
    }
    if (const int held = state.live->wait(kStopPatience); held > 0) {
        spdlog::error("stopping: gRPC still holds {} streams to workers {} s after they were cancelled; left to it",
                      held, std::chrono::duration_cast<std::chrono::seconds>(kStopPatience).count());
    }
}

}  // namespace gateway
