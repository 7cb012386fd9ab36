#include <algorithm>
#include <limits>
#include <utility>

#include "base/check.h"
#include "base/crc32c.h"
#include "kv_transfer/receiver_state.h"

namespace kv_transfer {

using base::ErrorCode;
using base::Result;

std::optional<base::TimePoint> KvReceiver::State::next_due() const {
    std::optional<base::TimePoint> due;
    for (const auto& [key, handoff] : handoffs) {
        base::TimePoint at = std::min(handoff.deadline, silent_until(handoff));
        if (handoff.front.offer) { at = std::min(at, handoff.front.look_at); }
        if (handoff.phase == Handoff::Phase::fetching) { at = std::min(at, handoff.ask_again_at); }
        due = std::min(due.value_or(at), at);
    }
    return due;
}

/// How long the other worker may say nothing.
base::TimePoint KvReceiver::State::silent_until(const Handoff& handoff) const {
    switch (handoff.phase) {
        case Handoff::Phase::fetching:
            return handoff.heard_at + handoff.answer_timeout;
        case Handoff::Phase::granted:
            return handoff.heard_at + handoff.lease;
        default:
            return handoff.heard_at + options.peer_timeout;
    }
}

void KvReceiver::State::fail_all(const base::Error& error) {
    while (!handoffs.empty()) {
        fail(handoffs.begin(), error, true);
    }
}

void KvReceiver::State::apply(Asked& command) {
    const base::TimePoint now = clock.now();
    if (const auto known = handoffs.find(command.key); known != handoffs.end()) {
        // Repeated: a sign of life, and perhaps our answer was lost.
        Handoff& handoff = known->second;
        if (handoff.phase == Handoff::Phase::fetching) { return take_answer(known, command); }
        handoff.peer = command.from;
        handoff.heard_at = now;
        if (handoff.phase == Handoff::Phase::granted) {
            reply_granted(command.key, handoff);
        } else {
            reply_later(command.from, command.key);
        }
        return;
    }
    if (refuse_by_history(command)) { return; }
    if (command.kv_tokens == 0 || command.deadline <= now) {
        metrics.count(command.kv_tokens == 0 ? Outcome::wrong_request : Outcome::timeout);
        reply_refused(command.from, command.key,
                      command.kv_tokens == 0
                          ? base::Error{ErrorCode::invalid_argument, "no tokens"}
                          : base::Error{ErrorCode::deadline_exceeded, "asked for room after the deadline"});
        return;
    }
    if (slots.used() >= options.handoffs_max) {
        reply_later(command.from, command.key);
        return;
    }
    Handoff& handoff = handoffs[command.key];
    handoff.peer = command.from;
    handoff.kv_tokens = command.kv_tokens;
    handoff.deadline = command.deadline;
    handoff.heard_at = now;
    handoff.proposed = std::move(command.kv_mode);
    handoff.proposed_modes = std::move(command.kv_modes);
    handoff.slot = slots.take();
    handoff.front.moves = command.moves;
    handoff.front.ready_at = now + command.computing;
    if (command.sending > base::Duration::zero()) {
        const auto bytes = static_cast<double>(layout.wire_bytes({0, 1, 0, 1})) * layout.layers() * command.kv_tokens;
        handoff.front.kv_rate = bytes / std::chrono::duration<double>(command.sending).count();
        handoff.front.kv_rate_low = handoff.front.kv_rate;
    }
    handoffs_open = handoffs.size();
    events({.kind = ReceiverEvent::Kind::room_requested,
            .key = command.key,
            .kv_tokens = command.kv_tokens,
            .moves = command.moves,
            .deadline = command.deadline,
            .sending = command.sending,
            .computing = command.computing,
            .computing_whole = command.computing_whole});
}

/// Answers what asks for a hand-off that has ended, or for an attempt that a newer one has replaced. A newer attempt
/// ends the older one.
bool KvReceiver::State::refuse_by_history(const Asked& asked) {
    if (const auto past = ended.find(asked.key); past != ended.end()) {
        if (past->second) {
            reply_refused(asked.from, asked.key, *past->second);
        } else {
            acknowledge(asked.from, asked.key, 0, std::nullopt, true);
        }
        return true;
    }
    if (asked.key.is_fetch()) {
        reply_refused(asked.from, asked.key, {ErrorCode::not_found, "this worker does not fetch that"});
        return true;
    }
    const HandoffKey first_of_request{asked.key.request, {}, {}, {}};
    for (auto past = ended.lower_bound(first_of_request);
         past != ended.end() && past->first.request == asked.key.request; ++past) {
        if (!past->first.is_fetch() && past->first.epoch > asked.key.epoch) {
            metrics.count(Outcome::stale_epoch);
            reply_refused(asked.from, asked.key, {ErrorCode::failed_precondition, "a newer attempt has ended here"});
            return true;
        }
    }
    for (auto live = handoffs.lower_bound(first_of_request);
         live != handoffs.end() && live->first.request == asked.key.request;) {
        const auto next = std::next(live);
        if (live->first.is_fetch()) {  // ends by its own part's wish
            live = next;
            continue;
        }
        if (live->first.epoch >= asked.key.epoch) {
            const bool is_older = live->first.epoch > asked.key.epoch;
            metrics.count(is_older ? Outcome::stale_epoch : Outcome::wrong_request);
            reply_refused(asked.from, asked.key,
                          {ErrorCode::failed_precondition,
                           is_older ? "a newer attempt is under way" : "this attempt is another worker's"});
            return true;
        }
        fail(live, {ErrorCode::aborted, "replaced by attempt " + std::to_string(base::raw(asked.key.epoch))}, true);
        live = next;
    }
    return false;
}

void KvReceiver::State::apply(Grant& command) {
    const auto found = handoffs.find(command.key);
    if (found == handoffs.end()) { return; }
    Handoff& handoff = found->second;
    CHECK(handoff.phase != Handoff::Phase::granted, "hand-off " << to_string(command.key) << " is granted twice");
    if (command.kv_tokens != handoff.kv_tokens) {
        fail(found,
             {ErrorCode::failed_precondition, "prefill has " + std::to_string(handoff.kv_tokens) +
                                                  " tokens of KV, decode expects " + std::to_string(command.kv_tokens)},
             true);
        return;
    }
    const base::TimePoint now = clock.now();
    agree(handoff, handoff.proposed, handoff.proposed_modes, command.allow_lossy);
    handoff.have_tokens = command.have_tokens;
    handoff.front.is_taken = command.from_end;
    handoff.blocks = std::move(command.blocks);
    handoff.lease = command.lease;
    handoff.deadline = std::min(handoff.deadline, command.deadline);
    begin_receiving(found, now);
    if (handoff.received.is_complete()) {
        acknowledge(handoff.peer, command.key, 0, std::nullopt, true);
        complete(found);
    }
}

/// From now on frames of its [have_tokens, kv_tokens) may land in its blocks, in its mode.
void KvReceiver::State::begin_receiving(Handoffs::iterator found, base::TimePoint now) {
    Handoff& handoff = found->second;
    handoff.phase = Handoff::Phase::granted;
    handoff.granted_at = now;
    handoff.heard_at = now;
    handoff.received = Coverage(layout.layers(), handoff.have_tokens, handoff.kv_tokens);
    handoff.front.end = handoff.have_tokens;
    {
        const std::scoped_lock lock(mutex);
        if (!is_stopped) { expected[found->first] = {handoff.have_tokens, handoff.kv_tokens, handoff.modes}; }
    }
    reply_granted(found->first, handoff);
}

/// What prefill proposes where we have it and may take it; besides it raw.
void KvReceiver::State::agree(Handoff& handoff, const proto::KvMode& proposed, std::span<const proto::KvMode> modes,
                              bool allow_lossy) const {
    const auto take = [&](const proto::KvMode& wanted) {
        const auto mode = options.codecs.find(wanted);
        if (!mode || mode->is_raw() || (mode->is_lossy() && !allow_lossy)) { return false; }
        if (std::find(handoff.modes.begin(), handoff.modes.end(), *mode) == handoff.modes.end()) {
            handoff.modes.push_back(*mode);
        }
        return true;
    };
    handoff.modes.clear();
    handoff.has_first = take(proposed);
    for (const proto::KvMode& mode : modes) {
        take(mode);
    }
}

void KvReceiver::State::apply(Later& command) {
    const auto found = handoffs.find(command.key);
    if (found == handoffs.end() || found->second.phase == Handoff::Phase::granted) { return; }
    CHECK(!command.key.is_fetch(), "hand-off " << to_string(command.key));
    found->second.phase = Handoff::Phase::later;
    reply_later(found->second.peer, command.key);
}

void KvReceiver::State::apply(End& command) {
    const auto found = handoffs.find(command.key);
    if (found == handoffs.end()) { return; }
    fail(found, std::move(command.error), !command.from_prefill);
}

void KvReceiver::State::apply(Landed& command) {
    const auto found = handoffs.find(command.info.key);
    if (found == handoffs.end() || found->second.phase != Handoff::Phase::granted) {
        answer_unknown(command.from, command.info.key, command.info.number);
        return;
    }
    Handoff& handoff = found->second;
    handoff.heard_at = clock.now();
    base::Duration decoded_in{};
    kv_cache::KvRange range = command.info.range;  // but for what is computed here
    range.token_begin = std::min(std::max(range.token_begin, handoff.front.end), range.token_end);
    if (!handoff.received.covers(range)) {
        if (auto unpacked = unpack(handoff, command, range, decoded_in); !unpacked) {
            if (unpacked.error().code != ErrorCode::data_loss) {  // not the frame's fault, no other will fare better
                fail(found, unpacked.error(), true);
                return;
            }
            metrics.count(Outcome::checksum_mismatch);
            acknowledge(command.from, command.info.key, command.info.number, unpacked.error(), false);
            return;
        }
        handoff.received.add(range);
        handoff.payload_bytes += command.info.payload_bytes;
        handoff.mode = lossier(handoff.mode, command.info.mode);
        metrics.add_bytes(command.info.mode, command.info.payload_bytes, command.info.raw_bytes);
    }
    if (command.info.kv_rate > 0) {
        handoff.front.kv_rate = static_cast<double>(command.info.kv_rate);
        handoff.front.kv_rate_low = static_cast<double>(command.info.kv_rate_low);
    }
    handoff.front.more = command.info.more;
    handoff.front.landed_at = handoff.heard_at;
    handoff.front.landed_bytes = command.info.raw_bytes;
    const bool is_complete = handoff.received.is_complete();
    // Where nothing is coded nobody asks.
    const base::Duration landed_ago = handoff.modes.empty() ? base::Duration{} : clock.now() - command.at;
    acknowledge(command.from, command.info.key, command.info.number, std::nullopt, is_complete, landed_ago, decoded_in);
    if (is_complete) { return complete(found); }
    look_at_front(found, handoff.heard_at);
}

/// Of a frame its tokens of `range`: all of them, or the last ones.
Result<void> KvReceiver::State::unpack(Handoff& handoff, const Landed& landed, const kv_cache::KvRange& range,
                                       base::Duration& decoded_in) {
    const std::span<std::byte> payload = landed.buffer->first(landed.info.payload_bytes);
    if (base::crc32c(payload) != landed.info.payload_crc32c) {
        return base::fail(ErrorCode::data_loss, "checksum of frame " + std::to_string(landed.info.number));
    }
    if (!access) { return base::fail(ErrorCode::internal, access.error().message); }
    const KvMode& mode = landed.info.mode;
    if (mode.is_raw()) {
        return access->unpack(handoff.blocks, range,
                              last_tokens(layout, landed.info.range, range.token_begin, payload));
    }
    const std::span<std::byte> raw = workspace->first(landed.info.raw_bytes);
    const base::TimePoint begin = clock.now();
    if (auto decoded = mode.codec->decode(layout, landed.info.range, mode.level, payload, raw); !decoded) {
        return base::fail(ErrorCode::data_loss, decoded.error().message);
    }
    decoded_in = clock.now() - begin;
    return access->unpack(handoff.blocks, range, last_tokens(layout, landed.info.range, range.token_begin, raw));
}

void KvReceiver::State::apply(Refused& command) {
    if (command.error) {
        acknowledge(command.from, command.key, command.number, command.error, false);
    } else {
        answer_unknown(command.from, command.key, command.number);
    }
}

/// A frame of a hand-off that is not granted (any more): says how it ended.
void KvReceiver::State::answer_unknown(net::PeerId from, const HandoffKey& key, std::uint32_t number) {
    const auto past = ended.find(key);
    if (past != ended.end() && !past->second) {
        acknowledge(from, key, number, std::nullopt, true);  // a late copy
        return;
    }
    metrics.count(Outcome::wrong_request);
    base::Error error{ErrorCode::not_found, "hand-off " + to_string(key) + " is not granted"};
    // These two codes would ask for the frame again.
    if (past != ended.end() && past->second->code != ErrorCode::data_loss &&
        past->second->code != ErrorCode::resource_exhausted) {
        error = *past->second;
    }
    acknowledge(from, key, number, error, false);
}

void KvReceiver::State::apply(PeerLost& command) {
    for (auto handoff = handoffs.begin(); handoff != handoffs.end();) {
        const auto next = std::next(handoff);
        if (handoff->second.peer == command.peer) {
            fail(handoff, {ErrorCode::unavailable, "the worker that has the KV is lost: " + command.why.message},
                 false);
        }
        handoff = next;
    }
}

bool KvReceiver::State::proceed(base::TimePoint now) {
    bool did = false;
    for (auto handoff = handoffs.begin(); handoff != handoffs.end();) {
        const auto next = std::next(handoff);
        if (now >= handoff->second.deadline) {
            fail(handoff, {ErrorCode::deadline_exceeded, "KV hand-off passed its deadline"}, true);
            did = true;
        } else if (now >= silent_until(handoff->second)) {
            const bool is_granted = handoff->second.phase == Handoff::Phase::granted;
            if (is_granted) { metrics.count_expired_lease(); }
            fail(handoff,
                 is_granted
                     ? base::Error{ErrorCode::deadline_exceeded, "lease ended: nothing heard from the prefill worker"}
                     : base::Error{ErrorCode::unavailable, "nothing heard from the prefill worker"},
                 true);
            did = true;
        } else if (handoff->second.phase == Handoff::Phase::fetching && now >= handoff->second.ask_again_at) {
            ask_for_blocks(handoff->first, handoff->second, now);
            did = true;
        } else if (handoff->second.front.offer && now >= handoff->second.front.look_at) {
            did = look_at_front(handoff, now) || did;
        }
        handoff = next;
    }
    return did;
}

void KvReceiver::State::complete(Handoffs::iterator handoff) {
    metrics.count(Outcome::ok);
    events({.kind = ReceiverEvent::Kind::completed,
            .key = handoff->first,
            .kv_tokens = handoff->second.kv_tokens,
            .payload_bytes = handoff->second.payload_bytes,
            .duration = clock.now() - handoff->second.granted_at,
            .is_lossy = handoff->second.mode.is_lossy(),
            .mode = handoff->second.mode});
    end(handoff, std::nullopt);
}

void KvReceiver::State::fail(Handoffs::iterator handoff, base::Error error, bool tell_prefill) {
    if (tell_prefill) {
        sluice::proto::KvAbort abort;
        set_header(*abort.mutable_header(), identity);
        set_key(*abort.mutable_handoff(), handoff->first, identity);
        proto::set_error(*abort.mutable_error(), error, kErrorBytesMax);
        post(handoff->second.peer, kAbortToPrefill, abort);
    }
    // A fetch that got no KV was no transfer.
    if (handoff->second.phase != Handoff::Phase::fetching) { metrics.count(outcome_of(error.code)); }
    events({.kind = ReceiverEvent::Kind::failed, .key = handoff->first, .error = error});
    end(handoff, std::move(error));
}

/// Blocks are written by unpack() on this thread alone, so an ended hand-off is a released one.
void KvReceiver::State::end(Handoffs::iterator handoff, std::optional<base::Error> error) {
    const HandoffKey key = handoff->first;
    Slots::Slot slot = std::move(handoff->second.slot);
    handoffs.erase(handoff);
    {
        const std::scoped_lock lock(mutex);
        expected.erase(key);
    }
    if (ended.emplace(key, std::move(error)).second) { ended_order.push_back(key); }
    if (ended_order.size() > options.ended_max) {
        ended.erase(ended_order.front());
        ended_order.pop_front();
    }
    events({.kind = ReceiverEvent::Kind::released, .key = key, .slot = std::move(slot)});
    handoffs_open = handoffs.size();  // last: who sees none open has been told of all
}

void KvReceiver::State::post(net::PeerId peer, net::MessageKind kind, const google::protobuf::MessageLite& message) {
    // Whether it can be sent does not matter here: prefill asks again, or a timer does the work.
    static_cast<void>(transport.send(peer, {kind, seal(kind, message), {}}, clock.now() + options.send_timeout,
                                     [](const Result<void>&) {}));
}

void KvReceiver::State::reply_granted(const HandoffKey& key, const Handoff& handoff) {
    sluice::proto::RoomReply reply;
    set_header(*reply.mutable_header(), identity);
    set_key(*reply.mutable_handoff(), key, identity);
    reply.set_answer(sluice::proto::RoomReply::ANSWER_GRANTED);
    reply.set_have_tokens(handoff.front.end);
    reply.set_from_end(handoff.front.is_taken);
    set_mode(*reply.mutable_kv_mode(), handoff.has_first ? handoff.modes.front() : KvMode{});
    for (const KvMode& mode : handoff.modes) {
        if (!handoff.proposed_modes.empty()) { set_mode(*reply.add_kv_modes(), mode); }
    }
    post(handoff.peer, kRoomReply, reply);
}

void KvReceiver::State::reply_later(net::PeerId peer, const HandoffKey& key) {
    sluice::proto::RoomReply reply;
    set_header(*reply.mutable_header(), identity);
    set_key(*reply.mutable_handoff(), key, identity);
    reply.set_answer(sluice::proto::RoomReply::ANSWER_LATER);
    post(peer, kRoomReply, reply);
}

void KvReceiver::State::reply_refused(net::PeerId peer, const HandoffKey& key, const base::Error& error) {
    sluice::proto::RoomReply reply;
    set_header(*reply.mutable_header(), identity);
    set_key(*reply.mutable_handoff(), key, identity);
    reply.set_answer(sluice::proto::RoomReply::ANSWER_REFUSED);
    proto::set_error(*reply.mutable_error(), error, kErrorBytesMax);
    post(peer, kRoomReply, reply);
}

void KvReceiver::State::acknowledge(net::PeerId peer, const HandoffKey& key, std::uint32_t number,
                                    const std::optional<base::Error>& error, bool complete, base::Duration landed_ago,
                                    base::Duration decoded_in) {
    sluice::proto::KvAck ack;
    set_header(*ack.mutable_header(), identity);
    set_key(*ack.mutable_handoff(), key, identity);
    ack.set_number(number);
    if (error) { proto::set_error(*ack.mutable_error(), *error, kErrorBytesMax); }
    ack.set_complete(complete);
    const auto microseconds = [](base::Duration duration) {
        const std::int64_t us = std::chrono::duration_cast<std::chrono::microseconds>(duration).count();
        return static_cast<std::uint32_t>(std::clamp<std::int64_t>(us, 0, std::numeric_limits<std::int32_t>::max()));
    };
    ack.set_landed_us(microseconds(landed_ago));
    ack.set_decoded_us(microseconds(decoded_in));
    post(peer, kAck, ack);
}

}  // namespace kv_transfer
