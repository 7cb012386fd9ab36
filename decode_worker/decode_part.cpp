#include "decode_worker/decode_part.h"

#include <algorithm>
#include <chrono>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/log.h"
#include "base/log_limit.h"
#include "kv_transfer/rate/both_ends.h"
#include "kv_transfer/rate/front.h"
#include "kv_transfer/transfer_metrics.h"

namespace decode_worker {

using base::ErrorCode;
using worker::RequestKey;
using worker::Sequence;
using worker::SequenceState;

namespace {

constexpr std::array<const char*, 6> kLossNames = {"timeout",   "peer_lost",     "checksum_mismatch",
                                                   "cancelled", "wrong_request", "not_asked"};
constexpr std::chrono::hours kHandoffMax{
    1};  // far beyond any prompt: the lease and the timers here end a hand-off earlier

double seconds_of(base::Duration duration) {
    return std::chrono::duration<double>(duration).count();
}

}  // namespace

DecodePart::DecodePart(const worker::WorkerOptions& options, base::Incarnation incarnation,
                       worker::StepControl& control, KvReceiverPort& receiver, base::Metrics& metrics)
    : options_(options),
      incarnation_(incarnation),
      control_(control),
      receiver_(receiver),
      front_tokens_(metrics.counter("sluice_kv_front_tokens_total",
                                    "Prompt tokens that a decode worker computed itself while the KV of those behind "
                                    "them came over a slow wire")) {
    for (std::size_t loss = 0; loss < kLosses; ++loss) {
        recomputes_[loss] = &metrics.counter("sluice_kv_fallbacks_total", "Hand-offs whose KV was computed again",
                                             {{"action", "recompute"}, {"cause", kLossNames[loss]}});
    }
}

kv_transfer::HandoffKey DecodePart::key_of(const Sequence& sequence) const {
    const RequestKey& request = sequence.request.key;
    return {request.request, request.epoch, sequence.request.peer.incarnation, incarnation_};
}

void DecodePart::started(Sequence& sequence) {
    Incoming incoming;
    incoming.key = key_of(sequence);
    incoming.kv_tokens = static_cast<std::uint32_t>(sequence.tokens.size());
    auto& placed = incoming_.insert_or_assign(sequence.request.key, std::move(incoming)).first->second;

    const auto early =
        std::find_if(pending_.begin(), pending_.end(), [&](const PendingRoom& p) { return p.key == placed.key; });
    if (early == pending_.end()) { return; }
    const PendingRoom room = *early;
    pending_.erase(early);
    kv_transfer::ReceiverEvent event;
    event.kind = kv_transfer::ReceiverEvent::Kind::room_requested;
    event.key = room.key;
    event.kv_tokens = room.kv_tokens;
    event.sending = room.expected.sending;
    event.computing = room.expected.computing;
    event.computing_whole = room.expected.computing_whole;
    event.moves = room.moves;
    room_requested(event);
}

void DecodePart::continued(Sequence& sequence) {
    // From now on KV is overdue. Until here a long prompt may compute: the lease tells whether prefill lives. Who has
    // not even asked for room by the time of its first token (it asks before it computes) hardly will.
    const auto at = incoming_.find(sequence.request.key);
    if (at != incoming_.end()) {
        const bool has_asked = at->second.state != KvState::expected;
        at->second.give_up = control_.clock().now() + (has_asked ? options_.kv_wait : options_.room_pending);
        at->second.is_continued = true;
        await_only_kv(at->second, sequence);
    }
    proceed(sequence.request.key);
}

void DecodePart::closing(Sequence& sequence) {
    const auto at = incoming_.find(sequence.request.key);
    if (at == incoming_.end()) { return; }
    Incoming& incoming = at->second;
    if (incoming.was_requested && !incoming.is_released) {
        if (incoming.state != KvState::complete && incoming.state != KvState::missing) {
            receiver_.abort(incoming.key, base::Error{ErrorCode::cancelled, "decode ended the request"});
        }
        stranded_.emplace_back(incoming.key, std::move(incoming.hold));
    }
    if (incoming.lacked_since) { --lack_only_kv_; }
    incoming_.erase(at);
}

void DecodePart::await_only_kv(Incoming& incoming, Sequence& sequence) {
    const bool has_room = incoming.state == KvState::granted || incoming.state == KvState::complete;
    if (!incoming.is_continued || !has_room || incoming.lacked_since) { return; }
    incoming.lacked_since = control_.clock().now();
    incoming.others = lack_only_kv_++;
    sequence.lacks_kv_only = true;
}

void DecodePart::on_event(kv_transfer::ReceiverEvent event) {
    const auto key = event.key;
    if (!control_.post([this, event = std::move(event)] { apply(event); })) {
        spdlog::debug("event of hand-off {} came after the end", kv_transfer::to_string(key));
    }
}

void DecodePart::apply(const kv_transfer::ReceiverEvent& event) {
    using Kind = kv_transfer::ReceiverEvent::Kind;
    if (event.kind == Kind::room_requested) { return room_requested(event); }
    const RequestKey request{event.key.request, event.key.epoch};
    const auto at = incoming_.find(request);
    if (at == incoming_.end() || at->second.key != event.key) {
        if (event.kind == Kind::released) {
            std::erase_if(stranded_, [&](const auto& entry) { return entry.first == event.key; });
            std::erase_if(pending_, [&](const PendingRoom& room) { return room.key == event.key; });
        }
        return;
    }
    Incoming& incoming = at->second;
    switch (event.kind) {
        case Kind::room_requested:
            return;
        case Kind::front:
            if (Sequence* sequence = control_.find(request);
                sequence != nullptr && incoming.state == KvState::granted) {
                take_front(incoming, *sequence, event.front_begin, event.front_end);
            }
            return;
        case Kind::completed:
            if (incoming.state == KvState::granted) { incoming.state = KvState::complete; }
            incoming.is_lossy = event.is_lossy;
            incoming.codec = event.mode.label();
            break;
        case Kind::failed:
            log_failed(event);
            incoming.state = KvState::missing;
            incoming.loss = loss_of(event.error);
            if (Sequence* sequence = control_.find(request)) { sequence->room.reset(); }
            break;
        case Kind::released:
            incoming.is_released = true;
            incoming.hold.release();
            break;
    }
    proceed(request);
}

DecodePart::Loss DecodePart::loss_of(const std::optional<base::Error>& error) {
    static_assert(kLossNames.size() == kLosses);
    switch (kv_transfer::outcome_of(error ? error->code : ErrorCode::unavailable)) {
        case kv_transfer::Outcome::timeout:
            return Loss::timeout;
        case kv_transfer::Outcome::peer_lost:
            return Loss::peer_lost;
        case kv_transfer::Outcome::checksum_mismatch:
            return Loss::checksum_mismatch;
        case kv_transfer::Outcome::cancelled:
            return Loss::cancelled;
        default:
            return Loss::wrong_request;
    }
}

void DecodePart::log_failed(const kv_transfer::ReceiverEvent& event) const {
    const std::string why = event.error ? event.error->message : "";
    const bool is_cancelled = event.error && event.error->code == ErrorCode::cancelled;
    if (is_cancelled || control_.find({event.key.request, event.key.epoch}) == nullptr) {
        // Nobody wants the KV any more, and nothing is computed.
        spdlog::debug("hand-off {} ended with its request: {}", kv_transfer::to_string(event.key), why);
        return;
    }
    base::log_limited(spdlog::level::info, "hand-off failed", "hand-off {} failed, its KV is computed here: {}",
                      kv_transfer::to_string(event.key), why);
}

void DecodePart::room_requested(const kv_transfer::ReceiverEvent& event) {
    const Expected expected{event.sending, event.computing, event.computing_whole};
    const RequestKey request{event.key.request, event.key.epoch};
    const auto at = incoming_.find(request);
    if (at == incoming_.end() || at->second.key != event.key) {
        if (pending_.size() >= options_.queue_requests_max) {
            receiver_.refuse(event.key, base::Error{ErrorCode::resource_exhausted, "too many early requests for room"});
            return;
        }
        pending_.push_back(
            {event.key, event.kv_tokens, control_.clock().now() + options_.room_pending, expected, event.moves});
        return;
    }
    Incoming& incoming = at->second;
    incoming.was_requested = true;
    if (incoming.state == KvState::missing) {
        receiver_.refuse(event.key, base::Error{ErrorCode::deadline_exceeded, "the KV came too late"});
        return;
    }
    if (event.kv_tokens != incoming.kv_tokens) {
        receiver_.refuse(event.key, base::Error{ErrorCode::failed_precondition,
                                                "prefill has KV of " + std::to_string(event.kv_tokens) +
                                                    " tokens, decode expects " + std::to_string(incoming.kv_tokens)});
        return;
    }
    Sequence* sequence = control_.find(request);
    CHECK(sequence != nullptr);
    if (incoming.give_up != base::TimePoint::max()) { incoming.give_up = control_.clock().now() + options_.kv_wait; }
    if (incoming.state != KvState::expected) { return; }  // asked already
    incoming.state = KvState::asked;
    incoming.expected = expected;
    incoming.moves = event.moves;
    control_.want_room(*sequence, incoming.kv_tokens);
}

void DecodePart::room_delayed(Sequence& sequence) {
    Incoming& incoming = incoming_.at(sequence.request.key);
    if (!std::exchange(incoming.was_delayed, true)) { receiver_.later(incoming.key); }
}

void DecodePart::room_granted(Sequence& sequence) {
    Incoming& incoming = incoming_.at(sequence.request.key);
    kv_cache::KvCache& cache = control_.cache();
    incoming.have_tokens = sequence.computed_tokens;
    incoming.state = KvState::granted;
    await_only_kv(incoming, sequence);
    incoming.allow_lossy =
        sequence.request.kv_mode.lossy() || (sequence.request.allow_lossy_kv && options_.kv_lossy_allowed);
    const std::uint32_t front = front_tokens(incoming, sequence);
    const std::uint32_t begin = incoming.have_tokens + front;
    const std::uint32_t first = begin / cache.options().block_tokens;
    const std::uint32_t blocks = cache.blocks_for(incoming.kv_tokens);
    incoming.hold = cache.hold(*sequence.kv, first, blocks - first);
    receiver_.grant({.key = incoming.key,
                     .kv_tokens = incoming.kv_tokens,
                     .have_tokens = begin,
                     .blocks = sequence.kv->blocks().first(blocks),
                     .lease = options_.kv_lease,
                     .deadline = std::min(incoming.give_up, control_.clock().now() + kHandoffMax),
                     .allow_lossy = incoming.allow_lossy,
                     .from_end = incoming.moves && front > 0});
    if (front == 0) { return offer_front(incoming, sequence); }
    take_front(incoming, sequence, incoming.have_tokens, begin);
}

/// Steps compute tokens [begin, end); all before them are there.
void DecodePart::take_front(Incoming& incoming, Sequence& sequence, std::uint32_t begin, std::uint32_t end) {
    CHECK(sequence.step_tokens == 0 && sequence.computed_tokens <= begin && begin < end,
          "tokens " << begin << " to " << end << ", computed are " << sequence.computed_tokens);
    sequence.computed_tokens = begin;
    incoming.front_tokens += end - begin;
    incoming.piece_tokens = end - begin;
    incoming.piece_at = control_.clock().now();
    front_tokens_.Increment(end - begin);
    control_.load_from_end(sequence, {.until = end, .begin = end, .end = incoming.kv_tokens});
}

void DecodePart::offer_front(const Incoming& incoming, const Sequence& sequence) {
    if (!options_.kv_both_ends || !incoming.moves || incoming.allow_lossy) { return; }
    const std::uint32_t tokens = std::min(kv_transfer::kFrontBlocksMax * control_.cache().options().block_tokens,
                                          incoming.kv_tokens - sequence.computed_tokens);
    if (tokens == 0) { return; }
    double seconds = 0;  // that they would take
    if (const auto own = control_.predict_prefill(sequence.computed_tokens, tokens)) {
        seconds = seconds_of(*own);
    } else {
        seconds = seconds_of(incoming.expected.computing_whole) * tokens / incoming.kv_tokens;
    }
    if (incoming.piece_tokens > 0) {  // beside other streams it took so long
        const double took = seconds_of(control_.clock().now() - incoming.piece_at);
        seconds = std::max(seconds, took * tokens / incoming.piece_tokens);
    }
    if (seconds <= 0) { return; }
    receiver_.offer_front({.key = incoming.key, .tokens_per_s = tokens / seconds, .due = kv_due(sequence)});
}

/// When the second token is: the first one does not wait for KV.
std::optional<base::TimePoint> DecodePart::kv_due(const Sequence& sequence) {
    const worker::SloTargets& slo = sequence.request.slo;
    if (!slo.first_token) { return std::nullopt; }
    return *slo.first_token + slo.tpot;
}

/// Tokens behind the prefix hit, in whole blocks, that are computed here before the rest of the KV has come: none where
/// it is in time, where prefill computes for as long, or where not much would be gained. Where more can be taken later:
/// a piece of them.
std::uint32_t DecodePart::front_tokens(const Incoming& incoming, const Sequence& sequence) const {
    if (!options_.kv_both_ends) { return 0; }
    const std::uint32_t block_tokens = control_.cache().options().block_tokens;
    const std::uint32_t first = incoming.have_tokens / block_tokens;
    const std::uint32_t end = (incoming.kv_tokens - 1) / block_tokens;
    const Expected& expected = incoming.expected;
    const bool is_own = control_.predict_prefill(0, incoming.kv_tokens).has_value();
    const bool is_known = is_own || expected.computing_whole > base::Duration::zero();
    if (expected.sending <= base::Duration::zero() || !is_known || first >= end) { return 0; }
    const double there = seconds_of(expected.computing);
    const auto share = [&](base::Duration whole, std::uint32_t from, std::uint32_t to) {
        return seconds_of(whole) * block_tokens * (to - from) / incoming.kv_tokens;
    };
    const auto sending = [&](std::uint32_t from, std::uint32_t to) { return share(expected.sending, from, to); };
    // Who only decoded knows nothing of prompts: it is taken for as quick as prefill then, which teaches it.
    const auto computing = [&](std::uint32_t from, std::uint32_t to) {
        const auto own = control_.predict_prefill(from * block_tokens, (to - from) * block_tokens);
        return std::max(there, own ? seconds_of(*own) : share(expected.computing_whole, from, to));
    };
    const auto meeting = kv_transfer::meeting_of(first, end, computing, sending);
    const double alone = std::max(there, sending(first, end));
    std::optional<double> left;
    if (const auto due = kv_due(sequence)) { left = seconds_of(*due - control_.clock().now()); }
    const kv_transfer::KvWaySeconds seconds{.load = alone, .compute = alone, .both = meeting.seconds};
    if (kv_transfer::choose_kv_way(seconds, left) != kv_transfer::KvWay::both) { return 0; }
    const std::uint32_t blocks = meeting.block - first;
    return (incoming.moves && !incoming.allow_lossy ? kv_transfer::front_piece(blocks) : blocks) * block_tokens;
}

void DecodePart::front_computed(Sequence& sequence) {
    const auto at = incoming_.find(sequence.request.key);
    if (at != incoming_.end() && at->second.state == KvState::granted) { offer_front(at->second, sequence); }
    proceed(sequence.request.key);
}

bool DecodePart::may_give_up(const Incoming& incoming) {
    // Computing again needs the memory that is lacking, so who has no room waits as long as prefill keeps the KV.
    return incoming.state == KvState::expected || incoming.state == KvState::granted;
}

void DecodePart::give_up(Incoming& incoming, const char* why) {
    base::warn_limited("hand-off given up", "hand-off {}: {}, its KV is computed here",
                       kv_transfer::to_string(incoming.key), why);
    if (incoming.was_requested) {
        receiver_.abort(incoming.key, base::Error{ErrorCode::deadline_exceeded, why});  // failed and released follow
        incoming.give_up = base::TimePoint::max();
    } else {
        incoming.state = KvState::missing;
        incoming.is_released = true;
    }
}

void DecodePart::proceed(RequestKey request) {
    const auto at = incoming_.find(request);
    Sequence* sequence = control_.find(request);
    if (at == incoming_.end() || sequence == nullptr) { return; }
    Incoming& incoming = at->second;
    const bool is_over = incoming.state == KvState::complete || incoming.state == KvState::missing;
    const bool may_go_on = sequence->tokens.size() > incoming.kv_tokens;
    if (!is_over || !incoming.is_released || !may_go_on) { return; }

    const bool is_complete = incoming.state == KvState::complete;
    if (sequence->from_end) {
        const bool computes = sequence->step_tokens > 0 || sequence->computed_tokens < sequence->from_end->until;
        if (is_complete && computes) { return; }  // front_computed() comes
        sequence->from_end.reset();
    }
    const bool is_lossy = is_complete && incoming.is_lossy;
    sequence->kv_path = is_complete ? "pushed" : "recomputed";
    if (is_complete) { sequence->kv_codec = std::move(incoming.codec); }
    if (is_complete) { sequence->computed_tokens = incoming.kv_tokens; }
    sequence->cached_tokens = is_complete ? incoming.kv_tokens - incoming.front_tokens : incoming.have_tokens;
    const bool has_memory = sequence->kv.has_value();
    const Loss loss = incoming.loss;
    if (incoming.lacked_since) {
        --lack_only_kv_;
        sequence->lacks_kv_only = false;
        if (is_complete && incoming.kv_tokens > incoming.have_tokens) {
            control_.add_transfer_sample({.tokens = incoming.kv_tokens - incoming.have_tokens,
                                          .waited = control_.clock().now() - *incoming.lacked_since,
                                          .others = incoming.others});
        }
    }
    incoming_.erase(at);
    if (!is_complete) {
        recomputes_[static_cast<std::size_t>(loss)]->Increment();
        sequence->trace.wait_for(worker::SequenceTrace::Wait::recomputed, control_.clock().now());
    }
    if (!has_memory) { return control_.make_waiting(*sequence); }
    if (is_lossy) { sequence->kv->keep_private(); }
    control_.publish(*sequence);
    control_.make_running(*sequence);
}

void DecodePart::tick() {
    const base::TimePoint now = control_.clock().now();
    while (!pending_.empty() && now >= pending_.front().give_up) {
        receiver_.refuse(pending_.front().key, base::Error{ErrorCode::not_found, "no such request here"});
        pending_.pop_front();
    }
    std::vector<RequestKey> late;
    for (auto& [request, incoming] : incoming_) {
        if (may_give_up(incoming) && now >= incoming.give_up) { late.push_back(request); }
    }
    for (const RequestKey& request : late) {
        give_up(incoming_.at(request), "the KV did not come in time");
        proceed(request);
    }
}

std::optional<base::TimePoint> DecodePart::next_tick() const {
    std::optional<base::TimePoint> next;
    const auto consider = [&next](base::TimePoint at) { next = next ? std::min(*next, at) : at; };
    if (!pending_.empty()) { consider(pending_.front().give_up); }
    for (const auto& [request, incoming] : incoming_) {
        if (may_give_up(incoming)) { consider(incoming.give_up); }
    }
    return next;
}

}  // namespace decode_worker
