#include "engine/model/weight_rows.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "engine/kernels/float_formats.h"
#include "engine/model/gguf_blocks.h"

namespace engine {
namespace {

bool is_fp8(const Tensor& tensor) {
    return tensor.dtype == "F8_E4M3";
}

bool is_plain(const Tensor& tensor) {
    return !is_fp8(tensor) && tensor.blocks == nullptr;
}

SourceFormat source_format(const Tensor& tensor) {
    if (tensor.dtype == "F32") { return SourceFormat::f32; }
    if (tensor.dtype == "F16") { return SourceFormat::f16; }
    CHECK(tensor.dtype == "BF16", tensor.dtype);
    return SourceFormat::bf16;
}

/// `count` elements from `first` on, as floats; F8_E4M3 without its scale. In blocks: whole ones.
void read_floats(const Tensor& tensor, std::size_t first, std::size_t count, float* out) {
    if (is_fp8(tensor)) {
        std::transform(tensor.bytes.begin() + static_cast<std::ptrdiff_t>(first),
                       tensor.bytes.begin() + static_cast<std::ptrdiff_t>(first + count), out,
                       [](std::byte bits) { return float_from_e4m3(std::to_integer<std::uint8_t>(bits)); });
        return;
    }
    if (tensor.blocks != nullptr) {
        const std::size_t begin = first / tensor.blocks->block_elements * tensor.blocks->block_bytes;
        const std::size_t bytes = count / tensor.blocks->block_elements * tensor.blocks->block_bytes;
        dequantize_row(*tensor.blocks, tensor.bytes.subspan(begin, bytes), {out, count});
        return;
    }
    const SourceFormat format = source_format(tensor);
    const std::byte* in = tensor.bytes.data() + first * element_bytes(format);
    if (format == SourceFormat::f32) {
        std::memcpy(out, in, count * sizeof(float));
        return;
    }
    for (std::size_t i = 0; i < count; ++i) {
        std::uint16_t half = 0;
        std::memcpy(&half, in + 2 * i, 2);
        out[i] = format == SourceFormat::f16 ? float_from_f16(half) : float_from_bf16(half);
    }
}

/// Of one row of a tensor in F8_E4M3, how many scales there are.
std::size_t scale_groups(const SourceTensor& tensor) {
    const std::vector<std::uint64_t>& lengths = tensor.scales->shape;
    return lengths.size() == 2 ? lengths[1] : 1;
}

/// The scales of one row of a tensor in F8_E4M3; `out` has a multiple of scale_groups() elements.
void read_row_scales(const SourceTensor& tensor, std::size_t row, std::span<float> out) {
    const std::vector<std::uint64_t>& lengths = tensor.scales->shape;
    const bool is_one = std::all_of(lengths.begin(), lengths.end(), [](std::uint64_t length) { return length == 1; });
    const std::size_t groups = scale_groups(tensor);
    CHECK(out.size() % groups == 0, out.size() << " scales of " << groups);
    const std::size_t repeats = out.size() / groups;
    for (std::size_t group = 0; group < groups; ++group) {
        float scale = 0;
        read_floats(*tensor.scales, is_one ? 0 : row * groups + group, 1, &scale);
        std::fill_n(out.begin() + static_cast<std::ptrdiff_t>(group * repeats), repeats, scale);
    }
}

/// Calls take(i, tensor, its row) for i in [0, rows): row begin + i of the stacked tensors.
template <class Take>
void for_rows(const PackedItem& item, std::span<const SourceTensor> tensors, std::uint32_t begin, std::uint32_t rows,
              const Take& take) {
    std::size_t part = 0;
    std::uint32_t part_begin = 0;
    for (std::uint32_t i = 0; i < rows; ++i) {
        while (begin + i - part_begin >= item.sources[part].outputs) {
            part_begin += item.sources[part++].outputs;
        }
        take(std::size_t{i}, tensors[part], std::size_t{begin + i - part_begin});
    }
}

}  // namespace

std::size_t place_of(const Tensor& tensor, std::size_t row) {
    if (tensor.pair_heads == 0) { return row; }
    const std::size_t head_rows = tensor.shape[0] / tensor.pair_heads;
    const std::size_t in_head = row % head_rows;
    const std::size_t half = in_head / (head_rows / 2);
    return row - in_head + 2 * (in_head % (head_rows / 2)) + half;
}

std::vector<SourceTensor> tensors_of(const Checkpoint& checkpoint, const PackedItem& item) {
    std::vector<SourceTensor> tensors;
    for (const auto& source : item.sources) {
        SourceTensor tensor{.data = checkpoint.find(source.tensor), .scales = nullptr};
        CHECK(tensor.data != nullptr, source.tensor);
        if (is_fp8(*tensor.data)) {
            tensor.scales = find_scales(checkpoint, source.tensor);
            CHECK(tensor.scales != nullptr, source.tensor);
        }
        tensors.push_back(tensor);
    }
    return tensors;
}

std::size_t element_bytes(SourceFormat format) {
    return format == SourceFormat::f32 ? 4 : 2;
}

SourceFormat common_format(std::span<const SourceTensor> tensors) {
    const std::string& dtype = tensors[0].data->dtype;
    const bool same = std::all_of(tensors.begin(), tensors.end(),
                                  [&](const SourceTensor& tensor) { return tensor.data->dtype == dtype; });
    return same && is_plain(*tensors[0].data) ? source_format(*tensors[0].data) : SourceFormat::f32;
}

bool are_stored_fp8(const PackedItem& item, std::span<const SourceTensor> tensors) {
    const std::uint32_t groups = item.scale_shape.groups(item.inputs);
    return std::all_of(tensors.begin(), tensors.end(), [groups](const SourceTensor& tensor) {
        return is_fp8(*tensor.data) && groups % scale_groups(tensor) == 0;
    });
}

void read_vector(std::span<const SourceTensor> tensors, std::span<float> out) {
    std::size_t filled = 0;
    for (const SourceTensor& tensor : tensors) {
        const std::size_t count = tensor.data->shape[0];
        if (tensor.data->pair_heads == 0) { read_floats(*tensor.data, 0, count, out.data() + filled); }
        for (std::size_t i = 0; tensor.data->pair_heads > 0 && i < count; ++i) {
            read_floats(*tensor.data, place_of(*tensor.data, i), 1, out.data() + filled + i);
        }
        filled += count;
    }
    CHECK(filled == out.size());
}

void read_rows(const PackedItem& item, std::span<const SourceTensor> tensors, std::uint32_t begin, std::uint32_t rows,
               SourceFormat format, std::byte* out) {
    const std::size_t row_bytes = item.inputs * element_bytes(format);
    std::vector<float> floats(item.inputs);
    std::vector<float> scales;
    for_rows(item, tensors, begin, rows, [&](std::size_t i, const SourceTensor& tensor, std::size_t row) {
        std::byte* const to = out + i * row_bytes;
        const std::size_t place = place_of(*tensor.data, row);
        if (is_plain(*tensor.data) && source_format(*tensor.data) == format) {
            std::memcpy(to, tensor.data->bytes.data() + place * row_bytes, row_bytes);
            return;
        }
        CHECK(format != SourceFormat::f16);
        read_floats(*tensor.data, place * item.inputs, item.inputs, floats.data());
        if (is_fp8(*tensor.data)) {
            scales.resize(scale_groups(tensor));
            read_row_scales(tensor, row, scales);
            const std::size_t group_inputs = floats.size() / scales.size();
            for (std::size_t k = 0; k < floats.size(); ++k) {
                floats[k] *= scales[k / group_inputs];
            }
        }
        if (format == SourceFormat::f32) {
            std::memcpy(to, floats.data(), row_bytes);
            return;
        }
        for (std::size_t k = 0; k < floats.size(); ++k) {
            const std::uint16_t bits = bf16_from_float(floats[k]);
            std::memcpy(to + 2 * k, &bits, 2);
        }
    });
}

void read_rows_fp8(const PackedItem& item, std::span<const SourceTensor> tensors, std::uint32_t begin,
                   std::uint32_t rows, std::byte* out) {
    const std::size_t row_bytes = item.inputs;
    for_rows(item, tensors, begin, rows, [&](std::size_t i, const SourceTensor& tensor, std::size_t row) {
        std::memcpy(out + i * row_bytes, tensor.data->bytes.data() + row * row_bytes, row_bytes);
    });
}

void read_scales(const PackedItem& item, std::span<const SourceTensor> tensors, std::span<float> out) {
    CHECK(out.size() == item.scale_count());
    const std::size_t groups = item.scale_shape.groups(item.inputs);
    for_rows(item, tensors, 0, item.outputs, [&](std::size_t i, const SourceTensor& tensor, std::size_t row) {
        read_row_scales(tensor, row, out.subspan(i * groups, groups));
    });
}

}  // namespace engine
