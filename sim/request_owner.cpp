#include "sim/request_owner.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "gateway/request/retry_rules.h"

namespace sim {

using gateway::is_retryable;

namespace {

/// As a gateway tells its targets.
std::uint32_t milliseconds(double seconds) {
    return static_cast<std::uint32_t>(std::chrono::ceil<std::chrono::milliseconds>(duration_of(seconds)).count());
}

}  // namespace

RequestOwner::RequestOwner(const ServingOptions& options, const ServingTrace& trace, PlacePort& placer,
                           AttemptPort& port, const VirtualClock& clock, ServingResult& result)
    : options_(options),
      trace_(trace),
      placer_(placer),
      port_(port),
      clock_(clock),
      result_(result),
      retries_(rules_.retries, clock.now()),
      requests_(trace.requests.size()) {}

RequestOwner::Open* RequestOwner::find(AttemptKey key) {
    Open& open = requests_[key.request];
    return open.is_open && open.key == key && open.workers_known ? &open : nullptr;
}

void RequestOwner::violate(AttemptKey key, const std::string& what) {
    if (violation_) { return; }
    violation_ = "request " + std::to_string(key.request) + " epoch " + std::to_string(key.epoch) + ": " + what;
}

void RequestOwner::arrive(std::uint32_t request) {
    Open& open = requests_[request];
    if (open.is_open || result_.outcomes[request].ended_s >= 0) { return violate({request, 0}, "arrives twice"); }
    open.is_open = true;
    ++open_;
    retries_.earn();
    open.key = {request, 0};
    open.give_up_at = clock_.now() + rules_.place_wait_max;
    place(open);
}

void RequestOwner::place(Open& open) {
    const ServedRequest& asked = trace_.requests[open.key.request];
    open.is_waiting = false;
    open.workers_known = false;
    open.epoch_tokens = 0;
    open.placed_at = clock_.now();
    PlaceAsk ask{.key = open.key,
                 .prompt_tokens = asked.prompt_tokens + open.generated,
                 .new_tokens_max = asked.output_tokens - open.generated,
                 .has_begun = open.generated > 0,
                 .ttft_ms = milliseconds(options_.ttft_target_s),
                 .tpot_ms = milliseconds(options_.tpot_target_s),
                 .chain = std::span(trace_.blocks).subspan(asked.first_block, asked.blocks),
                 .avoid = open.avoid};
    if (options_.ttft_target_s > 0) {
        const base::TimePoint from = open.generated > 0 ? clock_.now() : VirtualClock::at(asked.arrival_s);
        ask.first_token_due = from + duration_of(options_.ttft_target_s);
    }
    const auto answer = placer_.place(ask);
    if (const auto* placed = std::get_if<Placed>(&answer)) { return take(open, *placed); }
    auto refusal = std::get<NotPlaced>(answer);
    if (refusal.is_silent) {
        placer_.ended(open.key, {}, {});  // it may have been placed, and the answer lost
        return wait_for_place(open, base::ErrorCode::unavailable, 1000);
    }
    if (refusal.code == base::ErrorCode::not_found) {  // that nobody serves the model is no mistake of the client's
        refusal.code = base::ErrorCode::unavailable;
        refusal.retry_after_ms = std::max(refusal.retry_after_ms, 1000u);
    }
    if (open.placements == 0 || !is_retryable(refusal.code)) {
        ++result_.counts.refused;
        return end(open, refusal.code);
    }
    open.avoid.clear();
    wait_for_place(open, refusal.code, refusal.retry_after_ms);
}

void RequestOwner::take(Open& open, const Placed& placed) {
    const ServedRequest& asked = trace_.requests[open.key.request];
    if (open.placements++ > 0) { ++result_.counts.placed_again; }
    ++result_.counts.placements;
    open.prefill = placed.prefill;
    open.decode = placed.decode;
    open.prefill_life = port_.incarnation(placed.prefill);
    open.decode_life = port_.incarnation(placed.decode);
    open.is_split = placed.prefill != placed.decode;
    open.workers_known = true;
    open.prefill_done = false;
    open.decode_done = false;
    open.give_up_at.reset();
    LightStart start{.key = open.key,
                     .prompt_tokens = asked.prompt_tokens,
                     .generated_tokens = open.generated,
                     .new_tokens_max = asked.output_tokens,
                     .tpot = duration_of(options_.tpot_target_s),
                     .chain = std::span(trace_.blocks).subspan(asked.first_block, asked.blocks)};
    if (options_.ttft_target_s > 0) {
        const base::TimePoint from = open.generated > 0 ? clock_.now() : VirtualClock::at(asked.arrival_s);
        start.first_token_due = from + duration_of(options_.ttft_target_s);
    }
    if (!open.is_split) { return port_.start(open.decode, start, open.decode); }
    start.part = worker::Part::decode;
    port_.start(open.decode, start, open.prefill);
    start.part = worker::Part::prefill;
    port_.start(open.prefill, start, open.decode);
}

void RequestOwner::on_token(std::uint32_t worker, AttemptKey key, std::uint32_t generated_tokens,
                            std::uint32_t cached_tokens) {
    Open* open = find(key);
    if (open == nullptr) { return; }  // late
    const bool from_prefill = open->is_split && worker == open->prefill;
    if (from_prefill && open->epoch_tokens > 0) { return violate(key, "prefill gives a second token"); }
    if (open->is_split && !from_prefill && open->epoch_tokens == 0) {
        return violate(key, "decode gives the first token");
    }
    if (worker != open->decode && !from_prefill) { return violate(key, "a token from elsewhere"); }
    const bool is_next = generated_tokens == open->generated + 1;
    if (!is_next && (options_.tells_every_token() || generated_tokens <= open->generated)) {
        return violate(key, "token " + std::to_string(generated_tokens) + " after " + std::to_string(open->generated));
    }
    const base::TimePoint now = clock_.now();
    ServedOutcome& outcome = result_.outcomes[key.request];
    const double at = VirtualClock::seconds(now);
    if (open->generated == 0) {
        outcome.first_token_s = at;
        outcome.cached_tokens = cached_tokens;
    } else if (options_.keeps_token_times) {
        outcome.token_gaps_s.push_back(static_cast<float>(at - outcome.last_token_s));
    }
    outcome.last_token_s = at;
    const std::uint32_t tokens = generated_tokens - open->generated;
    open->generated = generated_tokens;
    result_.counts.tokens += tokens;
    if (std::exchange(open->epoch_tokens, open->epoch_tokens + tokens) == 0) {
        open->first_token_at = now;
        placer_.first_token(key, now - open->placed_at);
    }
    open->last_token_at = now;
    if (open->generated >= trace_.requests[key.request].output_tokens) {
        if (from_prefill || !open->is_split) { open->prefill_done = true; }
        if (!from_prefill) { open->decode_done = true; }
        return end(*open, std::nullopt);
    }
    if (from_prefill) { port_.go_on(open->decode, key, open->generated); }
}

void RequestOwner::on_handed_over(AttemptKey key) {
    if (Open* open = find(key)) { open->prefill_done = true; }
}

void RequestOwner::on_failed(std::uint32_t worker, AttemptKey key, base::ErrorCode code) {
    Open* open = find(key);
    if (open == nullptr) { return; }
    if (open->is_split && worker == open->prefill) {
        open->prefill_done = true;
        if (open->epoch_tokens > 0) { return; }  // decode computes what does not come
    }
    if (worker == open->decode) { open->decode_done = true; }
    attempt_failed(*open, worker, code);
}

void RequestOwner::on_worker_lost(std::uint32_t worker) {
    for (const Open& open : requests_) {
        if (!open.is_open || !open.workers_known || (open.prefill != worker && open.decode != worker)) { continue; }
        on_failed(worker, open.key, base::ErrorCode::unavailable);
    }
}

void RequestOwner::attempt_failed(Open& open, std::uint32_t worker, base::ErrorCode code) {
    if (!is_retryable(code) || open.placements >= rules_.placements_max) { return end(open, code); }
    if (!retries_.take(clock_.now())) { return end(open, base::ErrorCode::unavailable); }
    close_epoch(open);
    ++open.key.epoch;
    const std::uint64_t life = worker == open.prefill ? open.prefill_life : open.decode_life;
    if (std::find(open.avoid.begin(), open.avoid.end(), life) == open.avoid.end()) {
        if (open.avoid.size() == gateway::kAvoidMax) { open.avoid.erase(open.avoid.begin()); }
        open.avoid.push_back(life);
    }
    open.give_up_at = clock_.now() + rules_.replace_wait_max;
    place(open);
}

void RequestOwner::wait_for_place(Open& open, base::ErrorCode code, std::uint32_t retry_after_ms) {
    const base::TimePoint now = clock_.now();
    const base::Duration pause = gateway::retry_pause(retry_after_ms);
    if (!open.give_up_at || now + pause >= *open.give_up_at) { return end(open, code); }
    ++open.key.epoch;
    open.is_waiting = true;
    port_.wake(open.key, now + pause);
}

void RequestOwner::on_time(AttemptKey key) {
    Open& open = requests_[key.request];
    if (open.is_open && open.key == key && open.is_waiting) { place(open); }
}

void RequestOwner::close_epoch(Open& open) {
    if (!open.workers_known) { return; }
    if (open.is_split && !open.prefill_done) { port_.cancel(open.prefill, open.key); }
    if (!open.decode_done) { port_.cancel(open.decode, open.key); }
    base::Duration ttft{};
    base::Duration tpot{};
    if (open.epoch_tokens > 0) { ttft = open.first_token_at - open.placed_at; }
    if (open.epoch_tokens > 1) { tpot = (open.last_token_at - open.first_token_at) / (open.epoch_tokens - 1); }
    placer_.ended(open.key, ttft, tpot);
    open.workers_known = false;
}

void RequestOwner::end(Open& open, std::optional<base::ErrorCode> error) {
    const AttemptKey key = open.key;
    ServedOutcome& outcome = result_.outcomes[key.request];
    if (outcome.ended_s >= 0) { return violate(key, "a second final answer"); }
    close_epoch(open);
    outcome.ended_s = VirtualClock::seconds(clock_.now());
    outcome.tokens = open.generated;
    outcome.placements = open.placements;
    outcome.error = error;
    if (!error && open.generated != trace_.requests[key.request].output_tokens) {
        violate(key, "answered with " + std::to_string(open.generated) + " tokens");
    }
    open.is_open = false;
    if (open.key.epoch > 0) { open.avoid = {}; }  // else it is empty, and in no near cache
    --open_;
}

}  // namespace sim
