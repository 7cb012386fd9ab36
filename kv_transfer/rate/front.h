#pragma once

#include <chrono>
#include <cstdint>
#include <optional>

#include "base/clock.h"

namespace kv_transfer {

/// What is known of a hand-off without loss when its receiver might compute (more) tokens at its front, while its
/// sender sends from the end back. Rates are of tokens a second, as they are now.
struct FrontQuestion {
    std::uint32_t tokens_left = 0;  // neither there nor being computed, in all
    std::uint32_t tokens_free = 0;  // of those, from the first one on without a gap: what may be taken
    double wire = 0;                // that come, as expected; 0: not known
    double wire_low = 0;            // unlikely to be less
    double computing = 0;           // that would be computed here; 0: not known
    double ready_s = 0;             // until the sender has computed the last of it
    std::optional<double> left_s;   // until all of it is due; empty: as soon as possible
    bool has_begun = false;         // some of the front was taken before
    std::uint32_t block_tokens = 16;
};

/// So many tokens of the front to take now, in whole blocks; 0: none for now. The question is put again when they are
/// computed, when frames come, and after kFrontLook in any case, so where both ends meet follows the wire.
///
/// With a time to be there: none while all of it is in time by what is expected, and would still be if the wire fell
/// to its lowest and both ends began at the next look. Else, and without such a time: half of what would be this
/// side's share, kFrontBlocksMin to kFrontBlocksMax blocks; to begin with, both ends must save kBothSave
/// (both_ends.h) of what the wire takes alone, and kFrontSave_s. Pure.
std::uint32_t front_to_take(const FrontQuestion& question);

inline constexpr std::uint32_t kFrontBlocksMin = 8;   // fewer are mostly overhead
inline constexpr std::uint32_t kFrontBlocksMax = 64;  // more were decided by a wire that is another one by then
inline constexpr double kFrontSave_s = 0.02;
inline constexpr base::Duration kFrontLook = std::chrono::milliseconds(50);

/// KV of a frame, at most, where its receiver computes meanwhile, over a wire of so many bytes a second: what is on the
/// wire can no longer be left to the other side.
double front_frame_bytes(double wire);
inline constexpr double kFrontFrame_s = 0.03;
inline constexpr double kFrontFrameBytesMin = 128 * 1024;

/// The first piece of a share of so many blocks, and each one after it.
std::uint32_t front_piece(std::uint32_t share_blocks);

}  // namespace kv_transfer
