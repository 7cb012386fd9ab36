#include "engine/model/weight_check.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>

#include "engine/kernels/float_formats.h"

namespace engine {
namespace {

using base::ErrorCode;
using base::Result;

/// Of the magnitudes' bits, which order as the magnitudes do; infinities and NaN are above all.
constexpr std::int32_t kMaxF32 = std::bit_cast<std::int32_t>(kWeightMax);
constexpr std::int16_t kMaxBf16 = static_cast<std::int16_t>(kMaxF32 >> 16);
constexpr std::int16_t kMaxF16 = 0x7bff;  // the largest one: below kWeightMax

/// Blocks of a fixed length, so that the compiler makes vectors of them; the first bad one of a block is looked for
/// again.
template <class Bits>
std::optional<std::size_t> find_above(std::span<const std::byte> elements, Bits mask, Bits most) {
    constexpr std::size_t kBlock = 1024;
    const std::size_t count = elements.size() / sizeof(Bits);
    Bits block[kBlock] = {};
    for (std::size_t begin = 0; begin < count; begin += kBlock) {
        const std::size_t size = std::min(kBlock, count - begin);
        std::memcpy(block, elements.data() + begin * sizeof(Bits), size * sizeof(Bits));
        Bits worst = 0;
        for (std::size_t i = 0; i < kBlock;
             ++i) {  // behind the last element: those of the block before, which are good
            worst = static_cast<Bits>(worst | ((block[i] & mask) > most ? Bits{1} : Bits{0}));
        }
        if (worst == 0) { continue; }
        const auto bad = std::find_if(block, block + size, [&](Bits bits) { return (bits & mask) > most; });
        return begin + static_cast<std::size_t>(bad - block);
    }
    return std::nullopt;
}

float value_at(std::span<const std::byte> elements, SourceFormat format, std::size_t index) {
    std::uint32_t bits = 0;
    std::memcpy(&bits, elements.data() + index * element_bytes(format), element_bytes(format));
    if (format == SourceFormat::f32) { return std::bit_cast<float>(bits); }
    const auto half = static_cast<std::uint16_t>(bits);
    return format == SourceFormat::f16 ? float_from_f16(half) : float_from_bf16(half);
}

/// What is wrong with the element in column `column` of row `row` of the stacked tensors.
base::Error describe(const Checkpoint& checkpoint, const PackedItem& item, std::span<const SourceTensor> tensors,
                     std::size_t row, std::optional<std::size_t> column, float value, const std::string& suffix = {}) {
    std::size_t part = 0;
    while (row >= item.sources[part].outputs) {
        row -= item.sources[part++].outputs;
    }
    const Tensor& tensor = *tensors[part].data;
    std::string element = "[" + std::to_string(place_of(tensor, row));
    if (column) { element += ", " + std::to_string(*column); }
    const std::string file = checkpoint.file_of(tensor);
    return {ErrorCode::data_loss, file + (file.empty() ? "" : ": ") + "tensor " + item.sources[part].tensor + suffix +
                                      ": element " + element + "] is " + std::to_string(value) +
                                      ", which is no weight: must be a number of at most 1e8 either way. The file is "
                                      "damaged, or the model was never whole"};
}

}  // namespace

std::optional<std::size_t> find_bad_weight(std::span<const std::byte> elements, SourceFormat format) {
    switch (format) {
        case SourceFormat::f32:
            return find_above<std::int32_t>(elements, 0x7fffffff, kMaxF32);
        case SourceFormat::f16:
            return find_above<std::int16_t>(elements, 0x7fff, kMaxF16);
        case SourceFormat::bf16:
            break;
    }
    return find_above<std::int16_t>(elements, 0x7fff, kMaxBf16);
}

std::optional<std::size_t> find_bad_fp8(std::span<const std::byte> elements) {
    return find_above<std::int8_t>(elements, 0x7f, 0x7e);
}

Result<void> check_weights(const Checkpoint& checkpoint, const PackedItem& item, std::span<const SourceTensor> tensors,
                           std::uint32_t begin, std::span<const std::byte> elements, SourceFormat format) {
    const auto bad = find_bad_weight(elements, format);
    if (!bad) { return {}; }
    const float value = value_at(elements, format, *bad);
    if (item.inputs == 0) { return tl::unexpected(describe(checkpoint, item, tensors, begin + *bad, {}, value)); }
    return tl::unexpected(describe(checkpoint, item, tensors, begin + *bad / item.inputs, *bad % item.inputs, value));
}

Result<void> check_weights_fp8(const Checkpoint& checkpoint, const PackedItem& item,
                               std::span<const SourceTensor> tensors, std::uint32_t begin,
                               std::span<const std::byte> elements) {
    const auto bad = find_bad_fp8(elements);
    if (!bad) { return {}; }
    const float value = float_from_e4m3(std::to_integer<std::uint8_t>(elements[*bad]));
    return tl::unexpected(describe(checkpoint, item, tensors, begin + *bad / item.inputs, *bad % item.inputs, value));
}

Result<void> check_scale_values(const Checkpoint& checkpoint, const PackedItem& item,
                                std::span<const SourceTensor> tensors, std::span<const float> scales) {
    const auto bad = find_bad_weight(std::as_bytes(scales), SourceFormat::f32);
    if (!bad) { return {}; }
    const std::size_t groups = item.scale_shape.groups(item.inputs);
    return tl::unexpected(describe(checkpoint, item, tensors, *bad / groups, *bad % groups, scales[*bad], "_scale"));
}

}  // namespace engine
