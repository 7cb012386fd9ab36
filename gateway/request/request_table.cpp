#include "gateway/request/request_table.h"

#include <algorithm>

#include "base/check.h"
#include "base/log.h"
#include "gateway/request/pool_load.h"

namespace gateway {
namespace {

constexpr std::size_t kPrimingTokens = 16;  // no character has more tokens

/// What a description says about one model; nothing said: not ready.
const proto::ModelState& state_of(const proto::DescribeReply& reply, const std::string& name) {
    for (const proto::ModelState& state : reply.models()) {
        if (state.model() == name) { return state; }
    }
    return proto::ModelState::default_instance();
}

/// For endpoint pickers (Gateway API Inference Extension), under vLLM's names.
void tell_pickers(base::Metrics& metrics, const std::string& model, const WorkersLoad& load) {
    const base::Metrics::Labels labels{{"model_name", model}};
    metrics.gauge("vllm:num_requests_waiting", "Requests that wait at the workers, as vLLM calls it", labels)
        .Set(static_cast<double>(load.waiting));
    metrics.gauge("vllm:num_requests_running", "Requests in work at the workers, as vLLM calls it", labels)
        .Set(static_cast<double>(load.running));
    metrics
        .gauge("vllm:kv_cache_usage_perc", "Share of the workers' KV memory in use, 0 to 1, as vLLM calls it", labels)
        .Set(load.kv_usage);
}

}  // namespace

RequestTable::RequestTable(Setup setup)
    : setup_(std::move(setup)),
      clusters_(setup_.models.size()),
      loads_(setup_.models.size()),
      retries_(setup_.options.retries, setup_.clock.now()),
      random_(setup_.seed) {}

RequestTable::~RequestTable() {
    CHECK(generations_.empty(), generations_.size() << " sequences have no final answer");
    CHECK(opened_ == ended_, opened_ << " opened, " << ended_ << " ended");
}

base::RequestId RequestTable::open(GenerationRequest request, GenerationSink& sink) {
    CHECK(has_room(1));
    base::RequestId id{random_()};
    while (base::raw(id) == 0 || generations_.contains(id)) {
        id = base::RequestId{random_()};
    }
    const std::size_t model = request.model;
    auto detokenizer = request.encodes ? nullptr : setup_.models[model].text->detokenizer(request.skip_special);
    // The text goes on from the prompt: a space before the first word belongs to it, and a character may span both.
    const auto& prompt = *request.prompt;
    for (std::size_t at = prompt.size() - std::min(prompt.size(), kPrimingTokens);
         detokenizer != nullptr && at < prompt.size(); ++at) {
        detokenizer->push(prompt[at]);
    }
    auto generation = std::make_unique<Generation>(id, std::move(request), sink, std::move(detokenizer),
                                                   GenerationContext{.scheduler = setup_.scheduler,
                                                                     .workers = setup_.workers,
                                                                     .clock = setup_.clock,
                                                                     .metrics = setup_.metrics.of(model),
                                                                     .options = setup_.options,
                                                                     .retries = retries_,
                                                                     .cluster = clusters_[model],
                                                                     .scheduler_epoch = scheduler_epoch_,
                                                                     .hash_key = setup_.hash_key,
                                                                     .model = setup_.models[model].name,
                                                                     .observer = setup_.observer});
    generations_.emplace(id, Entry{.generation = std::move(generation), .wakes_at = std::nullopt});
    ++opened_;
    retries_.earn();
    dispatch(id, [](Generation& opened) { opened.start(); });
    return id;
}

template <class Event>
void RequestTable::dispatch(base::RequestId id, Event event) {
    const auto at = generations_.find(id);
    if (at == generations_.end()) { return; }
    Entry& entry = at->second;  // stays in place: entries leave only in settle()
    ++running_;
    event(*entry.generation);
    --running_;
    if (running_ > 0) {
        unsettled_.push_back(id);
        return;
    }
    settle(id, entry);
    for (const base::RequestId one : std::exchange(unsettled_, {})) {
        if (const auto other = generations_.find(one); other != generations_.end()) { settle(one, other->second); }
    }
}

void RequestTable::settle(base::RequestId id, Entry& entry) {
    const auto wakes_at = entry.generation->wakes_at();
    if (wakes_at != entry.wakes_at) {
        if (entry.wakes_at) { timers_.erase({*entry.wakes_at, id}); }
        if (wakes_at) {
            timers_.insert({*wakes_at, id});
            if (setup_.wake) { setup_.wake(*wakes_at); }
        }
        entry.wakes_at = wakes_at;
    }
    if (entry.generation->ended()) {
        ++ended_;
        generations_.erase(id);
    }
}

void RequestTable::cancel(base::RequestId id, std::string_view cause) {
    dispatch(id, [&](Generation& generation) { generation.cancel(cause); });
}

void RequestTable::on_place_answered(base::RequestId id, base::Epoch epoch,
                                     const base::Result<proto::PlaceReply>& reply) {
    if (reply) { scheduler_epoch_ = std::max(scheduler_epoch_, reply->scheduler_epoch()); }
    bool used = false;
    dispatch(id, [&](Generation& generation) { used = generation.on_place_answered(epoch, reply); });
    if (used || !reply || !reply->has_placement()) { return; }
    proto::ReleaseRequest::Ended unused;  // the client was gone, or the time over, before the answer came
    unused.set_request_id(base::raw(id));
    unused.set_epoch(base::raw(epoch));
    unused.set_phase(proto::ReleaseRequest::Ended::PHASE_ALL);
    setup_.scheduler.release(unused);
}

void RequestTable::on_output(base::Incarnation worker, const proto::SequenceOutput& output) {
    dispatch(base::RequestId{output.request_id()},
             [&](Generation& generation) { generation.on_output(worker, output); });
}

void RequestTable::on_worker_lost(base::Incarnation worker, const base::Error& error) {
    spdlog::warn("worker {:016x} is lost: {}", base::raw(worker), base::log_safe(error.message));
    std::vector<base::RequestId> all;
    all.reserve(generations_.size());
    for (const auto& [id, entry] : generations_) {
        all.push_back(id);
    }
    std::sort(all.begin(), all.end());  // the same order in every run of a simulation
    for (const base::RequestId id : all) {
        dispatch(id, [&](Generation& generation) { generation.on_worker_lost(worker, error); });
    }
}

void RequestTable::on_cluster(const base::Result<proto::DescribeReply>& reply) {
    if (!reply) {
        for (ClusterView& cluster : clusters_) {
            cluster.ready = false;
        }
        std::fill(loads_.begin(), loads_.end(), 0.0);
        return;
    }
    scheduler_epoch_ = std::max(scheduler_epoch_, reply->scheduler_epoch());
    for (std::size_t model = 0; model < clusters_.size(); ++model) {
        const proto::ModelState& state = state_of(*reply, setup_.models[model].name);
        ClusterView& cluster = clusters_[model];
        cluster.known = true;
        cluster.ready = state.ready();
        cluster.numerics_id = state.numerics_id();
        loads_[model] = pool_load(state);
        tell_pickers(setup_.metrics.registry(), setup_.models[model].name, workers_load(state));
        // A model without workers has no limits of its own; those of the workers that come back hold on.
        if (state.block_tokens() > 0) { cluster.block_tokens = state.block_tokens(); }
        if (state.context_tokens() > 0) { cluster.context_tokens = state.context_tokens(); }
    }
    tell_ready();
}

void RequestTable::when_ready(std::function<void()> tell) {
    tell_ready_ = std::move(tell);
    tell_ready();
}

bool RequestTable::is_ready() const {
    return std::all_of(clusters_.begin(), clusters_.end(), [](const auto& one) { return one.ready; });
}

void RequestTable::tell_ready() {
    if (tell_ready_ && is_ready()) { std::exchange(tell_ready_, nullptr)(); }
}

void RequestTable::on_time() {
    const base::TimePoint now = setup_.clock.now();
    while (!timers_.empty() && timers_.begin()->first <= now) {
        const auto [at, id] = *timers_.begin();
        timers_.erase(timers_.begin());
        if (const auto entry = generations_.find(id); entry != generations_.end()) { entry->second.wakes_at.reset(); }
        dispatch(id, [](Generation& generation) { generation.on_time(); });
    }
}

std::optional<base::TimePoint> RequestTable::wakes_at() const {
    if (timers_.empty()) { return std::nullopt; }
    return timers_.begin()->first;
}

}  // namespace gateway
