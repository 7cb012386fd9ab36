#include "kv_transfer/rate/front.h"

#include <algorithm>

#include "base/check.h"
#include "kv_transfer/rate/both_ends.h"

namespace kv_transfer {

double front_frame_bytes(double wire) {
    return std::max(kFrontFrameBytesMin, wire * kFrontFrame_s);
}

std::uint32_t front_piece(std::uint32_t share_blocks) {
    return std::min(share_blocks, std::clamp(share_blocks / 2, kFrontBlocksMin, kFrontBlocksMax));
}

std::uint32_t front_to_take(const FrontQuestion& question) {
    CHECK(question.block_tokens > 0 && question.wire_low <= question.wire);
    if (question.wire <= 0 || question.computing <= 0) { return 0; }
    const double left = question.tokens_left;
    const auto with = [&](double wire) { return std::max(question.ready_s, left / (question.computing + wire)); };
    const double alone = std::max(question.ready_s, left / question.wire);
    if (question.left_s) {
        const double at_the_next_look = std::chrono::duration<double>(kFrontLook).count() + with(question.wire_low);
        if (loads_in_time(alone, question.left_s) && loads_in_time(at_the_next_look, question.left_s)) { return 0; }
    }
    const double save = alone - with(question.wire);
    // Where a time is at stake, the wire at its lowest is what both ends are for.
    const bool is_worth_it = save >= std::max(kFrontSave_s, alone * kBothSave) ||
                             (question.left_s && left / question.wire_low > *question.left_s && save > 0);
    if (!question.has_begun && !is_worth_it) { return 0; }
    const double share = left * question.computing / (question.computing + question.wire);
    const auto blocks =
        static_cast<std::uint32_t>(std::min<double>(share, question.tokens_free)) / question.block_tokens;
    return front_piece(blocks) * question.block_tokens;
}

}  // namespace kv_transfer
