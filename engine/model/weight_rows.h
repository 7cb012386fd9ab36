#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/kernels/packing.h"
#include "engine/model/checkpoint.h"
#include "engine/model/weights.h"

// Reading the tensors that are stacked to make one matrix or vector of a packing plan. They must have been checked
// against the plan (check_tensors()). Internal to this folder.

namespace engine {

/// A tensor, and what its rows are multiplied with.
struct SourceTensor {
    const Tensor* data = nullptr;
    const Tensor* scales = nullptr;  // of F8_E4M3: one for all, for each row, or for each group of a row; else null
};

/// Where a row (or an element of a vector) stands in the file.
std::size_t place_of(const Tensor& tensor, std::size_t row);

/// The tensors of `item`, in its order.
std::vector<SourceTensor> tensors_of(const Checkpoint& checkpoint, const PackedItem& item);

std::size_t element_bytes(SourceFormat format);
/// The format of all of them, or f32 where they differ or are F8_E4M3 or stored in blocks.
SourceFormat common_format(std::span<const SourceTensor> tensors);
/// Whether all of them are F8_E4M3, with scales that those of `item` can hold: coarser ones are repeated.
bool are_stored_fp8(const PackedItem& item, std::span<const SourceTensor> tensors);

/// Stacked vectors as floats; `out` has as many elements as they.
void read_vector(std::span<const SourceTensor> tensors, std::span<float> out);

/// Rows [begin, begin + rows) of the stacked matrices, row-major, in the tensors' own format where all have it, else
/// rounded to nearest even; F8_E4M3 times its scale, blocks multiplied out. `out`: rows * item.inputs elements of
/// `format`.
void read_rows(const PackedItem& item, std::span<const SourceTensor> tensors, std::uint32_t begin, std::uint32_t rows,
               SourceFormat format, std::byte* out);

/// The same of tensors that are all stored as F8_E4M3, as they are; and the scales of all rows, item.scale_count().
void read_rows_fp8(const PackedItem& item, std::span<const SourceTensor> tensors, std::uint32_t begin,
                   std::uint32_t rows, std::byte* out);
void read_scales(const PackedItem& item, std::span<const SourceTensor> tensors, std::span<float> out);

}  // namespace engine
