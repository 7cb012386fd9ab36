#include "kv_transfer/rate/played_handoff.h"

#include <algorithm>
#include <deque>
#include <limits>

#include "base/check.h"

namespace kv_transfer {
namespace {

struct Flying {
    double sent_s = 0;
    double landed_s = 0;
    double known_s = 0;
    double wire_bytes = 0;
};

base::TimePoint at(double seconds) {
    return base::TimePoint{} + std::chrono::duration_cast<base::Duration>(std::chrono::duration<double>(seconds));
}

double taken(double bytes, double rate) {
    return rate <= 0 ? 0 : bytes / rate;
}

}  // namespace

PlayedOutcome play_handoff(const PlayedHandoff& handoff, const RatePolicy& policy, WireMeter* meter) {
    CHECK(handoff.kv_bytes > 0 && handoff.frame_bytes > 0 && handoff.frames_ahead > 0 && !handoff.ways.empty());
    WireMeter own;
    WireMeter& wire = meter == nullptr ? own : *meter;
    PlayedOutcome outcome;
    outcome.kv_bytes_by_way.resize(handoff.ways.size());
    std::deque<Flying> flying;
    double now_s = 0;
    double coder_free_s = 0;
    double wire_free_s = 0;
    double decoder_free_s = 0;
    double computes_from_s = -1;  // below 0: it does not
    std::uint64_t sent = 0;
    double finished_s = std::numeric_limits<double>::infinity();
    // All is there when what was sent is decoded and the rest is computed.
    const auto note_end = [&] {
        const auto rest = static_cast<double>(handoff.kv_bytes - sent);
        if (computes_from_s < 0 && rest > 0) { return; }
        const double computed_s = rest > 0 ? computes_from_s + rest / handoff.recompute_rate : 0;
        const double end_s = std::max(decoder_free_s, computed_s);
        if (end_s >= finished_s) { return; }
        finished_s = end_s;
        outcome.kv_bytes_computed = handoff.kv_bytes - sent;
    };
    while (sent < handoff.kv_bytes) {
        now_s = std::max(now_s, coder_free_s);
        if (flying.size() >= handoff.frames_ahead) { now_s = std::max(now_s, flying.front().known_s); }
        while (!flying.empty() && flying.front().known_s <= now_s) {
            wire.landed(at(flying.front().sent_s), at(flying.front().landed_s),
                        static_cast<std::uint64_t>(flying.front().wire_bytes));
            flying.pop_front();
        }
        const double computed =
            computes_from_s < 0 ? 0 : std::max(0.0, (now_s - computes_from_s) * handoff.recompute_rate);
        const auto rest = static_cast<double>(handoff.kv_bytes - sent);
        if (computed >= rest || now_s >= finished_s) { break; }

        RateQuestion question;
        question.bytes_left = std::max<std::uint64_t>(1, static_cast<std::uint64_t>(rest - computed));
        const bool is_known = wire.bandwidth().is_known();
        question.frame_bytes =
            std::min(is_known ? handoff.frame_bytes : std::min(handoff.frame_bytes, kProbeBytes), question.bytes_left);
        double ahead = 0;
        for (const Flying& frame : flying) {
            ahead += frame.landed_s > now_s ? frame.wire_bytes : 0;
        }
        question.bytes_ahead = static_cast<std::uint64_t>(ahead);
        question.wire = is_known ? wire.bandwidth().expected() : handoff.wire_prior;
        question.wire_low = is_known ? wire.bandwidth().low() : handoff.wire_prior / 2;
        question.wire_last = wire.bandwidth().last();
        if (handoff.due_s) { question.left = at(*handoff.due_s - now_s) - base::TimePoint{}; }
        question.allow_lossy = handoff.allow_lossy;
        question.recompute_rate = handoff.recompute_rate;
        const RateAnswer answer = policy(handoff.ways, question);
        CHECK(answer.way < handoff.ways.size());
        if (answer.recompute && computes_from_s < 0) {
            computes_from_s = now_s + handoff.way_back_s;
            note_end();
        }

        const WayToSend& way = handoff.ways[answer.way];
        const auto bytes = static_cast<double>(question.frame_bytes);
        coder_free_s = now_s + taken(bytes, way.encode_rate);
        const double wire_begin_s = std::max(coder_free_s, wire_free_s);
        const double wire_bytes = bytes * way.wire_share;
        wire_free_s = wire_begin_s + handoff.wire_s(wire_begin_s, wire_bytes, sent);
        decoder_free_s = std::max(wire_free_s, decoder_free_s) + taken(bytes, way.decode_rate);
        flying.push_back({coder_free_s, wire_free_s, decoder_free_s + handoff.way_back_s, wire_bytes});
        sent += question.frame_bytes;
        outcome.wire_bytes += wire_bytes;
        outcome.kv_bytes_by_way[answer.way] += question.frame_bytes;
        note_end();
    }
    outcome.seconds = finished_s;
    return outcome;
}

}  // namespace kv_transfer
