#include "sim/placer.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/check.h"
#include "proto/block_hashes.h"
#include "proto/errors.h"
#include "proto/header.h"
#include "scheduler/prefix_search.h"

namespace sim {
namespace {

constexpr const char* kModel = "model";
constexpr std::uint64_t kNumerics = 1;
constexpr std::uint64_t kGateway = 1;

std::uint32_t microseconds(base::Duration duration) {
    return static_cast<std::uint32_t>(
        std::max<std::int64_t>(1, std::chrono::duration_cast<std::chrono::microseconds>(duration).count()));
}

std::uint64_t worker_id(std::uint32_t worker) {
    return std::uint64_t{worker} + 1;
}

}  // namespace

Placer::Placer(Policy policy, scheduler::SchedulerOptions options, const VirtualClock& clock, std::size_t workers)
    : policy_(policy),
      options_(std::move(options)),
      clock_(clock),
      sessions_(workers),
      header_(sluice::proto::make_header(kModel, kNumerics)),
      routed_(workers),
      lives_(workers),
      incarnations_(workers),
      news_(workers),
      index_(options_.prefix_blocks_max) {
    if (!is_scheduler(policy)) { return; }
    options_.rules.admit_by_prediction = policy == Policy::sluice;
    scheduler_ = std::make_unique<scheduler::Scheduler>(options_, clock_, metrics_);
    *release_.mutable_header() = sluice::proto::make_header(kModel, 0);
    release_.set_gateway(kGateway);
    *request_.mutable_header() = sluice::proto::make_header(kModel, 0);
    request_.set_gateway(kGateway);
}

void Placer::lead(std::uint64_t epoch) {
    lose_leader();
    scheduler_ = std::make_unique<scheduler::Scheduler>(options_, clock_, metrics_, epoch);
    release_.clear_ended();  // of placements that this one has not made
}

void Placer::lose_leader() {
    for (auto& session : sessions_) {
        session.reset();
    }
}

void Placer::set_leading(bool hears, bool places) {
    hears_ = hears;
    places_ = places;
}

bool Placer::attach(const ModelledWorker& worker, std::uint64_t incarnation, std::uint64_t kv_bytes_per_token) {
    if (!hears_) { return false; }
    const std::uint32_t index = worker.options().index;
    const scheduler::SessionId session{worker_of_session_.size()};
    if (scheduler_ != nullptr) {
        sluice::proto::WorkerReport report;
        auto& registration = *report.mutable_registration();
        *registration.mutable_header() = sluice::proto::make_header(kModel, kNumerics);
        registration.mutable_endpoint()->set_worker_id(worker_id(index));
        registration.mutable_endpoint()->set_incarnation(incarnation);
        registration.mutable_endpoint()->set_control_address("w" + std::to_string(index));
        registration.mutable_endpoint()->set_kv_address("kv");
        registration.set_kv_bytes_per_token(kv_bytes_per_token);
        worker.registration(registration);
        if (!scheduler_->report(session, report)) { return false; }
    }
    worker_of_session_.push_back(index);
    sessions_[index] = session;
    RoutedWorker& routed = routed_[index];
    if (incarnations_[index] != incarnation) { routed = {}; }
    routed.role = worker.options().role;
    routed.is_up = true;
    routed.block_tokens = worker.options().kv.block_tokens;
    routed.kv_tokens = std::uint64_t{worker.options().kv.blocks_total} * routed.block_tokens;
    incarnations_[index] = incarnation;
    return true;
}

void Placer::detach(std::uint32_t worker) {
    if (!sessions_[worker]) { return; }
    if (scheduler_ != nullptr) { scheduler_->detach(*sessions_[worker]); }
    sessions_[worker].reset();
    routed_[worker].is_up = false;
    ++lives_[worker];
    index_.clear(worker);
    news_[worker] = {};
}

sluice::proto::Heartbeat& Placer::new_heartbeat() {
    sluice::proto::Heartbeat& heartbeat = *report_.mutable_heartbeat();
    heartbeat.Clear();
    *heartbeat.mutable_header() = header_;
    return heartbeat;
}

bool Placer::hear(std::uint32_t worker) {
    if (!sessions_[worker]) { return false; }
    const sluice::proto::Heartbeat& heartbeat = report_.heartbeat();
    if (scheduler_ == nullptr) {
        for (const sluice::proto::BlockEvents& events : heartbeat.blocks()) {
            news_[worker].take(events, index_, worker);
        }
        return news_[worker].ask_for_snapshot(heartbeat.load().blocks_cached() > 0, clock_.now(),
                                              std::chrono::seconds(1));
    }
    const auto answer = scheduler_->report(*sessions_[worker], report_);
    CHECK(answer.has_value(), answer.error().message);
    return std::any_of(answer->directives.begin(), answer->directives.end(),
                       [](const auto& directive) { return directive.resend_snapshot(); });
}

std::vector<std::uint32_t> Placer::tick() {
    std::vector<std::uint32_t> gone;
    if (scheduler_ == nullptr || !hears_) { return gone; }
    CHECK(scheduler_->release(release_).has_value());  // a sign of life of the gateway
    release_.clear_ended();
    for (const scheduler::SessionId session : scheduler_->tick()) {
        const std::uint32_t worker = worker_of_session_[static_cast<std::size_t>(session)];
        sessions_[worker].reset();
        gone.push_back(worker);
    }
    return gone;
}

std::variant<Placed, NotPlaced> Placer::place(const PlaceAsk& ask) {
    if (!places_) { return NotPlaced{.is_silent = true}; }
    flush();
    return scheduler_ != nullptr ? place_by_scheduler(ask) : place_by_policy(ask);
}

std::variant<Placed, NotPlaced> Placer::place_by_scheduler(const PlaceAsk& ask) {
    // Every field that one request sets is set for each: what is not cleared keeps its memory.
    request_.mutable_header()->set_numerics_id(ask.has_begun ? kNumerics : 0);
    request_.set_request_id(worker_id(ask.key.request));
    request_.set_epoch(ask.key.epoch);
    request_.set_begun(ask.has_begun);
    request_.set_prompt_tokens(ask.prompt_tokens);
    request_.set_new_tokens_max(ask.new_tokens_max);
    request_.set_slo_ttft_ms(ask.ttft_ms);
    request_.set_slo_tpot_ms(ask.tpot_ms);
    request_.set_first_token_in_us(ask.first_token_due ? base::time_left_us(*ask.first_token_due, clock_.now()) : 0);
    request_.set_block_hashes(sluice::proto::write_block_hashes(ask.chain));
    request_.clear_avoid_workers();
    for (const std::uint64_t life : ask.avoid) {
        request_.add_avoid_workers(life);
    }
    scheduler_->place(request_, reply_);
    if (!reply_.has_placement()) {
        return NotPlaced{sluice::proto::error_of(reply_.refusal().error()).code, reply_.refusal().retry_after_ms()};
    }
    return Placed{static_cast<std::uint32_t>(reply_.placement().prefill().worker_id() - 1),
                  static_cast<std::uint32_t>(reply_.placement().decode().worker_id() - 1)};
}

std::variant<Placed, NotPlaced> Placer::place_by_policy(const PlaceAsk& ask) {
    scheduler::PrefixSearch prefixes(index_, ask.chain, {});
    const bool knows_caches = policy_ == Policy::cache_aware && !ask.chain.empty();
    std::vector<RoutedWorker>& workers = routed_;
    std::vector<std::uint32_t> avoided;
    bool has_other = false;
    for (std::uint32_t i = 0; i < workers.size(); ++i) {
        workers[i].cached_blocks = knows_caches ? prefixes.blocks_of(i) : 0;
        const bool is_avoided = std::find(ask.avoid.begin(), ask.avoid.end(), incarnations_[i]) != ask.avoid.end();
        if (is_avoided && workers[i].is_up) { avoided.push_back(i); }
    }
    for (const std::uint32_t i : avoided) {
        workers[i].is_up = false;
    }
    auto found = route(policy_, workers, {ask.prompt_tokens, ask.new_tokens_max}, turn_);
    for (const std::uint32_t i : avoided) {
        workers[i].is_up = true;
        has_other = true;
    }
    if (!found && has_other) { found = route(policy_, workers, {ask.prompt_tokens, ask.new_tokens_max}, turn_); }
    if (!found) { return NotPlaced{base::ErrorCode::unavailable, 1000}; }
    ++turn_;
    Sent sent{.placed = {found->prefill, found->decode},
              .prefill_life = lives_[found->prefill],
              .decode_life = lives_[found->decode],
              .uncached_tokens = ask.prompt_tokens - found->cached_tokens};
    workers[found->prefill].prompt_tokens += sent.uncached_tokens;
    ++workers[found->prefill].requests;
    if (found->decode != found->prefill) { ++workers[found->decode].requests; }
    const Placed placed = sent.placed;
    sent_[ask.key] = sent;
    return placed;
}

void Placer::take_prompt(Sent& sent) {
    if (std::exchange(sent.has_token, true) || lives_[sent.placed.prefill] != sent.prefill_life) { return; }
    RoutedWorker& prefill = routed_[sent.placed.prefill];
    prefill.prompt_tokens -= std::min<std::uint64_t>(prefill.prompt_tokens, sent.uncached_tokens);
    if (sent.placed.decode != sent.placed.prefill && prefill.requests > 0) { --prefill.requests; }
}

void Placer::take_out(std::map<AttemptKey, Sent>::iterator at) {
    take_prompt(at->second);
    RoutedWorker& decode = routed_[at->second.placed.decode];
    if (lives_[at->second.placed.decode] == at->second.decode_life && decode.requests > 0) { --decode.requests; }
    sent_.erase(at);
}

void Placer::first_token(AttemptKey key, base::Duration ttft) {
    if (scheduler_ == nullptr) {
        if (const auto at = sent_.find(key); at != sent_.end()) { take_prompt(at->second); }
        return;
    }
    auto& ended = *release_.add_ended();
    ended.set_request_id(worker_id(key.request));
    ended.set_epoch(key.epoch);
    ended.set_phase(sluice::proto::ReleaseRequest::Ended::PHASE_PREFILL);
    ended.set_ttft_us(microseconds(ttft));
    flush();
}

void Placer::ended(AttemptKey key, base::Duration ttft, base::Duration tpot) {
    if (scheduler_ == nullptr) {
        if (const auto at = sent_.find(key); at != sent_.end()) { take_out(at); }
        return;
    }
    auto& ended = *release_.add_ended();
    ended.set_request_id(worker_id(key.request));
    ended.set_epoch(key.epoch);
    ended.set_phase(sluice::proto::ReleaseRequest::Ended::PHASE_ALL);
    if (ttft > base::Duration::zero()) { ended.set_ttft_us(microseconds(ttft)); }
    if (tpot > base::Duration::zero()) { ended.set_tpot_us(microseconds(tpot)); }
    flush();
}

void Placer::flush() {
    if (scheduler_ == nullptr || !hears_ || release_.ended().empty()) { return; }
    CHECK(scheduler_->release(release_).has_value());
    release_.clear_ended();
}

std::size_t Placer::placements() const {
    if (scheduler_ != nullptr) { return hears_ ? scheduler_->placements() : 0; }
    return sent_.size();
}

}  // namespace sim
