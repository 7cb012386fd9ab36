#include "bench/played_cluster.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "base/check.h"
#include "proto/block_hashes.h"
#include "proto/header.h"

namespace bench {
namespace {

constexpr std::uint64_t kNumerics = 7;
constexpr double kReportSeconds = 0.25;
constexpr std::uint32_t kBatchSequences = 256;
constexpr std::uint32_t kBatchTokens = 8192;
/// Uses of one chain's blocks lie this far apart in a worker's order of use.
constexpr std::uint64_t kUseStep = std::uint64_t{1} << 24;

base::Duration duration_of(double seconds) {
    return std::chrono::duration_cast<base::Duration>(std::chrono::duration<double>(seconds));
}

sluice::proto::WorkerRole role_of(scheduler::Role role) {
    switch (role) {
        case scheduler::Role::prefill:
            return sluice::proto::WORKER_ROLE_PREFILL;
        case scheduler::Role::decode:
            return sluice::proto::WORKER_ROLE_DECODE;
        default:
            return sluice::proto::WORKER_ROLE_MIXED;
    }
}

}  // namespace

PlayedCluster::PlayedCluster(const Options& options, scheduler::Registry& registry)
    : options_(options), registry_(registry), random_(options.seed) {
    CHECK(options.workers > 0 && options.prefill_share >= 0 && options.prefill_share < 1);
    const auto prefill = static_cast<std::uint32_t>(std::ceil(options.prefill_share * options.workers));
    std::uniform_real_distribution<double> speed(1 - options.speed_spread, 1 + options.speed_spread);
    std::uniform_real_distribution<double> phase(0, kReportSeconds);
    workers_.resize(options.workers);
    for (std::uint32_t i = 0; i < options.workers; ++i) {
        Worker& worker = workers_[i];
        worker.role = prefill == 0  ? scheduler::Role::mixed
                      : i < prefill ? scheduler::Role::prefill
                                    : scheduler::Role::decode;
        const double factor = speed(random_);
        const auto& [p, d] = options.cost;
        worker.cost = {.prefill = {p.step_seconds * factor, p.token_seconds * factor, p.context_seconds * factor},
                       .decode = {d.step_seconds * factor, d.sequence_seconds * factor, d.context_seconds * factor}};
        sluice::proto::RegisterWorker registration;
        *registration.mutable_header() = sluice::proto::make_header("m", kNumerics);
        registration.mutable_endpoint()->set_worker_id(i + 1);
        registration.mutable_endpoint()->set_incarnation(std::uint64_t{i} + 1'000'000);
        registration.mutable_endpoint()->set_control_address("10.0.0.1:" + std::to_string(10'000 + i));
        registration.mutable_endpoint()->set_kv_address("kv");
        registration.set_role(role_of(worker.role));
        registration.set_kv_blocks_total(options.blocks_total);
        registration.set_block_tokens(options.block_tokens);
        registration.set_context_tokens(options.context_tokens);
        registration.set_batch_sequences_max(kBatchSequences);
        registration.set_batch_tokens_max(kBatchTokens);
        registration.set_queue_requests_max(1024);
        registration.set_kv_bytes_per_token(100'000);
        const auto enrolled = registry.enroll(registration, now_);
        CHECK(enrolled.has_value(), enrolled.error().message);
        worker.life = enrolled->life;
        CHECK(registry.slot_of(worker.life.id) == i, i);
        registry.set_costs(worker.life.id, {.prefill = worker.cost.prefill,
                                            .decode = worker.cost.decode,
                                            .transfer = {1e-3, 1e-10},
                                            .learned = true,
                                            .prefill_learned = true});
        events_.push({.at = phase(random_), .request = 0, .slot = i, .is_first_token = false});
    }
}

std::uint64_t PlayedCluster::blocks_of(std::uint32_t prompt_tokens, std::uint32_t answer_tokens) const {
    return (std::uint64_t{prompt_tokens} + answer_tokens + options_.block_tokens - 1) / options_.block_tokens;
}

double PlayedCluster::busy_seconds(const PlayedRequest& request) const {
    return base::prefill_seconds(options_.cost.prefill, 1, request.prompt_tokens,
                                 base::context_sum(0, request.prompt_tokens));
}

scheduler::PlaceQuery PlayedCluster::query_of(const PlayedRequest& request) const {
    return {.prompt_tokens = request.prompt_tokens,
            .new_tokens_max = request.answer_tokens,
            .ttft_seconds_left = request.ttft_seconds,
            .tpot_seconds_target = request.tpot_seconds};
}

void PlayedCluster::advance(double seconds) {
    while (!events_.empty() && events_.top().at <= seconds) {
        const Event event = events_.top();
        events_.pop();
        seconds_ = std::max(seconds_, event.at);
        now_ = started_ + duration_of(seconds_);
        happen(event);
    }
    seconds_ = std::max(seconds_, seconds);
    now_ = started_ + duration_of(seconds_);
}

base::RequestId PlayedCluster::remember(const PlayedRequest& request, const scheduler::Placement& placement) {
    const base::RequestId id{next_request_++};
    registry_.in_flight().add({.request = id,
                               .prefill_slot = static_cast<std::uint32_t>(placement.prefill),
                               .decode_slot = static_cast<std::uint32_t>(placement.decode),
                               .uncached_tokens = request.prompt_tokens - placement.cached_prompt_tokens,
                               .prompt_tokens = request.prompt_tokens,
                               .decode_blocks = blocks_of(request.prompt_tokens, request.answer_tokens),
                               .ttft_seconds = placement.ttft_seconds,
                               .tpot_seconds = placement.tpot_seconds,
                               .tpot_seconds_target = request.tpot_seconds},
                              now_);
    registry_.coming_blocks().add(id, static_cast<std::uint32_t>(placement.prefill), request.chain);
    return id;
}

void PlayedCluster::run(const PlayedRequest& request, const scheduler::Placement& placement, base::RequestId id) {
    const auto prefill = static_cast<std::uint32_t>(placement.prefill);
    const std::uint32_t uncached = request.prompt_tokens - placement.cached_prompt_tokens;
    Worker& worker = workers_[prefill];
    worker.prompts += 1;
    worker.prompt_tokens += uncached;
    std::uniform_real_distribution<double> noise(0.95, 1.05);
    // Beside those that decode a prompt takes longer.
    const double company = 1 + 0.02 * worker.sequences;
    const double seconds = company * noise(random_) *
                           base::prefill_seconds(worker.cost.prefill, std::ceil(uncached / double{kBatchTokens}),
                                                 uncached, base::context_sum(placement.cached_prompt_tokens, uncached));
    worker.free_at = std::max(seconds_, worker.free_at) + seconds;
    events_.push({.at = worker.free_at, .request = base::raw(id), .slot = prefill, .is_first_token = true});
    Running& running = running_[base::raw(id)];
    running = {.prefill = prefill,
               .decode = static_cast<std::uint32_t>(placement.decode),
               .uncached = uncached,
               .prompt_tokens = request.prompt_tokens,
               .answer_tokens = request.answer_tokens,
               .chain = {}};
    if (options_.reports_prefixes) { running.chain = request.chain; }
}

void PlayedCluster::happen(const Event& event) {
    if (event.request == 0) {
        report(event.slot);
        events_.push({.at = event.at + kReportSeconds, .request = 0, .slot = event.slot, .is_first_token = false});
        return;
    }
    const base::RequestId id{event.request};
    Running& running = running_.at(event.request);
    Worker& decode = workers_[running.decode];
    if (event.is_first_token) {
        Worker& prefill = workers_[running.prefill];
        prefill.prompts -= 1;
        prefill.prompt_tokens -= running.uncached;
        static_cast<void>(registry_.in_flight().first_token(id, base::Epoch{}, now_));
        registry_.coming_blocks().computed(id);
        if (options_.reports_prefixes) { give_prefix(running.prefill, running.chain); }
        decode.sequences += 1;
        decode.context += running.prompt_tokens;
        decode.blocks_used += blocks_of(running.prompt_tokens, running.answer_tokens);
        const double gap =
            base::decode_step_seconds(decode.cost.decode, decode.sequences, static_cast<double>(decode.context));
        events_.push({.at = event.at + gap * running.answer_tokens,
                      .request = event.request,
                      .slot = running.decode,
                      .is_first_token = false});
        return;
    }
    decode.sequences -= 1;
    decode.context -= running.prompt_tokens;
    decode.blocks_used -= blocks_of(running.prompt_tokens, running.answer_tokens);
    static_cast<void>(registry_.in_flight().ended(id, base::Epoch{}, now_));
    registry_.coming_blocks().ended(id, true);
    if (options_.reports_prefixes && running.decode != running.prefill) { give_prefix(running.decode, running.chain); }
    running_.erase(event.request);
}

void PlayedCluster::give_prefix(std::uint32_t slot, std::span<const base::BlockHash> chain) {
    Worker& worker = workers_[slot];
    uses_ += kUseStep;
    for (std::size_t i = 0; i < chain.size(); ++i) {
        const std::uint64_t use = uses_ - i;
        const auto [at, is_new] = worker.used_at.try_emplace(chain[i], use);
        if (is_new) {
            worker.changed[chain[i]] = true;
        } else {
            worker.by_use.erase({std::exchange(at->second, use), chain[i]});
        }
        worker.by_use.insert({use, chain[i]});
    }
    while (worker.by_use.size() > options_.blocks_total / 2) {
        const base::BlockHash oldest = worker.by_use.begin()->second;
        worker.by_use.erase(worker.by_use.begin());
        worker.used_at.erase(oldest);
        worker.changed[oldest] = false;
    }
}

void PlayedCluster::report(std::uint32_t slot) {
    Worker& worker = workers_[slot];
    sluice::proto::Heartbeat heartbeat;
    heartbeat.set_number(++worker.heartbeats);
    sluice::proto::WorkerLoad& load = *heartbeat.mutable_load();
    load.set_requests_waiting(worker.prompts > 0 ? worker.prompts - 1 : 0);
    load.set_requests_running((worker.prompts > 0 ? 1 : 0) + worker.sequences);
    // What of the queue is done already goes by time.
    const double left = std::max(0.0, worker.free_at - seconds_) / worker.cost.prefill.token_seconds;
    load.set_prefill_tokens_queued(std::min(worker.prompt_tokens, static_cast<std::uint64_t>(left)));
    load.set_decode_sequences(worker.sequences);
    load.set_context_tokens(worker.context);
    const std::uint64_t used = std::min<std::uint64_t>(worker.blocks_used, options_.blocks_total);
    load.set_blocks_used(static_cast<std::uint32_t>(used));
    load.set_blocks_free(options_.blocks_total - static_cast<std::uint32_t>(used));
    if (!worker.changed.empty()) {
        std::vector<base::BlockHash> stored;
        std::vector<base::BlockHash> removed;
        for (const auto& [hash, is_held] : worker.changed) {
            (is_held ? stored : removed).push_back(hash);
        }
        worker.changed.clear();
        sluice::proto::BlockEvents& events = *heartbeat.add_blocks();
        events.set_number(++worker.events);
        events.set_stored(sluice::proto::write_block_hashes(stored));
        events.set_removed(sluice::proto::write_block_hashes(removed));
    }
    CHECK(registry_.hear(worker.life, heartbeat, now_).fresh, slot);
}

}  // namespace bench
