// What the receiver decides about the front of a hand-off: which of its tokens this worker computes itself while the
// rest comes from the end back. The contract stands in receiver.h, the decision in rate/front.h.
#include <algorithm>
#include <chrono>

#include "kv_transfer/rate/front.h"
#include "kv_transfer/receiver_state.h"

namespace kv_transfer {

namespace {

double seconds_of(base::Duration duration) {
    return std::chrono::duration<double>(duration).count();
}

}  // namespace

void KvReceiver::State::apply(Offer& command) {
    const auto found = handoffs.find(command.offer.key);
    if (found == handoffs.end() || found->second.phase != Handoff::Phase::granted || !found->second.front.moves) {
        return;
    }
    found->second.front.offer = command.offer;
    look_at_front(found, clock.now());
}

/// True when tokens were taken; the hand-off may be complete then, and gone.
bool KvReceiver::State::look_at_front(Handoffs::iterator found, base::TimePoint now) {
    Handoff& handoff = found->second;
    Front& front = handoff.front;
    if (!front.offer) { return false; }
    front.look_at = now + kFrontLook;
    const std::uint32_t block_tokens = layout.block_tokens();
    const std::uint32_t missing = handoff.received.first_missing(front.end);
    const std::uint32_t begin = missing / block_tokens * block_tokens;
    // The last block is not taken: something must come for the hand-off to end by.
    const std::uint32_t end = std::min(layout.blocks_for(handoff.received.first_whole(missing)) * block_tokens,
                                       (handoff.kv_tokens - 1) / block_tokens * block_tokens);
    if (begin >= end) { return false; }
    const auto token_bytes = static_cast<double>(layout.wire_bytes({0, 1, 0, 1})) * layout.layers();
    double rate = front.kv_rate;
    double rate_low = front.kv_rate_low;
    if (front.more && now > front.landed_at) {
        // The next frame is on the wire for so long: it is no faster than that.
        const double at_most = static_cast<double>(front.landed_bytes) / seconds_of(now - front.landed_at);
        rate = std::min(rate, at_most);
        rate_low = std::min(rate_low, at_most);
    }
    FrontQuestion question;
    question.tokens_left =
        static_cast<std::uint32_t>((handoff.received.missing() + layout.layers() - 1) / layout.layers());
    question.tokens_free = end - begin;
    question.wire = rate / token_bytes;
    question.wire_low = rate_low / token_bytes;
    question.computing = front.offer->tokens_per_s;
    question.ready_s = seconds_of(std::max(front.ready_at - now, base::Duration::zero()));
    if (front.offer->due) { question.left_s = seconds_of(*front.offer->due - now); }
    question.has_begun = front.is_taken;
    question.block_tokens = block_tokens;
    const std::uint32_t tokens = front_to_take(question);
    if (tokens == 0) { return false; }
    take_front(found, begin, begin + tokens);
    return true;
}

void KvReceiver::State::take_front(Handoffs::iterator found, std::uint32_t begin, std::uint32_t end) {
    Handoff& handoff = found->second;
    handoff.received.add({0, layout.layers(), handoff.front.end, end});
    handoff.front.end = end;
    handoff.front.is_taken = true;
    handoff.front.offer.reset();
    reply_granted(found->first, handoff);  // lost: the next request for room is answered by the same
    events({.kind = ReceiverEvent::Kind::front, .key = found->first, .front_begin = begin, .front_end = end});
    if (!handoff.received.is_complete()) { return; }
    acknowledge(handoff.peer, found->first, 0, std::nullopt, true);
    complete(found);
}

}  // namespace kv_transfer
