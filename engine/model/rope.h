#pragma once

#include <cstdint>
#include <vector>

#include "base/model_shape.h"
#include "engine/kernels/step_types.h"

namespace engine {

/// Angle per position of each pair (x[i], x[i + head_dim / 2]): [head_dim / 2], scaled as config.json asks.
/// Rounded to float where Hugging Face rounds, because models were trained with those values.
/// Sources: RoFormer (Su et al., 2021); Llama 3.1's rule `llama3` for long contexts.
std::vector<float> rope_frequencies(const base::ModelShape& shape);

/// Rotary tables for positions [0, positions), with our own sine and cosine: the same bits on every machine.
RopeTable make_rope_table(const base::ModelShape& shape, std::uint32_t positions);

}  // namespace engine
