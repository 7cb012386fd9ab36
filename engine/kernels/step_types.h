#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/ids.h"
#include "base/model_shape.h"
#include "engine/kernels/packing.h"
#include "engine/sampling.h"
#include "kv_cache/kv_store.h"

// What a step is to the operators (backend.h).
namespace engine {

/// One sequence's rows in a batch: rows [row_begin, row_begin + rows) are its tokens at positions
/// [position, position + rows).
struct SequenceRows {
    std::uint32_t row_begin = 0;
    std::uint32_t rows = 0;
    std::uint32_t position = 0;
    std::span<const base::BlockId> blocks;  // cover positions [0, position + rows)
    std::uint32_t sequence = 0;             // its place in StepRows::sequences
};

/// What one step works on. Stays unchanged from begin_step() to end_step().
struct StepRows {
    std::span<const base::TokenId> tokens;           // [rows], sequence after sequence
    std::span<const SequenceRows> sequences;         // cover the rows in order
    std::span<const std::uint32_t> rows_wanted;      // rows whose results are wanted, ascending
    std::span<const SequenceRows> sequences_wanted;  // the same as runs; row_begin counts the wanted rows alone
};

/// Which rows an operator works on: all of a step, or the wanted ones moved to the front (keep_wanted()).
enum class RowSet : std::uint32_t { all, wanted };

/// Rotary tables, made once per model with our own sine and cosine: `[context_tokens][head_dim / 2]` each.
struct RopeTable {
    std::uint32_t head_dim = 0;
    std::vector<float> cosines;
    std::vector<float> sines;
};

/// What a backend keeps at a fixed place for the life of a model. All pointers live longer than the backend's work.
struct ModelLimits {
    const base::ModelShape* shape = nullptr;
    const RopeTable* rope = nullptr;
    const kv_cache::KvStore* kv = nullptr;
    std::uint32_t batch_tokens = 0;                  // rows of a step at most
    std::uint32_t batch_sequences = 0;               // sequences of a step at most
    std::uint32_t logit_rows = 0;                    // rows of logits at a time
    WeightFormat weight_format = WeightFormat::f32;  // of the layers' matrices
};

/// How a step is carried out.
struct StepPlan {
    std::uint32_t rows = 0;  // rows that operators work on; more than the step's where idle rows fill up a bucket
    std::uint32_t rows_wanted = 0;  // the same of the wanted rows
    bool is_replayed = false;       // run() may repeat what it recorded in an earlier step
};

/// How one wanted row of logits becomes a token: a draw, or the log-probability of a given one.
struct RowChoice {
    const SamplerContext* draw = nullptr;  // Sampler::sample(); null: score
    base::TokenId score_target = 0;        // Sampler::score()
    std::uint32_t score_top = 0;
    bool by_caller = false;  // neither: the caller reads this row himself
};

}  // namespace engine
