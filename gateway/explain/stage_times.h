#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "base/metrics.h"
#include "gateway/explain/timeline.h"

namespace gateway {

/// What a sequence passes, in this order; the times in it add up to its whole way, but for what is on the way between
/// processes before the first token (it counts as `prefill`) and placements that failed.
enum class Stage : std::uint8_t {
    prepare,        // from the request's last byte until its prompt is tokens
    place,          // until the scheduler has said where it runs
    queue_prefill,  // its prefill worker waits for KV memory, or computes other prompts
    prefill,        // from there until the first token, without the others
    handoff,        // a worker waits for its KV from another one
    queue_decode,   // split: its decode worker waits for room, or for a place in the batch
    decode,         // from the first token to the last, without the two above
};
inline constexpr std::size_t kStages = 7;
std::string_view name_of(Stage stage);

/// By stage; empty: the sequence did not come so far, or has no such stage, or its worker gave no account of it.
using StageDurations = std::array<std::optional<base::Duration>, kStages>;
/// Of the placement that gave the first token. Pure.
StageDurations stage_durations(const SequenceTimeline& sequence);

/// One observation for each of them in `sluice_gateway_stage_duration_seconds`.
void observe_stages(base::Metrics& metrics, const std::string& model, const SequenceTimeline& sequence);

}  // namespace gateway
