#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "base/result.h"
#include "engine/model/checkpoint.h"
#include "engine/model/weight_rows.h"
#include "engine/model/weights.h"

// Weights that no model has: NaN, infinities and numbers beyond kWeightMax, with which every answer would be an error.
// Checked while weights are read to be packed or uploaded, when they are in the cache anyway. Internal to this folder.
namespace engine {

/// Far above every known weight, and far below where products of a few of them stop being finite.
inline constexpr float kWeightMax = 1e8f;

/// The index of the first of the elements (of `format`) that is none, or is larger than kWeightMax either way.
std::optional<std::size_t> find_bad_weight(std::span<const std::byte> elements, SourceFormat format);
/// The same of e4m3, which knows no infinities.
std::optional<std::size_t> find_bad_fp8(std::span<const std::byte> elements);

/// Checks `elements`, which are rows [begin, ..) of the stacked tensors as read_rows() gives them, or all of a vector
/// (read_vector()). Error: data_loss with file, tensor, element and value.
base::Result<void> check_weights(const Checkpoint& checkpoint, const PackedItem& item,
                                 std::span<const SourceTensor> tensors, std::uint32_t begin,
                                 std::span<const std::byte> elements, SourceFormat format);
/// The same of what read_rows_fp8() gives.
base::Result<void> check_weights_fp8(const Checkpoint& checkpoint, const PackedItem& item,
                                     std::span<const SourceTensor> tensors, std::uint32_t begin,
                                     std::span<const std::byte> elements);
/// The same of read_scales().
base::Result<void> check_scale_values(const Checkpoint& checkpoint, const PackedItem& item,
                                      std::span<const SourceTensor> tensors, std::span<const float> scales);

}  // namespace engine
