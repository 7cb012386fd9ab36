// How the frames of a hand-off are coded: what both sides agreed on, and the choice frame by frame where its mode is
// chosen (rate/rate_controller.h). All on the sender's own thread.
#include <algorithm>
#include <chrono>

#include "kv_transfer/rate/front.h"
#include "kv_transfer/rate/known_ways.h"
#include "kv_transfer/rate/rate_controller.h"
#include "kv_transfer/sender_state.h"

namespace kv_transfer {

using base::ErrorCode;

namespace {

constexpr double kWirePrior = 1e9 / 8;    // bytes a second, until a frame has landed
constexpr double kPriorBytes = 4e6;       // of KV: what is believed of a codec counts as much
constexpr double kQueued_s = 0.05;        // of the wire: with so much under way the next choice waits
constexpr std::size_t kFramesQueued = 2;  // but one is on the wire and one behind it
constexpr double kLossyShare = 0.5;       // of a codec of which nothing is known
constexpr double kExactShare = 0.7;
constexpr double kUnknownRate = 1e9;

double seconds_of(base::Duration duration) {
    return std::chrono::duration<double>(duration).count();
}

WayToSend believed(const KvMode& mode) {
    for (const KnownWay& known : all_ways()) {
        if (known.codec == mode.codec->name() && known.level == mode.level) { return known.way; }
    }
    return {mode.is_lossy() ? kLossyShare : kExactShare, kUnknownRate, kUnknownRate, mode.is_lossy()};
}

}  // namespace

std::vector<KvSender::State::CodedRates> KvSender::State::believed_rates(const Codecs& codecs) {
    std::vector<CodedRates> rates;
    for (const KvMode& mode : codecs.modes()) {
        const WayToSend way = believed(mode);
        rates.push_back({mode,
                         {way.wire_share, kPriorBytes},
                         {way.encode_rate, kPriorBytes / way.encode_rate},
                         {way.decode_rate, kPriorBytes / way.decode_rate}});
    }
    return rates;
}

/// Without raw. Error: internal, for one that was not proposed.
base::Result<std::vector<KvMode>> KvSender::State::granted_modes(const Handoff& handoff, const Reply& reply) const {
    std::vector<KvMode> modes;
    const auto take = [&](const proto::KvMode& granted) {
        const auto mode = options.codecs.find(granted);
        if (!mode) { return false; }
        if (mode->is_raw()) { return true; }
        const auto& proposed = handoff.open.modes;
        if (std::find(proposed.begin(), proposed.end(), *mode) == proposed.end()) { return false; }
        if (std::find(modes.begin(), modes.end(), *mode) == modes.end()) { modes.push_back(*mode); }
        return true;
    };
    bool is_good = reply.kv_modes.size() <= Codecs::kModesMax && take(reply.kv_mode);
    if (handoff.open.choose_mode) {
        for (const proto::KvMode& granted : reply.kv_modes) {
            is_good = is_good && take(granted);
        }
    }
    if (!is_good) { return base::fail(ErrorCode::internal, "decode granted a KV mode that was not proposed"); }
    return modes;
}

/// Enough is under way to keep the wire busy until the next look: what is chosen later is chosen better, what is
/// cancelled then was never packed, and what decode computes meanwhile need not come.
bool KvSender::State::wire_is_full(const Handoff& handoff) const {
    const auto frames = peer_frames.find(handoff.peer);
    if (frames == peer_frames.end()) { return false; }
    const auto wire = wires.find(handoff.peer);
    if (wire == wires.end() || !wire->second.bandwidth().is_known()) {
        // One frame tells; where nothing is chosen nothing is at stake.
        return frames->second > 0 && (handoff.open.choose_mode || handoff.from_end);
    }
    if (frames->second < kFramesQueued) { return false; }
    const double rate = wire->second.bandwidth().expected();
    const auto bytes = peer_bytes.find(handoff.peer);
    return bytes != peer_bytes.end() && static_cast<double>(bytes->second) >= rate * kQueued_s;
}

/// What is under way to the peer may take so long over the slowest of wires.
base::Duration KvSender::State::time_under_way(net::PeerId peer) const {
    const auto bytes = peer_bytes.find(peer);
    return bytes == peer_bytes.end() ? base::Duration{} : slow_wire_time(bytes->second);
}

/// raw, and those of `modes` that are known, with what they take.
std::vector<std::pair<KvMode, WayToSend>> KvSender::State::ways_of(std::span<const KvMode> modes) const {
    std::vector<std::pair<KvMode, WayToSend>> ways{{}};
    for (const CodedRates& rate : rates) {
        if (std::find(modes.begin(), modes.end(), rate.mode) == modes.end()) { continue; }
        ways.emplace_back(rate.mode, WayToSend{rate.wire_share.value(), rate.encode_rate.value(),
                                               rate.decode_rate.value(), rate.mode.is_lossy()});
    }
    return ways;
}

/// About what is left of this hand-off, as its wire is now.
RateQuestion KvSender::State::question_for(const Handoff& handoff, std::uint64_t bytes_left,
                                           std::uint64_t frame_bytes) const {
    RateQuestion question;
    question.frame_bytes = frame_bytes;
    question.bytes_left = std::max(bytes_left, frame_bytes);
    const auto queued = peer_bytes.find(handoff.peer);
    question.bytes_ahead = queued == peer_bytes.end() ? 0 : queued->second;
    const auto wire = wires.find(handoff.peer);
    const bool is_known = wire != wires.end() && wire->second.bandwidth().is_known();
    question.wire = is_known ? wire->second.bandwidth().expected() : kWirePrior;
    question.wire_low = is_known ? wire->second.bandwidth().low() : kWirePrior / (1 + Bandwidth::kStrange);
    question.allow_lossy = true;  // modes that may not be used were not proposed
    return question;
}

/// KV of a frame while decode computes from the front.
std::size_t KvSender::State::front_bytes_max(const Handoff& handoff) const {
    const auto wire = wires.find(handoff.peer);
    const bool is_known = wire != wires.end() && wire->second.bandwidth().is_known();
    const double most = front_frame_bytes(is_known ? wire->second.bandwidth().expected() : kWirePrior);
    return std::max(layout.wire_bytes({0, 1, 0, 1}),
                    static_cast<std::size_t>(std::min(static_cast<double>(frame_bytes_max), most)));
}

/// What this frame and those behind it are expected to come at, and if the wire falls to its lowest, for a decode that
/// may compute some of them. Nothing where the wire is not known yet, or some of it may be lost.
void KvSender::State::tell_rates(const Handoff& handoff, FrameInfo& info) const {
    const auto wire = wires.find(handoff.peer);
    const auto is_lossy = [](const KvMode& mode) { return mode.is_lossy(); };
    if (handoff.open.key.is_fetch() || wire == wires.end() || !wire->second.bandwidth().is_known() ||
        std::any_of(handoff.modes.begin(), handoff.modes.end(), is_lossy)) {
        return;
    }
    std::vector<WayToSend> ways;
    for (const auto& [mode, way] : ways_of(handoff.modes)) {
        ways.push_back(way);
    }
    if (!handoff.open.choose_mode && ways.size() > 1) { ways.erase(ways.begin()); }  // all goes coded
    RateQuestion question = question_for(handoff, handoff.bytes_left, info.raw_bytes);
    question.bytes_ahead = 0;
    const auto rate = [&] {
        const double seconds = seconds_of(choose_way(ways, question).takes);
        return seconds <= 0 ? 0 : static_cast<std::uint64_t>(static_cast<double>(question.bytes_left) / seconds);
    };
    info.kv_rate = rate();
    question.wire = question.wire_low;
    info.kv_rate_low = rate();
}

KvMode KvSender::State::choose_mode(const Handoff& handoff, std::size_t frame_bytes, base::TimePoint now) const {
    const auto known = ways_of(handoff.modes);
    std::vector<WayToSend> ways;
    for (const auto& [mode, way] : known) {
        ways.push_back(way);
    }
    RateQuestion question = question_for(handoff, handoff.bytes_left, frame_bytes);
    if (handoff.open.due) { question.left = *handoff.open.due - now; }
    return known[choose_way(ways, question).way].first;
}

/// All of it, before anything was granted. 0: nothing is known of the wire, or what is proposed loses some of it.
base::Duration KvSender::State::expected_to_send(const Handoff& handoff) const {
    const auto wire = wires.find(handoff.peer);
    const auto& modes = handoff.open.modes;
    const auto is_lossy = [](const KvMode& mode) { return mode.is_lossy(); };
    if (wire == wires.end() || !wire->second.bandwidth().is_known() ||
        std::any_of(modes.begin(), modes.end(), is_lossy)) {
        return {};
    }
    std::vector<WayToSend> ways;
    for (const auto& [mode, way] : ways_of(modes)) {
        ways.push_back(way);
    }
    const std::uint64_t bytes = layout.wire_bytes({0, layout.layers(), 0, handoff.open.kv_tokens});
    return choose_way(ways, question_for(handoff, bytes, std::min<std::uint64_t>(bytes, frame_bytes_max))).takes;
}

void KvSender::State::note_encoded(const Frame& frame, const KvMode& mode, std::size_t coded_bytes,
                                   base::Duration taken) {
    const auto rate =
        std::find_if(rates.begin(), rates.end(), [&](const CodedRates& known) { return known.mode == mode; });
    if (rate == rates.end()) { return; }
    const auto raw = static_cast<double>(frame.info.raw_bytes);
    rate->wire_share.add(static_cast<double>(coded_bytes), raw);
    if (taken > base::Duration::zero()) { rate->encode_rate.add(raw, seconds_of(taken)); }
}

void KvSender::State::note_landed(const Handoff& handoff, const Frame& frame, const Ack& ack, base::TimePoint now) {
    if (frame.failures > 0 || frame.retry_at) { return; }  // which of the copies was it?
    const base::TimePoint landed = now - std::min(ack.landed_ago, std::max(base::Duration{}, now - frame.sent_at));
    wires[handoff.peer].landed(frame.sent_at, landed, frame.payload.size());
    if (frame.info.mode.is_raw() || ack.decoded_in <= base::Duration::zero()) { return; }
    const auto rate = std::find_if(rates.begin(), rates.end(),
                                   [&](const CodedRates& known) { return known.mode == frame.info.mode; });
    if (rate == rates.end()) { return; }
    rate->decode_rate.add(static_cast<double>(frame.info.raw_bytes), seconds_of(ack.decoded_in));
}

}  // namespace kv_transfer
