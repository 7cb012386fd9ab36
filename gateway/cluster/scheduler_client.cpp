#include "gateway/cluster/scheduler_client.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <set>
#include <utility>

#include "base/log.h"
#include "gateway/cluster/releases.h"
#include "proto/channel.h"
#include "proto/header.h"
#include "proto/scheduler.grpc.pb.h"
#include "proto/status.h"

namespace gateway {
namespace {

constexpr base::Duration kReleaseTimeout = std::chrono::seconds(2);
constexpr base::Duration kDescribeTimeout = std::chrono::seconds(2);
constexpr base::Duration kStopPatience = std::chrono::seconds(10);  // gRPC ends a cancelled call in milliseconds

template <class Request, class Reply>
struct Call {
    grpc::ClientContext context;
    Request request;
    Reply reply;
};

void set_timeout(grpc::ClientContext& context, base::Duration timeout) {
    context.set_deadline(std::chrono::system_clock::now() +
                         std::chrono::duration_cast<std::chrono::system_clock::duration>(timeout));
}

}  // namespace

struct SchedulerClient::State : std::enable_shared_from_this<State> {
    State(Options given, Post given_post, Wake given_wake)
        : options(std::move(given)),
          post(std::move(given_post)),
          wake(std::move(given_wake)),
          stub(proto::Scheduler::NewStub(proto::make_channel({.address = options.address, .key = options.key}))),
          releases(options.releases_max, options.release_batch_max) {}

    /// Starts a unary call; `then(status, reply)` runs on the gateway's thread unless stopped.
    template <class Request, class Reply, class Start, class Then>
    void call(Request request, base::Duration timeout, Start start, Then then) {
        auto call = std::make_shared<Call<Request, Reply>>();
        set_timeout(call->context, timeout);
        call->request = std::move(request);
        {
            const std::scoped_lock lock(mutex);
            outstanding.insert(&call->context);
        }
        start(call->context, call->request, call->reply,
              [self = shared_from_this(), call, then = std::move(then)](grpc::Status status) mutable {
                  {
                      const std::scoped_lock lock(self->mutex);
                      self->outstanding.erase(&call->context);
                      self->idle.notify_all();
                      if (self->stopped) { return; }
                  }
                  self->post([self, call, then = std::move(then), status = std::move(status)] {
                      if (self->events != nullptr) { then(status, call->reply); }
                  });
              });
    }

    /// Of descriptions and releases, which are of all models.
    proto::Header make_header() const {
        return proto::make_header(options.models.size() == 1 ? options.models[0] : "", 0);
    }

    /// Everything that this gateway serves can be placed.
    bool is_ready(const proto::DescribeReply& reply) const {
        const auto count = std::count_if(reply.models().begin(), reply.models().end(), [this](const auto& state) {
            return state.ready() &&
                   std::find(options.models.begin(), options.models.end(), state.model()) != options.models.end();
        });
        return static_cast<std::size_t>(count) == options.models.size();
    }

    void describe() {
        describing = true;
        proto::DescribeRequest request;
        *request.mutable_header() = make_header();
        request.set_gateway(options.life);
        call<proto::DescribeRequest, proto::DescribeReply>(
            request, kDescribeTimeout,
            [this](grpc::ClientContext& context, auto& ask, auto& reply, auto done) {
                stub->async()->Describe(&context, &ask, &reply, std::move(done));
            },
            [this](const grpc::Status& status, const proto::DescribeReply& reply) {
                describing = false;
                wake(describe_at);
                ready = status.ok() && is_ready(reply);
                if (status.ok()) {
                    events->on_cluster(reply);
                } else {
                    events->on_cluster(tl::unexpected<base::Error>(proto::error_of(status)));
                }
            });
    }

