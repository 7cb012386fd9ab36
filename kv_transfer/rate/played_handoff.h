#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "kv_transfer/rate/bandwidth.h"
#include "kv_transfer/rate/rate_controller.h"

namespace kv_transfer {

/// A hand-off on a virtual clock: one coder, one wire and one decoder, each does one frame after the other and all
/// three work at once; the other side may compute from its end meanwhile. What it knows of the wire the policy is told
/// as a sender is: by when frames had come through.
struct PlayedHandoff {
    std::uint64_t kv_bytes = 0;
    std::uint64_t frame_bytes = 0;
    std::vector<WayToSend> ways;  // as they are
    /// Seconds that the wire takes for `bytes` from `begin_s` on; `kv_sent`: bytes of KV that went before.
    std::function<double(double begin_s, double bytes, std::uint64_t kv_sent)> wire_s;
    double recompute_rate = 0;     // of the other side; 0: it does not compute
    double way_back_s = 0;         // from a frame's landing until the sender hears of it
    std::size_t frames_ahead = 2;  // packed and not known to have landed
    std::optional<double> due_s;
    bool allow_lossy = false;
    double wire_prior = 125e6;  // bytes a second, until something has landed
};

struct PlayedOutcome {
    double seconds = 0;  // until all KV is there
    double wire_bytes = 0;
    std::vector<std::uint64_t> kv_bytes_by_way;
    std::uint64_t kv_bytes_computed = 0;  // by the other side
};

using RatePolicy = std::function<RateAnswer(std::span<const WayToSend> ways, const RateQuestion& question)>;

/// `meter` keeps what it has learned for the next hand-off over the same wire; null: a new one.
PlayedOutcome play_handoff(const PlayedHandoff& handoff, const RatePolicy& policy, WireMeter* meter = nullptr);

}  // namespace kv_transfer
