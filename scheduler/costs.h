#pragma once

#include <algorithm>

namespace scheduler {

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

/// Seconds of one KV hand-off = setup + byte * bytes.
struct TransferCost {
    double setup_seconds = 0;
    double byte_seconds = 0;
};

/// What a worker is expected to need. All coefficients are finite and not negative.
struct Costs {
    PrefillCost prefill;
    DecodeCost decode;
    TransferCost transfer;  // into this worker
};

/// Tokens of context that `new_tokens` see in sum when `cached` tokens stand before the first of them.
inline double context_sum(double cached, double new_tokens) {
    return new_tokens * cached + new_tokens * std::max(0.0, new_tokens - 1) / 2;
}

inline double prefill_seconds(const PrefillCost& cost, double steps, double tokens, double context) {
    return steps * cost.step_seconds + tokens * cost.token_seconds + context * cost.context_seconds;
}

inline double decode_step_seconds(const DecodeCost& cost, double sequences, double context) {
    return cost.step_seconds + sequences * cost.sequence_seconds + context * cost.context_seconds;
}

inline double transfer_seconds(const TransferCost& cost, double bytes) {
    return cost.setup_seconds + bytes * cost.byte_seconds;
}

}  // namespace scheduler
