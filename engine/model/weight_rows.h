#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/kernels/backend.h"
#include "engine/model/checkpoint.h"
#include "engine/model/weights.h"

// Reading the tensors that are stacked to make one matrix or vector of a packing plan. They must have been checked
// against the plan (check_tensors()). Internal to this folder.

namespace engine {

/// The tensors of `item`, in its order.
std::vector<const Tensor*> tensors_of(const Checkpoint& checkpoint, const PackedItem& item);

std::size_t element_bytes(SourceFormat format);
/// The format of all of them, or f32 where they differ.
SourceFormat common_format(std::span<const Tensor* const> tensors);

/// Stacked vectors as floats; `out` has as many elements as they.
void read_vector(std::span<const Tensor* const> tensors, std::span<float> out);

/// Rows [begin, begin + rows) of the stacked matrices, row-major, in the tensors' own format where all have it, else
/// rounded to nearest even. `out`: rows * item.inputs elements of `format`.
void read_rows(const PackedItem& item, std::span<const Tensor* const> tensors, std::uint32_t begin, std::uint32_t rows,
               SourceFormat format, std::byte* out);

}  // namespace engine
