#pragma once

#include <cstddef>
#include <span>

#include "base/gguf.h"

namespace engine {

/// Whether dequantize_row() knows `type`: F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K, IQ4_NL, IQ4_XS.
bool can_dequantize(const base::GgufTensorType& type);

/// Multiplies out whole blocks as the format defines it, in float and in its order of operations: the bits of the
/// `gguf` Python package. `row`: out.size() / type.block_elements blocks of a type that can be.
void dequantize_row(const base::GgufTensorType& type, std::span<const std::byte> row, std::span<float> out);

}  // namespace engine
