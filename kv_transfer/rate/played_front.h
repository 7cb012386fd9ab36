#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "kv_transfer/rate/rate_controller.h"

namespace kv_transfer {

/// A wire whose rate changes with time, whatever is sent: rates[i] bytes a second (> 0) for `step_s` seconds each, over
/// and over.
struct ChangingWire {
    std::vector<double> rates;
    double step_s = 0.1;

    /// That `bytes` take from `begin_s` on.
    double seconds(double begin_s, double bytes) const;
    /// That it carries in [0, end_s).
    double bytes_until(double end_s) const;
};

/// A hand-off without loss on a virtual clock, its receiver computing some of the front, as it goes live: chunks of
/// kChunkTokens tokens in frames of some of their layers, coded by the controller's choice, two frames under way; with
/// each frame the sender tells what it expects of the wire, and where the receiver takes (more of) the front it hears
/// of it `way_back_s` later.
struct PlayedFront {
    static constexpr std::uint32_t kChunkTokens = 256;

    enum class Split {
        none,   // all is sent
        fixed,  // agreed on at the beginning, by what is known of the wire then
        moves,  // piece by piece, as the wire goes (front.h)
    };
    Split split = Split::moves;
    std::uint32_t tokens = 0;  // > 0
    std::uint32_t block_tokens = 16;
    double token_bytes = 0;       // of KV
    double frame_bytes = 0;       // of KV, at most
    std::vector<WayToSend> ways;  // without loss, as they are
    double computing = 0;         // tokens a second, of the receiver; > 0
    double way_back_s = 0.0002;
    std::optional<double> due_s;
    std::optional<double> wire_known;  // bytes a second, as it was before; empty: nothing is known of it
};

struct PlayedFrontOutcome {
    double seconds = 0;                 // until all KV is there
    std::uint32_t tokens_computed = 0;  // by the receiver
    double wire_bytes = 0;
};

PlayedFrontOutcome play_front(const PlayedFront& handoff, const ChangingWire& wire);

/// What nobody could do in less time who knew the wire: both ends work without a pause, nothing twice, and meet to the
/// byte. With `computing` 0: by the wire alone.
double least_front_seconds(const PlayedFront& handoff, const ChangingWire& wire);

}  // namespace kv_transfer
