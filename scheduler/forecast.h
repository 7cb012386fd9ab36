#pragma once

#include <array>
#include <cstdint>

#include "scheduler/lineup.h"
#include "scheduler/place.h"

namespace scheduler {

/// What one worker is expected to take for a request that joins what it has now: the predictions behind place(). Pure.

/// Tokens (prompt and answer) that this worker could hold if it were empty.
std::uint64_t tokens_capacity(const WorkerView& worker);

struct PrefillForecast {
    double queue_seconds;   // what is queued there now
    double busy_seconds;    // in which this prompt is computed then
    double ttft_seconds;    // both, and what whole steps add
    double sequences_then;  // that decode there when it has been computed, without it
};
/// `cached_tokens` of the prompt are there already.
PrefillForecast forecast_prefill(const WorkerView& worker, const PlaceQuery& query, std::uint32_t cached_tokens);
/// The same, with nothing cached, for prompts of the first `count` (> 0) of kLengths; the others are as the last of
/// these. The query's own length does not count.
std::array<PrefillForecast, kLengths.size()> forecast_prefills(const WorkerView& worker, const PlaceQuery& query,
                                                               std::size_t count);
/// The worker as a prompt finds it that will be in time: those that are late come after it. What is told of a placement
/// goes by this; who is let in does not, or those that are late would never have their turn.
WorkerView without_late(const WorkerView& worker);
/// Mean gap between tokens when this sequence joins what is there and is coming.
double forecast_tpot(const WorkerView& worker, const PlaceQuery& query);
/// The same when it joins `company` sequences.
double forecast_tpot(const WorkerView& worker, const PlaceQuery& query, double company);
/// The same as it is told of a placement whose prompt this worker computes, too, and begins with `queue_seconds` from
/// now: the longer that waits, the more prompts are left when it decodes. Nothing is decided by it (decision 0105).
double tell_tpot(const WorkerView& worker, const PlaceQuery& query, double company, double queue_seconds);
/// Seconds from now until there is room for this sequence; 0 when there is.
double forecast_decode_wait(const WorkerView& worker, const PlaceQuery& query);

/// One worker does both phases.
struct LocalForecast {
    PrefillForecast prefill;
    double tpot_seconds;
    double wait_seconds;  // for room, when the prompt has been computed; 0 when there is some then
    double cost_seconds;  // what place() minimises
};
/// `cached_tokens` of the prompt are there already. A pure decode worker computes a prompt no faster than the strictest
/// target of those who decode there allows.
LocalForecast forecast_local(const WorkerView& worker, const PlaceQuery& query, std::uint32_t cached_tokens);
/// The query as a worker that does both paces its prompt.
PlaceQuery paced_local(const WorkerView& worker, const PlaceQuery& query);
/// What decode costs a request there whose prompt is computed `prefill_seconds` from now, without the hand-off.
struct DecodeForecast {
    double tpot_seconds;
    double wait_seconds;  // for room, from then on; 0 when there is some then
    double cost_seconds;  // the wait, and the first tokens of the answer
};
DecodeForecast forecast_decode(const WorkerView& worker, const PlaceQuery& query, double prefill_seconds);

/// How long this worker for decode waits for `tokens` tokens of KV whose prompt will have been computed
/// `prefill_seconds` from now: of the hand-offs that it waited for at its last report, those that are not over by then
/// share its link.
double forecast_handoff(const WorkerView& worker, double tokens, double prefill_seconds);

bool prefill_queue_full(const WorkerView& worker);
bool decode_queue_full(const WorkerView& worker);
/// Whether a worker may do both phases at all. `prefill_exists`: there are workers for prefill.
bool may_do_both(const WorkerView& worker, const PlaceRules& rules, bool prefill_exists);

/// Sequences that decode there, what was sent included.
double decode_sequences(const WorkerView& worker);
/// Tokens of the answer that weigh in a decision about this request.
double weighed_tokens(const PlaceQuery& query);

/// How long a decoding sequence is assumed to go on, where it matters when it will end. Lengths of answers are unknown.
inline constexpr double kRemainingTokens = 128;

}  // namespace scheduler
