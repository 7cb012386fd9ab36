#include "scheduler/planner/step_times.h"

#include <algorithm>

namespace scheduler::planner {
namespace {

double fitted_seconds(const FittedForms& fitted, const StepShape& step) {
    double tokens = 0;
    double squares = 0;
    for (const PromptChunk& chunk : step.prompts) {
        tokens += chunk.tokens;
        squares += chunk.tokens * (chunk.tokens + 2 * chunk.before);
    }
    if (tokens == 0) { return fitted.decode_seconds(step.decode_context, step.decode_sequences); }
    const double prefill = fitted.prefill_seconds(tokens, squares);
    if (step.decode_sequences == 0) { return prefill; }
    return prefill + fitted.decode_share_seconds(step.decode_context, step.decode_sequences);
}

/// One kernel for all chunks and decoding sequences: the largest chunk as it is measured beside them, each further one
/// at what it costs alone above the launch.
double attention_seconds(const StepTimes& times, const StepShape& step) {
    const bool is_decoding = step.decode_sequences > 0;
    const double mean = is_decoding ? step.decode_context / step.decode_sequences : 0;
    if (step.prompts.empty()) { return is_decoding ? times.decode.at(std::array{step.decode_sequences, mean}) : 0; }
    const PromptChunk* largest = step.prompts.data();
    for (const PromptChunk& chunk : step.prompts) {
        if (chunk.tokens > largest->tokens) { largest = &chunk; }
    }
    const double launch = times.prefill.at(std::array{0.0, 0.0});
    double seconds = 0;
    if (!is_decoding) {
        seconds = times.prefill.at(std::array{largest->tokens, largest->before});
    } else if (!times.mixed.empty()) {
        seconds = times.mixed.at(std::array{largest->tokens, step.decode_sequences, largest->before, mean});
    } else {
        seconds = times.prefill.at(std::array{largest->tokens, largest->before}) +
                  times.decode.at(std::array{step.decode_sequences, mean});
    }
    for (const PromptChunk& chunk : step.prompts) {
        if (&chunk == largest) { continue; }
        seconds += std::max(0.0, times.prefill.at(std::array{chunk.tokens, chunk.before}) - launch);
    }
    return seconds;
}

}  // namespace

double StepTimes::seconds(const StepShape& step) const {
    const double sequences = static_cast<double>(step.prompts.size()) + step.decode_sequences;
    const double host = step_seconds + sequence_seconds * sequences;
    if (fitted) { return host + fitted_seconds(*fitted, step); }
    double count = step.decode_sequences;
    for (const PromptChunk& chunk : step.prompts) {
        count += chunk.tokens;
    }
    return host + tokens.at(count) + attention_seconds(*this, step) + (step.sampled > 0 ? sampled.at(step.sampled) : 0);
}

void StepTimes::decode_seconds(double sequences, double context, std::span<double> seconds) const {
    const double host = step_seconds + sequence_seconds * sequences;
    const double before = host + tokens.at(sequences);
    const double after = sampled.at(sequences);
    for (std::size_t step = 0; step < seconds.size(); ++step) {
        const double here = context + static_cast<double>(step) * sequences;
        seconds[step] = fitted ? host + fitted->decode_seconds(here, sequences)
                               : before + decode.at(std::array{sequences, here / sequences}) + after;
    }
}

}  // namespace scheduler::planner
