#pragma once

#include <algorithm>

namespace base {

/// Seconds of one prefill step = step + token * new tokens + context * (sum over the new tokens of tokens before them).
/// The linear form of DistServe (Zhong et al., OSDI 2024), appendix A, with chunks: a prompt takes several steps.
struct PrefillCost {
    double step_seconds = 0;
    double token_seconds = 0;
    double context_seconds = 0;
};

/// Seconds of one decode step = step + sequence * sequences + context * (sum of their context tokens).
struct DecodeCost {
    double step_seconds = 0;
    double sequence_seconds = 0;
    double context_seconds = 0;
};

/// What steps of one engine are expected to need. All coefficients are finite and not negative.
struct StepCost {
    PrefillCost prefill;
    DecodeCost decode;
};

/// What one step does. Counts of tokens and sequences; as doubles, since all that is done with them is arithmetic.
struct StepWork {
    double prefill_tokens = 0;   // new prompt tokens
    double prefill_context = 0;  // sum over them of the tokens before each
    double decode_sequences = 0;
    double decode_context = 0;  // sum of their context tokens
};

/// Tokens of context that `new_tokens` see in sum when `cached` tokens stand before the first of them.
inline double context_sum(double cached, double new_tokens) {
    return new_tokens * cached + new_tokens * std::max(0.0, new_tokens - 1) / 2;
}

inline double prefill_seconds(const PrefillCost& cost, double steps, double tokens, double context) {
    return steps * cost.step_seconds + tokens * cost.token_seconds + context * cost.context_seconds;
}

/// What decoding sequences add to a step that is there anyway.
inline double decode_share_seconds(const DecodeCost& cost, double sequences, double context) {
    return sequences * cost.sequence_seconds + context * cost.context_seconds;
}

inline double decode_step_seconds(const DecodeCost& cost, double sequences, double context) {
    return cost.step_seconds + decode_share_seconds(cost, sequences, context);
}

/// One step; with prompt tokens in it, the rest of the step comes on top of theirs.
inline double step_seconds(const StepCost& cost, const StepWork& work) {
    if (work.prefill_tokens == 0) {
        return decode_step_seconds(cost.decode, work.decode_sequences, work.decode_context);
    }
    return prefill_seconds(cost.prefill, 1, work.prefill_tokens, work.prefill_context) +
           decode_share_seconds(cost.decode, work.decode_sequences, work.decode_context);
}

}  // namespace base
