#include "prefill_worker/prefill_part.h"

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "base/log_limit.h"

namespace prefill_worker {

using worker::Finish;
using worker::RequestKey;
using worker::Sequence;

namespace {

constexpr std::chrono::hours kHandoffMax{1};  // far beyond any prompt: the timer below ends a hand-off earlier

/// How the KV of a hand-off is to travel: as the placement says, and where it says nothing as this worker likes it.
proto::KvMode mode_of(const Sequence& sequence, const worker::WorkerOptions& options, bool allow_lossy) {
    proto::KvMode mode = sequence.request.kv_mode;
    if (!mode.codec().empty() || options.kv_codec == "raw") { return mode; }
    const bool is_exact = options.kv_codec == "exact" || options.kv_codec == "auto" || !allow_lossy;
    mode.set_codec(is_exact ? "exact" : options.kv_codec);
    const bool has_levels = options.kv_codec == "cachegen" || options.kv_codec == "sluice";
    mode.set_level(is_exact || !has_levels ? 0 : options.kv_level);
    mode.set_lossy(!is_exact);
    return mode;
}

/// When its KV should be with the decode worker: the second token is due then, which needs it. Empty: nobody said.
std::optional<base::TimePoint> kv_due(const Sequence& sequence) {
    const worker::SloTargets& slo = sequence.request.slo;
    if (!slo.first_token) { return std::nullopt; }
    return *slo.first_token + slo.tpot;
}

}  // namespace

PrefillPart::PrefillPart(const worker::WorkerOptions& options, std::uint32_t layers, base::Incarnation incarnation,
                         worker::StepControl& control, KvSenderPort& sender)
    : options_(options), layers_(layers), incarnation_(incarnation), control_(control), sender_(sender) {}

void PrefillPart::admitted(Sequence& sequence) {
    const RequestKey request = sequence.request.key;
    const auto kv_tokens = static_cast<std::uint32_t>(sequence.tokens.size());
    Handoff handoff;
    handoff.key = {request.request, request.epoch, incarnation_, sequence.request.peer.incarnation};
    handoff.hold = control_.cache().hold(*sequence.kv, 0, control_.cache().blocks_for(kv_tokens));

    // A long prompt may compute for long; what is bounded is how long its KV waits for decode afterwards (tick).
    base::TimePoint deadline = control_.clock().now() + kHandoffMax;
    if (sequence.request.deadline) { deadline = std::min(deadline, *sequence.request.deadline); }
    const bool allow_lossy = sequence.request.allow_lossy_kv && options_.kv_lossy_allowed;
    const auto left = kv_tokens - sequence.computed_tokens;
    const auto computing = control_.predict_prefill(sequence.computed_tokens, left);
    const auto computing_whole = control_.predict_prefill(0, kv_tokens);
    const auto opened =
        sender_.open({.key = handoff.key,
                      .kv_address = sequence.request.peer.kv_address,
                      .kv_tokens = kv_tokens,
                      .blocks = handoff.hold.blocks(),
                      .deadline = deadline,
                      .kv_mode = mode_of(sequence, options_, allow_lossy),
                      .choose_mode = options_.kv_codec == "auto" && sequence.request.kv_mode.codec().empty(),
                      .allow_lossy = allow_lossy,
                      .due = kv_due(sequence),
                      .computing = computing.value_or(base::Duration::zero()),
                      .computing_whole = computing_whole.value_or(base::Duration::zero())});
    if (!opened) {
        base::warn_limited("hand-off cannot begin", "hand-off {} cannot begin: {}", kv_transfer::to_string(handoff.key),
                           opened.error().message);
        not_opened_.insert_or_assign(request, opened.error());
        return;
    }
    not_opened_.erase(request);
    if (sequence.computed_tokens > 0) { sender_.ready(handoff.key, 0, layers_, 0, sequence.computed_tokens); }
    handoffs_.insert_or_assign(request, std::move(handoff));
}

void PrefillPart::loaded(Sequence& sequence, std::uint32_t tokens_before) {
    if (const auto handoff = handoff_of(sequence)) {
        sender_.ready(*handoff, 0, layers_, tokens_before, sequence.computed_tokens);
    }
}

void PrefillPart::layers_done(std::span<const worker::LaunchedChunk> chunks, std::uint32_t layer_begin,
                              std::uint32_t layer_end) {
    for (const worker::LaunchedChunk& chunk : chunks) {
        sender_.ready(chunk.handoff, layer_begin, layer_end, chunk.token_begin, chunk.token_end);
    }
}

std::optional<kv_transfer::HandoffKey> PrefillPart::handoff_of(const Sequence& sequence) const {
    const auto at = handoffs_.find(sequence.request.key);
    if (at == handoffs_.end()) { return std::nullopt; }
    return at->second.key;
}

void PrefillPart::sampled(Sequence& sequence) {
    const RequestKey request = sequence.request.key;
    if (const auto failed = not_opened_.find(request); failed != not_opened_.end()) {
        return control_.finish(sequence, Finish::handed_over, failed->second);
    }
    const auto at = handoffs_.find(request);
    if (at == handoffs_.end()) {  // ended and released before its last token was sampled
        return control_.finish(sequence, Finish::handed_over, std::nullopt);
    }
    if (at->second.is_over) {
        control_.finish(sequence, Finish::handed_over, at->second.error);
    } else {
        at->second.give_up = control_.clock().now() + options_.handoff_timeout;
    }
}

void PrefillPart::tick() {
    const base::TimePoint now = control_.clock().now();
    for (auto& [request, handoff] : handoffs_) {
        if (handoff.is_over || now < handoff.give_up) { continue; }
        handoff.give_up = base::TimePoint::max();
        sender_.abort(handoff.key,
                      base::Error{base::ErrorCode::deadline_exceeded, "decode did not take the KV in time"});
    }
}

std::optional<base::TimePoint> PrefillPart::next_tick() const {
    std::optional<base::TimePoint> next;
    for (const auto& [request, handoff] : handoffs_) {
        if (!handoff.is_over) { next = std::min(next.value_or(handoff.give_up), handoff.give_up); }
    }
    return next;
}

void PrefillPart::closing(Sequence& sequence) {
    not_opened_.erase(sequence.request.key);
    const auto at = handoffs_.find(sequence.request.key);
    if (at == handoffs_.end() || at->second.is_over) { return; }
    sender_.abort(at->second.key, base::Error{base::ErrorCode::cancelled, "prefill ended the request"});
}

bool PrefillPart::may_preempt(const Sequence& sequence) const {
    return !handoffs_.contains(sequence.request.key);
}

void PrefillPart::on_event(kv_transfer::SenderEvent event) {
    using Kind = kv_transfer::SenderEvent::Kind;
    if (event.kind == Kind::granted || event.kind == Kind::later) { return; }  // may come any number of times
    const auto key = event.key;
    if (!control_.post([this, event = std::move(event)] { apply(event); })) {
        spdlog::debug("event of hand-off {} came after the end", kv_transfer::to_string(key));
    }
}

void PrefillPart::apply(const kv_transfer::SenderEvent& event) {
    using Kind = kv_transfer::SenderEvent::Kind;
    const RequestKey request{event.key.request, event.key.epoch};
    const auto at = handoffs_.find(request);
    if (at == handoffs_.end() || at->second.key != event.key) { return; }
    switch (event.kind) {
        case Kind::fetch_requested:
        case Kind::granted:
        case Kind::later:
            return;
        case Kind::completed:
            break;
        case Kind::failed:
            at->second.error = event.error;
            if (event.error && event.error->code != base::ErrorCode::cancelled) {
                base::warn_limited("hand-off failed", "hand-off {} failed, decode computes its KV: {}",
                                   kv_transfer::to_string(event.key), event.error->message);
            }
            break;
        case Kind::released:
            handoffs_.erase(at);
            return;
    }
    at->second.is_over = true;
    Sequence* sequence = control_.find(request);
    if (sequence != nullptr && sequence->state == worker::SequenceState::handing_over) {
        control_.finish(*sequence, Finish::handed_over, at->second.error);
    }
}

}  // namespace prefill_worker