    /// One call at a time: while it runs, the next batch gathers.
    void flush_releases() {
        flush_posted = false;
        if (releasing || !release_answered) { return; }
        proto::ReleaseRequest request;
        if (!releases.take_batch(request)) { return; }
        releasing = true;
        *request.mutable_header() = make_header();
        request.set_gateway(options.life);
        call<proto::ReleaseRequest, proto::ReleaseReply>(
            request, kReleaseTimeout,
            [this](grpc::ClientContext& context, auto& ask, auto& reply, auto done) {
                stub->async()->Release(&context, &ask, &reply, std::move(done));
            },
            [this, request](const grpc::Status& status, const proto::ReleaseReply&) {
                releasing = false;
                release_answered = status.ok();
                if (status.ok()) {
                    flush_releases();
                } else {
                    releases.give_back(request);
                }
            });
    }

    Options options;
    Post post;
    Wake wake;
    std::unique_ptr<proto::Scheduler::Stub> stub;

    // Gateway's thread.
    ClusterEvents* events = nullptr;
    Releases releases;
    bool flush_posted = false;
    bool releasing = false;
    bool release_answered = true;  // else the next description's turn tries again
    bool describing = false;
    bool ready = false;
    base::TimePoint describe_at{};

    std::mutex mutex;
    std::condition_variable idle;
    std::set<grpc::ClientContext*> outstanding;  // guarded by mutex
    bool stopped = false;                        // guarded by mutex
};

SchedulerClient::SchedulerClient(Options options, Post post, Wake wake)
    : state_(std::make_shared<State>(std::move(options), std::move(post), std::move(wake))) {}

SchedulerClient::~SchedulerClient() {
    stop();
}

void SchedulerClient::attach(ClusterEvents& events) {
    state_->events = &events;
}

void SchedulerClient::place(const proto::PlaceRequest& request, base::Duration timeout) {
    State& state = *state_;
    proto::PlaceRequest ours = request;
    ours.set_gateway(state.options.life);
    state.call<proto::PlaceRequest, proto::PlaceReply>(
        std::move(ours), timeout,
        [&state](grpc::ClientContext& context, auto& ask, auto& reply, auto done) {
            state.stub->async()->Place(&context, &ask, &reply, std::move(done));
        },
        [&state, id = base::RequestId{request.request_id()}, epoch = base::Epoch{request.epoch()}](
            const grpc::Status& status, const proto::PlaceReply& reply) {
            if (status.ok()) {
                state.events->on_place_answered(id, epoch, reply);
            } else {
                state.events->on_place_answered(id, epoch, tl::unexpected<base::Error>(proto::error_of(status)));
            }
        });
}

void SchedulerClient::release(const proto::ReleaseRequest::Ended& ended) {
    State& state = *state_;
    state.releases.add(ended);
    if (std::exchange(state.flush_posted, true)) { return; }
    state.post([self = state_] {
        if (self->events != nullptr) { self->flush_releases(); }
    });
}

std::optional<base::TimePoint> SchedulerClient::tick(base::TimePoint now) {
    State& state = *state_;
    if (!state.describing && now >= state.describe_at) {
        state.describe_at = now + (state.ready ? state.options.describe_interval : state.options.describe_interval / 5);
        state.describe();
        state.release_answered = true;
        state.flush_releases();  // what failed before
    }
    if (state.describing) { return std::nullopt; }
    return state.describe_at;
}

void SchedulerClient::stop() {
    State& state = *state_;
    state.events = nullptr;
    std::unique_lock lock(state.mutex);
    state.stopped = true;
    for (grpc::ClientContext* context : state.outstanding) {
        context->TryCancel();
    }
    if (!state.idle.wait_for(lock, kStopPatience, [&] { return state.outstanding.empty(); })) {
        spdlog::error("stopping: gRPC still holds {} calls to the scheduler {} s after they were cancelled; left to it",
                      state.outstanding.size(),
                      std::chrono::duration_cast<std::chrono::seconds>(kStopPatience).count());
    }
}

}  // namespace gateway
