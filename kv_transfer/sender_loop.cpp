#include <algorithm>
#include <chrono>
#include <limits>
#include <utility>

#include "base/check.h"
#include "base/crc32c.h"
#include "kv_transfer/sender_state.h"

namespace kv_transfer {

using base::ErrorCode;
using kv_cache::KvRange;

namespace {
constexpr base::Duration kPatience = std::chrono::seconds(10);  // of hand-offs that nobody said a time for

std::uint32_t whole_us(base::Duration duration) {
    const auto us = std::chrono::duration_cast<std::chrono::microseconds>(duration).count();
    return static_cast<std::uint32_t>(std::clamp<std::int64_t>(us, 0, std::numeric_limits<std::uint32_t>::max()));
}
}  // namespace

bool KvSender::State::proceed(base::TimePoint now) {
    bool did = fail_what_others_ended();
    did = check_timers(now) || did;
    did = forget_late_fetches(now) || did;
    // One frame at a time: what others tell us meanwhile is not kept waiting.
    return send_one_frame(now) || did;
}

std::optional<base::TimePoint> KvSender::State::next_due() const {
    std::optional<base::TimePoint> due;
    const auto consider = [&due](base::TimePoint at) { due = std::min(due.value_or(at), at); };
    for (const Handoff& handoff : handoffs) {
        consider(std::min({handoff.open.deadline, handoff.ask_again_at, handoff.heard_at + options.peer_timeout}));
        for (const auto& [number, frame] : handoff.unacknowledged) {
            consider(frame.retry_at.value_or(std::max(frame.sent_at, handoff.acknowledged_at) + options.ack_timeout +
                                             time_under_way(handoff.peer)));
        }
    }
    for (const auto& [key, fetch] : asked_fetches) {
        consider(fetch.deadline);
    }
    return due;
}

void KvSender::State::fail_all(const base::Error& error) {
    while (!handoffs.empty()) {
        fail(handoffs.begin(), error, true);
    }
    for (const auto& [key, fetch] : asked_fetches) {
        tell_abort(fetch.peer, key, error);
    }
    asked_fetches.clear();
}

/// What this worker's other threads want ended, or could not be told about. What is not found yet, its Open still
/// waits.
bool KvSender::State::fail_what_others_ended() {
    std::vector<std::pair<Handoffs::iterator, base::Error>> ended;
    {
        const std::scoped_lock lock(mutex);
        for (auto at = ended_keys.begin(); at != ended_keys.end();) {
            const auto handoff = find(at->first);
            if (handoff == handoffs.end()) {
                ++at;
                continue;
            }
            ended.emplace_back(handoff, std::move(at->second));
            at = ended_keys.erase(at);
        }
    }
    for (auto& [handoff, error] : ended) {
        fail(handoff, std::move(error), true);
    }
    return !ended.empty();
}

void KvSender::State::apply(Open& command) {
    const base::TimePoint now = clock.now();
    // Earliest due first, whoever shares the wire; what has no time goes as if it were due a little later.
    const base::TimePoint due = command.due.value_or(now + kPatience);
    const auto later =
        std::find_if(handoffs.begin(), handoffs.end(), [&](const Handoff& other) { return other.due > due; });
    const auto handoff = handoffs.emplace(later);
    handoff->open = std::move(command);
    handoff->due = due;
    handoff->heard_at = now;
    by_key[handoff->open.key] = handoff;
    if (handoff->open.key.is_fetch()) {
        const auto asker = take_fetch(handoff->open.key);
        if (!asker) { return fail(handoff, {ErrorCode::cancelled, "the fetch has ended meanwhile"}, false); }
        handoff->peer = *asker;
        return ask_for_room(*handoff, now);
    }
    const auto peer = transport.connect(handoff->open.kv_address);
    if (!peer) {
        fail(handoff, peer.error(), false);
        return;
    }
    handoff->peer = *peer;
    ask_for_room(*handoff, now);
}

void KvSender::State::apply(Ready& command) {
    const auto handoff = find(command.key);
    if (handoff == handoffs.end()) { return; }
    command.range.token_end = std::min(command.range.token_end, handoff->open.kv_tokens);
    if (command.range.token_begin >= command.range.token_end) { return; }
    if (!handoff->modes.empty()) {  // granted, and coded: whole chunks
        command.range.token_begin = std::max(command.range.token_begin, handoff->granted_from);
        if (command.range.token_begin < command.range.token_end) { handoff->grid.add(command.range, handoff->ready); }
        return;
    }
    if (!handoff->ready.empty()) {
        // What piles up before the grant goes in frames as large as possible.
        KvRange& last = handoff->ready.back();
        if (last.token_begin == command.range.token_begin && last.token_end == command.range.token_end &&
            last.layer_end == command.range.layer_begin) {
            last.layer_end = command.range.layer_end;
            return;
        }
    }
    handoff->ready.push_back(command.range);
}

void KvSender::State::apply(Abort& command) {
    take_fetch(command.key);
    const auto handoff = find(command.key);
    if (handoff == handoffs.end()) { return; }
    fail(handoff, std::move(command.error), false);
}

void KvSender::State::apply(Reply& command) {
    const base::TimePoint now = clock.now();
    peer_heard_at[command.from] = now;
    const auto handoff = find(command.key);
    if (handoff == handoffs.end()) {
        // Our abort was lost, or overtook the request for room.
        if (command.answer == sluice::proto::RoomReply::ANSWER_GRANTED) {
            tell_abort(command.from, command.key, {ErrorCode::cancelled, "the hand-off has ended on prefill"});
        }
        return;
    }
    handoff->heard_at = now;
    switch (command.answer) {
        case sluice::proto::RoomReply::ANSWER_GRANTED:
            break;
        case sluice::proto::RoomReply::ANSWER_LATER:
            if (handoff->phase == Handoff::Phase::asking) {
                handoff->phase = Handoff::Phase::later;
                events({.kind = SenderEvent::Kind::later, .key = command.key});
            }
            return;
        case sluice::proto::RoomReply::ANSWER_REFUSED:
            fail(handoff, std::move(command.error), false);
            return;
        default:
            return;
    }
    if (handoff->phase == Handoff::Phase::granted) {
        if (command.from_end) { leave_front(handoff, command.have_tokens); }
        return;
    }
    auto modes = granted_modes(*handoff, command);
    if (!modes) {
        fail(handoff, modes.error(), true);
        return;
    }
    if (command.have_tokens > handoff->open.kv_tokens || command.have_tokens % layout.block_tokens() != 0) {
        fail(handoff,
             {ErrorCode::internal, "decode says it has " + std::to_string(command.have_tokens) + " tokens of " +
                                       std::to_string(handoff->open.kv_tokens)},
             true);
        return;
    }
    handoff->phase = Handoff::Phase::granted;
    handoff->granted_from = command.have_tokens;
    handoff->have_tokens = command.have_tokens;
    handoff->from_end = command.from_end;
    handoff->bytes_left = layout.wire_bytes({0, layout.layers(), command.have_tokens, handoff->open.kv_tokens});
    handoff->granted_at = now;
    handoff->acknowledged_at = now;
    handoff->packed = Coverage(layout.layers(), command.have_tokens, handoff->open.kv_tokens);
    if (!modes->empty()) {
        handoff->modes = std::move(*modes);
        handoff->grid = ChunkGrid(layout, command.have_tokens, handoff->open.kv_tokens, frame_bytes_max);
        const std::deque<KvRange> computed = std::exchange(handoff->ready, {});
        for (KvRange range : computed) {
            range.token_begin = std::max(range.token_begin, command.have_tokens);
            if (range.token_begin < range.token_end) { handoff->grid.add(range, handoff->ready); }
        }
    }
    events({.kind = SenderEvent::Kind::granted, .key = command.key, .have_tokens = command.have_tokens});
    complete_if_done(handoff);
}

/// Decode computes the tokens before `have_tokens` itself: what is not packed of them is not sent, and of the others
/// the last come first. Replies may come late and in any order: what it takes it never gives back.
void KvSender::State::leave_front(Handoffs::iterator handoff, std::uint32_t have_tokens) {
    if (have_tokens <= handoff->have_tokens || have_tokens > handoff->open.kv_tokens ||
        have_tokens % layout.block_tokens() != 0) {
        return;
    }
    const std::uint64_t left = handoff->packed.add({0, layout.layers(), handoff->have_tokens, have_tokens});
    handoff->bytes_left -= std::min<std::uint64_t>(handoff->bytes_left, left * layout.wire_bytes({0, 1, 0, 1}));
    handoff->have_tokens = have_tokens;
    handoff->from_end = true;
    complete_if_done(handoff);
}

void KvSender::State::apply(Ack& command) {
    const base::TimePoint now = clock.now();
    peer_heard_at[command.from] = now;
    const auto handoff = find(command.key);
    if (handoff == handoffs.end()) { return; }
    handoff->heard_at = now;
    const auto frame = handoff->unacknowledged.find(command.number);
    if (command.complete) {
        if (frame != handoff->unacknowledged.end()) { note_landed(*handoff, frame->second, command, now); }
        complete(handoff);
        return;
    }
    if (!command.error) {
        handoff->acknowledged_at = now;
        if (frame != handoff->unacknowledged.end()) {
            note_landed(*handoff, frame->second, command, now);
            drop_frame(*handoff, frame);
        }
        complete_if_done(handoff);
        return;
    }
    switch (command.error->code) {
        case ErrorCode::data_loss:
            if (frame != handoff->unacknowledged.end()) { frame->second.retry_at = now; }
            return;
        case ErrorCode::resource_exhausted:
            // Not the frame's fault: it does not count as a failure, and the deadline bounds it.
            if (frame != handoff->unacknowledged.end()) {
                frame->second.retry_at = now + options.refused_delay;
                if (frame->second.failures > 0) { --frame->second.failures; }
            }
            return;
        default:
            fail(handoff, std::move(*command.error), true);
            return;
    }
}

void KvSender::State::apply(PeerLost& command) {
    peer_heard_at.erase(command.peer);
    wires.erase(command.peer);
    forget_fetches_of(command.peer);
    for (auto handoff = handoffs.begin(); handoff != handoffs.end();) {
        const auto next = std::next(handoff);
        if (handoff->peer == command.peer) {
            fail(handoff, {ErrorCode::unavailable, "decode worker lost: " + command.why.message}, false);
        }
        handoff = next;
    }
}

bool KvSender::State::check_timers(base::TimePoint now) {
    bool did = false;
    for (auto handoff = handoffs.begin(); handoff != handoffs.end();) {
        const auto next = std::next(handoff);
        const net::PeerId peer = handoff->peer;
        if (now >= handoff->open.deadline) {
            fail(handoff, {ErrorCode::deadline_exceeded, "KV hand-off passed its deadline"}, true);
            did = true;
        } else if (now - handoff->heard_at >= options.peer_timeout) {
            const auto heard = peer_heard_at.find(peer);
            const bool is_silent = heard == peer_heard_at.end() || now - heard->second >= options.peer_timeout;
            fail(handoff, {ErrorCode::unavailable, "nothing heard from the decode worker"}, true);
            // Nobody hears from it: the connection may be dead on one side only, so the next hand-off begins a new one.
            if (is_silent) { transport.disconnect(peer); }
            did = true;
        } else if (now >= handoff->ask_again_at) {
            ask_for_room(*handoff, now);
            did = true;
        }
        handoff = next;
    }
    return did;
}

bool KvSender::State::send_one_frame(base::TimePoint now) {
    for (auto handoff = handoffs.begin(); handoff != handoffs.end();) {
        const auto next = std::next(handoff);
        if (handoff->phase == Handoff::Phase::granted && (resend(handoff, now) || pack_next(handoff, now))) {
            return true;
        }
        handoff = next;
    }
    return false;
}

bool KvSender::State::resend(Handoffs::iterator handoff, base::TimePoint now) {
    for (auto& [number, frame] : handoff->unacknowledged) {
        const base::TimePoint due = frame.retry_at.value_or(std::max(frame.sent_at, handoff->acknowledged_at) +
                                                            options.ack_timeout + time_under_way(handoff->peer));
        if (now < due) { continue; }
        if (++frame.failures > options.frame_retries) {
            fail(handoff,
                 {ErrorCode::data_loss, "frame " + std::to_string(number) + " was lost or damaged " +
                                            std::to_string(frame.failures) + " times"},
                 true);
            return true;
        }
        post_frame(handoff, frame, now);
        return true;
    }
    return false;
}

/// Takes the next frame's range off what is ready: whole layers of the tokens where they fit, else tokens of one layer.
static KvRange cut_frame(const kv_cache::KvLayout& layout, std::deque<KvRange>& ready, std::size_t bytes_max) {
    KvRange& front = ready.front();
    const std::size_t bytes_per_token = layout.wire_bytes({0, 1, 0, 1});
    const std::size_t layer_bytes = bytes_per_token * front.tokens();
    KvRange range = front;
    if (layer_bytes <= bytes_max) {
        const auto layers = static_cast<std::uint32_t>(std::min<std::size_t>(bytes_max / layer_bytes, front.layers()));
        range.layer_end = range.layer_begin + layers;
        front.layer_begin = range.layer_end;
        if (front.layers() == 0) { ready.pop_front(); }
        return range;
    }
    auto tokens = static_cast<std::uint32_t>(bytes_max / bytes_per_token);
    if (tokens > layout.block_tokens()) { tokens -= tokens % layout.block_tokens(); }
    range.layer_end = range.layer_begin + 1;
    KvRange rest_of_layer = range;
    range.token_end = range.token_begin + tokens;
    rest_of_layer.token_begin = range.token_end;
    ++front.layer_begin;
    if (front.layers() == 0) { ready.pop_front(); }
    ready.push_front(rest_of_layer);
    return range;
}

/// The same, the last tokens of `at` first: all its layers of as many tokens as a chunk has, then those before them.
static KvRange cut_last_frame(const kv_cache::KvLayout& layout, std::deque<KvRange>& ready,
                              std::deque<KvRange>::iterator at, std::size_t bytes_max) {
    const KvRange whole = *at;
    ready.erase(at);
    const std::size_t bytes_per_token = layout.wire_bytes({0, 1, 0, 1});
    const auto most =
        static_cast<std::uint32_t>(std::min<std::size_t>(ChunkGrid::kTokens, bytes_max / bytes_per_token));
    KvRange range = whole;
    if (whole.tokens() > most) {
        const std::uint32_t begin = whole.token_end - most;
        const std::uint32_t block_begin = layout.blocks_for(begin) * layout.block_tokens();
        range.token_begin = block_begin < whole.token_end ? block_begin : begin;
        KvRange before = whole;
        before.token_end = range.token_begin;
        ready.push_back(before);
    }
    const std::size_t layers = bytes_max / (bytes_per_token * range.tokens());
    if (layers < whole.layers()) {
        range.layer_end = range.layer_begin + static_cast<std::uint32_t>(layers);
        KvRange above = range;
        above.layer_begin = range.layer_end;
        above.layer_end = whole.layer_end;
        ready.push_back(above);
    }
    return range;
}

/// What is packed next of what is ready: in the order in which it came, or the last tokens, their first layers.
static std::deque<KvRange>::iterator next_range(std::deque<KvRange>& ready, bool from_end) {
    if (!from_end) { return ready.begin(); }
    return std::min_element(ready.begin(), ready.end(), [](const KvRange& a, const KvRange& b) {
        return a.token_end != b.token_end ? a.token_end > b.token_end : a.layer_begin < b.layer_begin;
    });
}

bool KvSender::State::pack_next(Handoffs::iterator handoff, base::TimePoint now) {
    std::deque<KvRange>& ready = handoff->ready;
    while (!ready.empty()) {
        const auto next = next_range(ready, handoff->from_end);
        next->token_begin = std::max(next->token_begin, handoff->have_tokens);
        if (next->token_begin >= next->token_end || handoff->packed.covers(*next)) {
            ready.erase(next);
            continue;
        }
        if (inflight_bytes.load() + std::min(frame_bytes_max, layout.wire_bytes(*next)) > options.inflight_bytes_max) {
            return false;
        }
        if (peer_frames[handoff->peer] >= peer_frames_max) { return false; }
        if (wire_is_full(*handoff)) { return false; }
        StagingPool::Buffer buffer = staging.take();
        if (buffer == nullptr) { return false; }

        Frame frame;
        frame.buffer = std::move(buffer);
        frame.info.key = handoff->open.key;
        frame.info.number = handoff->frames++;
        frame.info.range = handoff->from_end ? cut_last_frame(layout, ready, next, front_bytes_max(*handoff))
                                             : cut_frame(layout, ready, frame_bytes_max);
        frame.info.raw_bytes = layout.wire_bytes(frame.info.range);
        const std::span<std::byte> raw = frame.buffer->first(frame.info.raw_bytes);
        auto copied = access ? access->pack(handoff->open.blocks, frame.info.range, raw) : base::pass_on(access);
        if (!copied) {
            fail(handoff, copied.error(), true);
            return true;
        }
        frame.payload = raw;
        frame.info.more = !ready.empty();
        tell_rates(*handoff, frame.info);
        if (!handoff->modes.empty()) {
            encode(frame, handoff->open.choose_mode ? choose_mode(*handoff, frame.info.raw_bytes, now)
                                                    : handoff->modes.front());
        }
        handoff->bytes_left -= std::min<std::uint64_t>(handoff->bytes_left, frame.info.raw_bytes);
        handoff->mode_sent = lossier(handoff->mode_sent, frame.info.mode);
        frame.info.payload_bytes = frame.payload.size();
        frame.info.payload_crc32c = base::crc32c(frame.payload);
        handoff->packed.add(frame.info.range);
        ++peer_frames[handoff->peer];
        peer_bytes[handoff->peer] += frame.payload.size();
        inflight_bytes += frame.payload.size();
        metrics.add_inflight(static_cast<std::int64_t>(frame.payload.size()));
        Frame& kept = handoff->unacknowledged.emplace(frame.info.number, std::move(frame)).first->second;
        post_frame(handoff, kept, now);
        return true;
    }
    return false;
}

/// The packed frame as its hand-off's codec has it, unless that is not shorter. No bytes move: the frame takes the
/// workspace, and its own buffer becomes the next one's.
void KvSender::State::encode(Frame& frame, const KvMode& mode) {
    if (mode.is_raw()) { return; }
    const base::TimePoint begin = clock.now();
    const std::span<std::byte> out = workspace->first(mode.codec->bound(frame.info.raw_bytes));
    const auto coded = mode.codec->encode(layout, frame.info.range, mode.level, frame.payload, out);
    if (!coded) { return; }
    note_encoded(frame, mode, *coded, clock.now() - begin);
    if (*coded >= frame.info.raw_bytes) { return; }
    CHECK(*coded > 0 && *coded <= out.size(), *coded << " of " << out.size() << " bytes");
    frame.info.mode = mode;
    frame.payload = out.first(*coded);
    std::swap(frame.buffer, workspace);
}

/// False when the hand-off has failed.
bool KvSender::State::post_frame(Handoffs::iterator handoff, Frame& frame, base::TimePoint now) {
    const sluice::proto::KvFrame header = make_frame(identity, layout, frame.info);
    frame.sent_at = now;
    frame.retry_at.reset();
    const auto sent =
        transport.send(handoff->peer, {kFrame, seal(kFrame, header), {frame.payload, frame.buffer}},
                       now + options.send_timeout + time_under_way(handoff->peer), [](const base::Result<void>&) {});
    if (sent) {
        handoff->payload_bytes += frame.payload.size();
        metrics.add_bytes(frame.info.mode, frame.payload.size(), frame.info.raw_bytes);
        return true;
    }
    if (sent.error().code == ErrorCode::resource_exhausted) {
        frame.retry_at = now + options.refused_delay;
        if (frame.failures > 0) { --frame.failures; }
        return true;
    }
    fail(handoff, sent.error(), false);
    return false;
}

void KvSender::State::post(net::PeerId peer, net::MessageKind kind, const google::protobuf::MessageLite& message) {
    // Whether it can be sent does not matter here: every message is repeated or backed by a timer of the other side.
    static_cast<void>(transport.send(peer, {kind, seal(kind, message), {}}, clock.now() + options.send_timeout,
                                     [](const base::Result<void>&) {}));
}

void KvSender::State::ask_for_room(Handoff& handoff, base::TimePoint now) {
    sluice::proto::RoomRequest request;
    set_header(*request.mutable_header(), identity);
    set_key(*request.mutable_handoff(), handoff.open.key, identity);
    request.set_kv_tokens(handoff.open.kv_tokens);
    request.set_deadline_in_us(base::time_left_us(handoff.open.deadline, now));
    // Where they are chosen, for who does not know of that: the first one, which loses least.
    set_mode(*request.mutable_kv_mode(), handoff.open.modes.empty() ? KvMode{} : handoff.open.modes.front());
    if (handoff.open.choose_mode) {
        for (const KvMode& mode : handoff.open.modes) {
            set_mode(*request.add_kv_modes(), mode);
        }
    }
    if (!handoff.open.key.is_fetch()) {
        request.set_send_us(whole_us(expected_to_send(handoff)));
        request.set_compute_us(whole_us(handoff.open.computing));
        request.set_whole_us(whole_us(handoff.open.computing_whole));
        request.set_moves(true);
    }
    post(handoff.peer, kRoomRequest, request);
    handoff.ask_again_at = now + options.room_interval;
}

void KvSender::State::tell_abort(net::PeerId peer, const HandoffKey& key, const base::Error& error) {
    sluice::proto::KvAbort abort;
    set_header(*abort.mutable_header(), identity);
    set_key(*abort.mutable_handoff(), key, identity);
    proto::set_error(*abort.mutable_error(), error, kErrorBytesMax);
    post(peer, kAbortToDecode, abort);
}

void KvSender::State::drop_frame(Handoff& handoff, std::map<std::uint32_t, Frame>::iterator frame) {
    inflight_bytes -= frame->second.payload.size();
    metrics.add_inflight(-static_cast<std::int64_t>(frame->second.payload.size()));
    peer_bytes[handoff.peer] -= frame->second.payload.size();
    if (peer_bytes[handoff.peer] == 0) { peer_bytes.erase(handoff.peer); }
    handoff.unacknowledged.erase(frame);
    if (--peer_frames[handoff.peer] == 0) { peer_frames.erase(handoff.peer); }
}

bool KvSender::State::complete_if_done(Handoffs::iterator handoff) {
    if (handoff->phase != Handoff::Phase::granted || !handoff->packed.is_complete() ||
        !handoff->unacknowledged.empty()) {
        return false;
    }
    complete(handoff);
    return true;
}

void KvSender::State::complete(Handoffs::iterator handoff) {
    const bool was_granted = handoff->phase == Handoff::Phase::granted;
    const base::Duration duration = was_granted ? clock.now() - handoff->granted_at : base::Duration{};
    metrics.count(Outcome::ok);
    metrics.observe_duration(duration);
    events({.kind = SenderEvent::Kind::completed,
            .key = handoff->open.key,
            .payload_bytes = handoff->payload_bytes,
            .duration = duration,
            .mode = handoff->mode_sent});
    release(handoff);
}

void KvSender::State::fail(Handoffs::iterator handoff, base::Error error, bool tell_decode) {
    if (tell_decode) { tell_abort(handoff->peer, handoff->open.key, error); }
    metrics.count(outcome_of(error.code));
    events({.kind = SenderEvent::Kind::failed, .key = handoff->open.key, .error = std::move(error)});
    release(handoff);
}

/// Blocks are read by pack() on this thread alone, so an ended hand-off is a released one.
void KvSender::State::release(Handoffs::iterator handoff) {
    while (!handoff->unacknowledged.empty()) {
        drop_frame(*handoff, handoff->unacknowledged.begin());
    }
    const HandoffKey key = handoff->open.key;
    Slots::Slot slot = std::move(handoff->open.slot);
    by_key.erase(key);
    handoffs.erase(handoff);
    {
        const std::scoped_lock lock(mutex);
        open_keys.erase(key);
        ended_keys.erase(key);
    }
    events({.kind = SenderEvent::Kind::released, .key = key, .slot = std::move(slot)});
}

KvSender::State::Handoffs::iterator KvSender::State::find(const HandoffKey& key) {
    const auto found = by_key.find(key);
    return found == by_key.end() ? handoffs.end() : found->second;
}

}  // namespace kv_transfer
