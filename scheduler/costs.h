#pragma once

#include "base/step_cost.h"

namespace scheduler {

using base::context_sum;
using base::decode_share_seconds;
using base::decode_step_seconds;
using base::DecodeCost;
using base::prefill_seconds;
using base::PrefillCost;

/// How long a worker for decode waits for KV whose prompt is computed = setup + bytes * (byte + others_byte * others).
/// What was on its way while the prompt was computed is in it as it was lately.
struct TransferCost {
    double setup_seconds = 0;
    double byte_seconds = 0;
    double others_byte_seconds = 0;  // for each other hand-off that the worker waits for
};

/// Of the steps of a worker that decoded lately, those that had prompt tokens in them, too.
struct MixedSteps {
    double share = 0;    // 0..1, by number
    double seconds = 0;  // mean duration; 0: there was none
    double ratio = 1;    // measured / predicted: what the sum of the models of both phases is off
};

/// What a worker is expected to need. All coefficients are finite and not negative.
struct Costs {
    PrefillCost prefill;
    DecodeCost decode;
    TransferCost transfer;  // into this worker
    MixedSteps mixed = {};
    /// Prefill and decode were learned from steps of this worker or its role: good enough to refuse a request by.
    bool learned = false;
    /// Prefill was: from steps of this worker, its role, or, for a decode worker, those of the workers for prefill.
    bool prefill_learned = false;
};

inline double transfer_seconds(const TransferCost& cost, double bytes, double others = 0) {
    return cost.setup_seconds + bytes * (cost.byte_seconds + cost.others_byte_seconds * others);
}

}  // namespace scheduler
