#include "gateway/cluster/scheduler_client.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <utility>

#include "base/log.h"
#include "base/log_limit.h"
#include "gateway/cluster/leader_view.h"
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
          view(options.addresses.size()),
          releases(options.releases_max, options.release_batch_max) {
        for (const std::string& address : options.addresses) {
            schedulers.push_back(
                {.stub = proto::Scheduler::NewStub(proto::make_channel({.address = address, .key = options.key})),
                 .describing = false});
        }
    }

    /// Starts a unary call to scheduler `to`; `then(status, reply)` runs on the gateway's thread unless stopped.
    template <class Request, class Reply, class Start, class Then>
    void call(std::size_t to, Request request, base::Duration timeout, Start start, Then then) {
        auto call = std::make_shared<Call<Request, Reply>>();
        set_timeout(call->context, timeout);
        call->request = std::move(request);
        {
            const std::scoped_lock lock(mutex);
            outstanding.emplace(&call->context, to);
        }
        start(*schedulers[to].stub, call->context, call->request, call->reply,
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

    /// What scheduler `from` answered, if it counts: else why not.
    template <class Reply>
    base::Result<Reply> take(std::size_t from, const grpc::Status& status, const Reply& reply) {
        if (!status.ok()) {
            const base::Error error = proto::error_of(status);
            // The other errors are of one that leads.
            if (error.code == base::ErrorCode::unavailable || error.code == base::ErrorCode::deadline_exceeded) {
                lose(from);
            }
            return tl::unexpected(error);
        }
        const std::optional<std::size_t> before = view.leader();
        if (!view.answered(from, reply.scheduler_epoch())) {
            base::warn_limited("superseded scheduler",
                               "an answer of the scheduler at {} is refused: its epoch {} is over, it is {}",
                               options.addresses[from], reply.scheduler_epoch(), view.epoch());
            return base::fail(base::ErrorCode::unavailable, "the scheduler that answered leads no more");
        }
        if (before != from && schedulers.size() > 1) { follow(from); }
        return reply;
    }

    /// Scheduler `leader` leads from now on. Whatever was asked of another one is asked again, of this one.
    void follow(std::size_t leader) {
        spdlog::info("the scheduler at {} leads, epoch {}", options.addresses[leader], view.epoch());
        const std::scoped_lock lock(mutex);
        for (const auto& [context, to] : outstanding) {
            if (to != leader) { context->TryCancel(); }
        }
        release_answered = true;
    }

    /// Scheduler `index` does not lead, so far as can be seen: the next description is due at once, of all of them.
    void lose(std::size_t index) {
        const bool led = view.leader() == index;
        view.failed(index);
        if (!led || schedulers.size() == 1) { return; }
        describe_at = base::TimePoint();
        wake(describe_at);
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

    /// Asks every scheduler that does not owe an answer.
    void describe() {
        for (std::size_t to = 0; to < schedulers.size(); ++to) {
            if (!std::exchange(schedulers[to].describing, true)) { describe(to); }
        }
    }

    void describe(std::size_t to) {
        proto::DescribeRequest request;
        *request.mutable_header() = make_header();
        request.set_gateway(options.life);
        request.set_scheduler_epoch(view.epoch());
        call<proto::DescribeRequest, proto::DescribeReply>(
            to, request, kDescribeTimeout,
            [](auto& stub, grpc::ClientContext& context, auto& ask, auto& reply, auto done) {
                stub.async()->Describe(&context, &ask, &reply, std::move(done));
            },
            [this, to](const grpc::Status& status, const proto::DescribeReply& reply) {
                schedulers[to].describing = false;
                wake(describe_at);
                const auto taken = take(to, status, reply);
                if (!taken && view.leader()) { return; }  // another one leads, and says how it is
                ready = taken && is_ready(*taken);
                events->on_cluster(taken);
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
        const std::size_t to = view.next();
        call<proto::ReleaseRequest, proto::ReleaseReply>(
            to, request, kReleaseTimeout,
            [](auto& stub, grpc::ClientContext& context, auto& ask, auto& reply, auto done) {
                stub.async()->Release(&context, &ask, &reply, std::move(done));
            },
            [this, to, request](const grpc::Status& status, const proto::ReleaseReply& reply) {
                releasing = false;
                release_answered = take(to, status, reply).has_value();
                if (release_answered) {
                    flush_releases();
                } else {
                    releases.give_back(request);
                }
            });
    }

    Options options;
    Post post;
    Wake wake;
    struct OfScheduler {
        std::unique_ptr<proto::Scheduler::Stub> stub;
        bool describing = false;  // a description is awaited
    };

    // Gateway's thread.
    std::vector<OfScheduler> schedulers;  // as options.addresses
    LeaderView view;
    ClusterEvents* events = nullptr;
    Releases releases;
    bool flush_posted = false;
    bool releasing = false;
    bool release_answered = true;  // else the next description's turn tries again
    bool ready = false;
    base::TimePoint describe_at{};

    std::mutex mutex;
    std::condition_variable idle;
    std::map<grpc::ClientContext*, std::size_t> outstanding;  // to whom; guarded by mutex
    bool stopped = false;                                     // guarded by mutex
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
    const std::size_t to = state.view.next();
    state.call<proto::PlaceRequest, proto::PlaceReply>(
        to, std::move(ours), timeout,
        [](auto& stub, grpc::ClientContext& context, auto& ask, auto& reply, auto done) {
            stub.async()->Place(&context, &ask, &reply, std::move(done));
        },
        [&state, to, id = base::RequestId{request.request_id()}, epoch = base::Epoch{request.epoch()}](
            const grpc::Status& status, const proto::PlaceReply& reply) {
            state.events->on_place_answered(id, epoch, state.take(to, status, reply));
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
    const auto owes = [](const State::OfScheduler& one) { return one.describing; };
    const auto& schedulers = state.schedulers;
    if (now >= state.describe_at && !std::all_of(schedulers.begin(), schedulers.end(), owes)) {
        state.describe_at = now + (state.ready ? state.options.describe_interval : state.options.describe_interval / 5);
        state.describe();
        state.release_answered = true;
        state.flush_releases();  // what failed before
    }
    if (std::all_of(schedulers.begin(), schedulers.end(), owes)) { return std::nullopt; }
    return state.describe_at;
}

void SchedulerClient::stop() {
    State& state = *state_;
    state.events = nullptr;
    std::unique_lock lock(state.mutex);
    state.stopped = true;
    for (const auto& [context, to] : state.outstanding) {
        context->TryCancel();
    }
    if (!state.idle.wait_for(lock, kStopPatience, [&] { return state.outstanding.empty(); })) {
        spdlog::error("stopping: gRPC still holds {} calls to the scheduler {} s after they were cancelled; left to it",
                      state.outstanding.size(),
                      std::chrono::duration_cast<std::chrono::seconds>(kStopPatience).count());
    }
}

}  // namespace gateway
