#include "tests/support/modelled_cluster.h"

#include <algorithm>
#include <map>
#include <random>
#include <unordered_map>

#include "proto/header.h"
#include "worker/step_loop.h"

#include "tests/support/modelled_engine.h"

namespace test_support {
namespace {

using Seconds = std::chrono::duration<double>;
constexpr const char* kModel = "m";
constexpr std::uint64_t kNumerics = 7;

base::Duration duration_of(double seconds) {
    return std::chrono::duration_cast<base::Duration>(Seconds(seconds));
}

class TokenTimes final : public worker::OutputSink {
public:
    explicit TokenTimes(const base::Clock& clock) : clock_(clock) {}
    void deliver(worker::GatewayId, std::vector<worker::SequenceOutput> outputs) override {
        for (const auto& output : outputs) {
            CHECK(!output.error, output.error->message);
            for (std::size_t i = 0; i < output.tokens.size(); ++i) {
                news.push_back({output.key.request, clock_.now(), false});
            }
            if (output.finish != worker::Finish::none) { news.push_back({output.key.request, clock_.now(), true}); }
        }
    }
    struct News {
        base::RequestId request{};
        base::TimePoint at{};
        bool is_end = false;
    };
    std::vector<News> news;

private:
    const base::Clock& clock_;
};

}  // namespace

struct ModelledCluster::Worker {
    Worker(const Options& options, int index, const base::Clock& clock, base::Metrics& metrics)
        : engine(
              {.cost = options.cost, .noise = options.noise, .seed = options.seed + static_cast<std::uint32_t>(index)},
              clock),
          cache({.blocks_total = engine.blocks_total(), .block_tokens = 16}),
          sink(clock),
          loop({.limits = options.limits,
                .hash_key = {},
                .model = kModel,
                .worker = "mixed-" + std::to_string(index),
                .role = worker::Role::mixed},
               engine, cache, sink, board, clock, metrics) {
        loop.attach(worker::Part::whole, &whole);
    }
    ModelledEngine engine;
    kv_cache::KvCache cache;
    TokenTimes sink;
    worker::ReportBoard board;
    worker::RolePart whole;
    worker::StepLoop loop;
    std::optional<engine::Ticket> step;
    scheduler::SessionId session{};
    std::uint64_t heartbeats = 0;
};

struct ModelledCluster::Run {
    const std::vector<ModelledRequest>& requests;
    std::vector<ModelledOutcome> outcomes;
    std::unordered_map<base::RequestId, std::size_t> of;
    std::map<std::size_t, std::vector<base::TimePoint>> tokens;
    std::multimap<base::TimePoint, std::size_t> due;
    base::TimePoint began;
    std::size_t left = 0;
    std::map<std::uint64_t, Worker*> by_id = {};
};

ModelledCluster::ModelledCluster(const Options& options)
    : options_(options), scheduler_(options.scheduler, clock_, metrics_), next_heartbeat_(clock_.now()) {
    for (int i = 0; i < options.workers; ++i) {
        auto& worker = *workers_.emplace_back(std::make_unique<Worker>(options_, i, clock_, metrics_));
        worker.session = scheduler::SessionId{static_cast<std::uint64_t>(i) + 1};
        sluice::proto::WorkerReport report;
        auto& registration = *report.mutable_registration();
        *registration.mutable_header() = sluice::proto::make_header(kModel, kNumerics);
        registration.mutable_endpoint()->set_worker_id(static_cast<std::uint64_t>(i) + 1);
        registration.mutable_endpoint()->set_incarnation(1001 + static_cast<std::uint64_t>(i));
        registration.mutable_endpoint()->set_control_address("127.0.0.1:" + std::to_string(10'000 + i));
        registration.mutable_endpoint()->set_kv_address("kv");
        registration.set_role(sluice::proto::WORKER_ROLE_MIXED);
        registration.set_kv_blocks_total(worker.engine.blocks_total());
        registration.set_block_tokens(16);
        registration.set_context_tokens(worker.engine.shape().context_tokens);
        registration.set_batch_sequences_max(options_.limits.batch_sequences_max);
        registration.set_batch_tokens_max(options_.limits.batch_tokens_max);
        registration.set_queue_requests_max(options_.limits.queue_requests_max);
        registration.set_kv_bytes_per_token(1000);
        CHECK(scheduler_.report(worker.session, report).has_value());
        worker.board.attach();
    }
}

ModelledCluster::~ModelledCluster() = default;

void ModelledCluster::slow_down(double factor) {
    for (const auto& worker : workers_) {
        worker->engine.slow_down(factor);
    }
}

void ModelledCluster::slow_down_mixed(double factor) {
    for (const auto& worker : workers_) {
        worker->engine.slow_down_mixed(factor);
    }
}

void ModelledCluster::heartbeat(Worker& worker) {
    sluice::proto::WorkerReport report;
    auto& heartbeat = *report.mutable_heartbeat();
    *heartbeat.mutable_header() = sluice::proto::make_header(kModel, kNumerics);
    heartbeat.set_number(++worker.heartbeats);
    worker.board.take(heartbeat);
    CHECK(scheduler_.report(worker.session, report).has_value());
}

/// Places the request and starts it. False when it was refused.
bool ModelledCluster::ask(Run& run, std::size_t index, double now) {
    const ModelledRequest& wish = run.requests[index];
    ModelledOutcome& outcome = run.outcomes[index];
    const std::uint32_t told = wish.answer_tokens_told > 0 ? wish.answer_tokens_told : wish.answer_tokens;
    const base::RequestId id{next_request_++};
    const base::TimePoint first_token = run.began + duration_of(wish.at + wish.ttft_seconds);
    ++outcome.attempts;
    outcome.arrived = now;
    sluice::proto::PlaceRequest request;
    *request.mutable_header() = sluice::proto::make_header(kModel, 0);
    request.set_request_id(base::raw(id));
    request.set_prompt_tokens(wish.prompt_tokens);
    request.set_new_tokens_max(told);
    request.set_tenant(wish.tenant);
    request.set_slo_class(wish.slo_class);
    if (options_.tell_targets) {
        request.set_slo_ttft_ms(static_cast<std::uint32_t>(wish.ttft_seconds * 1e3));
        request.set_slo_tpot_ms(static_cast<std::uint32_t>(wish.tpot_seconds * 1e3));
        const auto left = std::chrono::duration_cast<std::chrono::microseconds>(first_token - clock_.now()).count();
        request.set_first_token_in_us(left == 0 ? -1 : left);
    }
    const sluice::proto::PlaceReply reply = scheduler_.place(request);
    if (!reply.has_placement()) {
        outcome.is_refused = true;
        outcome.retry_after_seconds = reply.refusal().retry_after_ms() * 1e-3;
        return false;
    }
    outcome.is_refused = false;
    outcome.predicted_ttft = reply.placement().predicted_ttft_us() * 1e-6;
    outcome.predicted_tpot = reply.placement().predicted_tpot_us() * 1e-6;
    worker::StartRequest start;
    start.key = {id, base::Epoch{0}};
    start.gateway = worker::GatewayId{1};
    std::mt19937 random(options_.seed * 7919u + static_cast<std::uint32_t>(base::raw(id)));
    for (std::uint32_t t = 0; t < wish.prompt_tokens; ++t) {
        start.prompt.push_back(static_cast<base::TokenId>(random() % 100));
    }
    start.stop.new_tokens_max = wish.answer_tokens;
    start.tenant = wish.tenant.empty() ? "default" : wish.tenant;
    if (options_.tell_targets) {
        start.slo.first_token = first_token;
        start.slo.tpot = duration_of(wish.tpot_seconds);
    }
    run.of[id] = index;
    CHECK(workers_[reply.placement().prefill().worker_id() - 1]->loop.post_command(std::move(start)));
    return true;
}

std::vector<ModelledOutcome> ModelledCluster::run(const std::vector<ModelledRequest>& requests) {
    Run run{.requests = requests,
            .outcomes = std::vector<ModelledOutcome>(requests.size()),
            .of = {},
            .tokens = {},
            .due = {},
            .began = clock_.now(),
            .left = requests.size()};
    const auto seconds = [&](base::TimePoint at) { return Seconds(at - run.began).count(); };
    for (std::size_t i = 0; i < requests.size(); ++i) {
        run.due.emplace(run.began + duration_of(requests[i].at), i);
    }
    const auto tell = [&](base::RequestId id, sluice::proto::ReleaseRequest::Ended::Phase phase) {
        const ModelledOutcome& outcome = run.outcomes[run.of.at(id)];
        sluice::proto::ReleaseRequest release;
        *release.mutable_header() = sluice::proto::make_header(kModel, 0);
        auto& ended = *release.add_ended();
        ended.set_request_id(base::raw(id));
        ended.set_phase(phase);
        ended.set_ttft_us(
            static_cast<std::uint32_t>((outcome.ttft - (outcome.arrived - requests[run.of.at(id)].at)) * 1e6));
        ended.set_tpot_us(static_cast<std::uint32_t>(outcome.tpot * 1e6));
        CHECK(scheduler_.release(release).has_value());
    };
    const auto take_news = [&](Worker& worker) {
        for (const TokenTimes::News& news : worker.sink.news) {
            const std::size_t index = run.of.at(news.request);
            ModelledOutcome& outcome = run.outcomes[index];
            auto& times = run.tokens[index];
            if (!news.is_end) {
                times.push_back(news.at);
                if (times.size() == 1) {
                    outcome.ttft = seconds(news.at) - requests[index].at;
                    tell(news.request, sluice::proto::ReleaseRequest::Ended::PHASE_PREFILL);
                }
                continue;
            }
            outcome.ended = seconds(news.at);
            for (std::size_t i = 1; i < times.size(); ++i) {
                outcome.gap_max = std::max(outcome.gap_max, Seconds(times[i] - times[i - 1]).count());
            }
            if (times.size() > 1) {
                outcome.tpot = Seconds(times.back() - times.front()).count() / static_cast<double>(times.size() - 1);
            }
            tell(news.request, sluice::proto::ReleaseRequest::Ended::PHASE_ALL);
            run.tokens.erase(index);
            --run.left;
        }
        worker.sink.news.clear();
    };

    while (run.left > 0) {
        while (!run.due.empty() && run.due.begin()->first <= clock_.now()) {
            const std::size_t index = run.due.begin()->second;
            run.due.erase(run.due.begin());
            if (ask(run, index, seconds(clock_.now()))) { continue; }
            const ModelledOutcome& outcome = run.outcomes[index];
            if (options_.on_refusal == OnRefusal::give_up || outcome.attempts >= options_.attempts_max ||
                outcome.retry_after_seconds == 0) {
                --run.left;
                continue;
            }
            const double pause = options_.on_refusal == OnRefusal::wait_as_told ? outcome.retry_after_seconds : 0.01;
            run.due.emplace(clock_.now() + duration_of(pause), index);
        }
        for (const auto& worker : workers_) {
            if (worker->step && worker->engine.ends_at() <= clock_.now()) {
                worker->loop.finish_step(worker->engine.collect(*worker->step, clock_.now(), {}));
                worker->step.reset();
            }
            worker->loop.work();
            if (!worker->step) { worker->step = worker->loop.begin_step(); }
            worker->loop.settle();
            take_news(*worker);
        }
        if (clock_.now() >= next_heartbeat_) {
            for (const auto& worker : workers_) {
                heartbeat(*worker);
            }
            static_cast<void>(scheduler_.tick());
            next_heartbeat_ = clock_.now() + options_.scheduler.heartbeat;
        }
        base::TimePoint next = next_heartbeat_;
        if (!run.due.empty()) { next = std::min(next, run.due.begin()->first); }
        for (const auto& worker : workers_) {
            if (worker->step) { next = std::min(next, worker->engine.ends_at()); }
        }
        if (next > clock_.now()) { clock_.advance(next - clock_.now()); }
    }
    return std::move(run.outcomes);
}

std::vector<ModelledRequest> poisson(double rate, std::size_t count, std::uint32_t seed, const ModelledRequest& like) {
    std::mt19937 random{seed};
    std::exponential_distribution<double> gap(rate);
    std::vector<ModelledRequest> requests;
    double at = 0;
    for (std::size_t i = 0; i < count; ++i) {
        ModelledRequest request = like;
        request.at = at += gap(random);
        requests.push_back(std::move(request));
    }
    return requests;
}

}  // namespace test_support
