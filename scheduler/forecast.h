#pragma once

#include <cstdint>

#include "scheduler/place.h"

namespace scheduler {

/// What one worker is expected to take for a request that joins what it has now: the predictions behind place(). Pure.

/// Tokens (prompt and answer) that this worker could hold if it were empty.
std::uint64_t tokens_capacity(const WorkerView& worker);

struct PrefillForecast {
    double queue_seconds;   // what is queued there now
    double ttft_seconds;    // queue and this prompt
    double sequences_then;  // that decode there when it has been computed, without it
};
/// `cached_tokens` of the prompt are there already.
PrefillForecast forecast_prefill(const WorkerView& worker, const PlaceQuery& query, std::uint32_t cached_tokens);
/// Mean gap between tokens when this sequence joins what is there and is coming.
double forecast_tpot(const WorkerView& worker, const PlaceQuery& query);
/// The same when it joins `company` sequences.
double forecast_tpot(const WorkerView& worker, const PlaceQuery& query, double company);
/// Seconds until there is room for this sequence; 0 when there is.
double forecast_decode_wait(const WorkerView& worker, const PlaceQuery& query);

/// Sequences that decode there, what was sent included.
double decode_sequences(const WorkerView& worker);
/// Tokens of the answer that weigh in a decision about this request.
double weighed_tokens(const PlaceQuery& query);

/// How long a decoding sequence is assumed to go on, where it matters when it will end. Lengths of answers are unknown.
inline constexpr double kRemainingTokens = 128;

}  // namespace scheduler
