#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "base/clock.h"

namespace kv_transfer {

/// One way to send KV and what it takes. Rates are of KV before the codec, in bytes a second; 0: takes no time.
struct WayToSend {
    double wire_share = 1;  // bytes on the wire for each byte of KV
    double encode_rate = 0;
    double decode_rate = 0;
    bool is_lossy = false;
};

/// What is to be sent and what is known about the wire and the other side when the next frame is packed.
struct RateQuestion {
    std::uint64_t bytes_left = 0;        // of KV, this frame included
    std::uint64_t frame_bytes = 0;       // of KV, of one frame; at most bytes_left
    std::uint64_t bytes_ahead = 0;       // on the wire already, or of hand-offs that go first
    double wire = 0;                     // bytes a second, as expected; > 0
    double wire_low = 0;                 // unlikely to be less; > 0
    double wire_last = 0;                // of the last sample; 0: none yet. For policies to compare with
    std::optional<base::Duration> left;  // until all of it is due; empty: as soon as possible
    bool allow_lossy = false;
    /// Bytes of KV a second that the other side computes itself, from the first token on, while frames come from the
    /// last token on (where that is allowed); 0: it does not.
    double recompute_rate = 0;
    bool recompute_with_frames = true;  // false: it is one or the other
};

struct RateAnswer {
    std::size_t way = 0;     // of this frame
    bool recompute = false;  // the other side computes from its end
    base::Duration takes{};  // until all is there, as expected, if all that is left goes so
};

/// How the next frame goes. `ways`: from no loss to most, [0] raw. In this order, what is there in time by what is
/// expected, and would be if the wire fell to its lowest and the frames after this one went the quickest way:
/// 1. the quickest way without loss; 2. the same while the other side computes from its end; 3. the least loss; 4. the
/// least loss while it computes. Where nothing is in time, or nothing is due: the quickest; what costs no more than
/// kAlike of it counts as quick, and the first such in the order above is taken. So nothing is coded where the wire
/// outruns the coder, and nothing is lost that would not be late.
/// Pure. Source: CacheGen (Liu et al., SIGCOMM 2024), Algorithm 1; coding, sending and decoding overlap here, loss
/// comes after computing only where it must, and a wire that may fall must not be met with large frames.
RateAnswer choose_way(std::span<const WayToSend> ways, const RateQuestion& question);
inline constexpr double kAlike = 0.05;

/// KV of a frame over a wire of which nothing is known yet.
inline constexpr std::uint64_t kProbeBytes = 256 * 1024;

/// How long `bytes` take in frames of `frame_bytes`, coded, sent and decoded at once over a wire of `wire` bytes a
/// second.
double seconds_to_send(const WayToSend& way, double bytes, double frame_bytes, double wire);

}  // namespace kv_transfer
