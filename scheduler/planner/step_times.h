#pragma once

#include <array>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "scheduler/planner/curve.h"

namespace scheduler::planner {

/// Where a number comes from, for people: {"matrices", "measured: h200_gemm.csv, bfloat16"}.
struct Source {
    std::string what;
    std::string from;
    bool operator==(const Source&) const = default;
};

/// New prompt tokens of one sequence in a step, after `before` tokens whose KV is there.
struct PromptChunk {
    double tokens = 0;
    double before = 0;
};

/// What one step computes.
struct StepShape {
    std::span<const PromptChunk> prompts;
    double decode_sequences = 0;
    double decode_context = 0;  // sum of their tokens
    double sampled = 0;         // sequences that get a token: of both kinds
};

/// DistServe's fitted forms in seconds (Zhong et al., OSDI 2024, appendix A, with the coefficients of its simulator):
/// prefill = a + b * sum of lengths + c * sum of squares; decode = a + b * context tokens + c * sequences, in two fits
/// by batch. Ours have a curve for batches besides: kernels of few rows and of more take what no line says.
struct FittedForms {
    using Form = std::array<double, 3>;
    Form prefill{};
    Form decode_small{};
    Form decode_large{};
    double large_from = 0;  // sequences
    Curve batches = {};     // of decode_small, over sequences, in place of a + c * sequences; empty: these

    double prefill_seconds(double tokens, double squares) const {
        return prefill[0] + prefill[1] * tokens + prefill[2] * squares;
    }
    double decode_seconds(double context, double sequences) const {
        if (!batches.empty()) { return batches.at(sequences) + decode_small[1] * context; }
        const Form& form = sequences < large_from ? decode_small : decode_large;
        return form[0] + form[1] * context + form[2] * sequences;
    }
    /// What decoding adds to a step that is there anyway.
    double decode_share_seconds(double context, double sequences) const {
        const bool is_small = !batches.empty() || sequences < large_from;
        return decode_seconds(context, sequences) - (is_small ? decode_small : decode_large)[0];
    }
};

/// Time of a step of one worker (all its GPUs together, all stages one after the other), put together from parts whose
/// tables are looked up once for a model and a split. Seconds everywhere. Immutable once made; pure.
struct StepTimes {
    Curve tokens;   // over tokens of the step: matrices, norms, activations, all-reduces of all layers
    Curve sampled;  // over sequences that get a token: the head, the sampler
    Grid prefill;   // attention of all layers for one chunk: tokens, tokens before
    Grid decode;    // the same for sequences that decode: how many, mean tokens of each
    Grid mixed;     // both in one kernel: tokens of the chunk, sequences, tokens before, mean tokens. Empty: the sum
    std::optional<FittedForms> fitted;  // instead of all of these
    double step_seconds = 0;            // host: of each step
    double sequence_seconds = 0;        // host: of each sequence in it
    std::vector<Source> sources;

    double seconds(const StepShape& step) const;
    /// seconds() of steps that decode the same `sequences` (> 0), all of which get a token, one after the other: the
    /// first with `context` tokens of them in sum, each further one with one more of each. As many as there is room
    /// for.
    void decode_seconds(double sequences, double context, std::span<double> seconds) const;
};

}  // namespace scheduler::planner
