#pragma once

namespace scheduler::planner {

/// How much longer a step takes for each other worker that computes on the same machine at that moment, as a share of
/// what it takes alone: they read from one memory. By what the step does (decoding reads all weights for few tokens)
/// and by what the other does. Measured by `sluice bench engine`.
struct Beside {
    double prefill_by_prefill = 0;
    double prefill_by_decode = 0;
    double decode_by_prefill = 0;
    double decode_by_decode = 0;
    bool operator==(const Beside&) const = default;

    bool is_none() const { return *this == Beside{}; }
    /// How many times as long a step takes beside so many others.
    double slowness(bool prefills, double prefilling, double decoding) const {
        return prefills ? 1 + prefilling * prefill_by_prefill + decoding * prefill_by_decode
                        : 1 + prefilling * decode_by_prefill + decoding * decode_by_decode;
    }
};

}  // namespace scheduler::planner
