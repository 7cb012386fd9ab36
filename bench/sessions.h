#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "bench/workload.h"

namespace bench {

/// Conversations without a trace: each turn brings new words and waits for the answer before it.
struct TurnsWorkload {
    Arrival arrival = Arrival::poisson;
    double rate = 1;  // conversations/s that begin, > 0
    std::size_t requests = 100;
    std::uint32_t turns = 4;  // > 0, of a conversation
    Seconds think{1};         // from an answer to the next turn, on average
    std::uint64_t seed = 0;
    std::uint32_t prompt_tokens = 128;  // that a turn adds
    std::uint32_t output_tokens = 64;
    double length_spread = 0;
};

/// The same plan for the same values. The last conversation may be cut. Think times are exponential for Poisson
/// arrivals, constant else. Pure.
std::vector<PlannedRequest> plan_turns(const TurnsWorkload& workload);

/// How a trace with prefix blocks or conversations is played.
struct SessionTraceOptions {
    double rate = 1;  // conversations/s where the trace says nothing of when they began
    Arrival arrival = Arrival::poisson;
    std::uint64_t seed = 0;
    double time_scale = 1;  // > 0; of times, also of think times
    Seconds think_max{std::numeric_limits<double>::infinity()};
    std::uint32_t length_divisor = 1;  // > 0: lengths and blocks are divided by this
    std::uint32_t turns_max = 0;       // of a session; 0: all
    std::size_t requests = 0;          // take the first that many; 0: all
    std::uint32_t prompt_tokens_max = std::numeric_limits<std::uint32_t>::max();
    std::uint32_t output_tokens_max = std::numeric_limits<std::uint32_t>::max();
};

/// Whether `text` is one of the traces below.
bool is_session_trace(std::string_view text);

/// Reads JSON lines of two kinds:
/// - Mooncake's: `timestamp` (ms), `input_length`, `output_length`, `hash_ids` (of blocks of 512 tokens, the same
///   everywhere), and perhaps `session_id` with `delay` (ms from the end of the session's request before).
/// - conversations: a line with `conv`, `block_size`; then its requests (`agent`, `in`, `out`, `think` in s, `keep`,
///   `new`), ids of blocks its own; a line with `meta` begins an agent of it. Conversations begin `rate` a second.
/// Each request but a session's first waits for the one before. Error: invalid_argument with the line. Pure.
base::Result<std::vector<PlannedRequest>> parse_session_trace(std::string_view text,
                                                              const SessionTraceOptions& options);

}  // namespace bench
