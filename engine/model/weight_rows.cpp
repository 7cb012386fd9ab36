#include "engine/model/weight_rows.h"

#include <cstring>

#include "base/check.h"
#include "engine/kernels/float_formats.h"

namespace engine {
namespace {

SourceFormat source_format(const Tensor& tensor) {
    if (tensor.dtype == "F32") { return SourceFormat::f32; }
    if (tensor.dtype == "F16") { return SourceFormat::f16; }
    CHECK(tensor.dtype == "BF16", tensor.dtype);
    return SourceFormat::bf16;
}

/// `count` elements from `first` on, as floats.
void read_floats(const Tensor& tensor, std::size_t first, std::size_t count, float* out) {
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

}  // namespace

std::vector<const Tensor*> tensors_of(const Checkpoint& checkpoint, const PackedItem& item) {
    std::vector<const Tensor*> tensors;
    for (const auto& source : item.sources) {
        tensors.push_back(checkpoint.find(source.tensor));
        CHECK(tensors.back() != nullptr, source.tensor);
    }
    return tensors;
}

std::size_t element_bytes(SourceFormat format) {
    return format == SourceFormat::f32 ? 4 : 2;
}

SourceFormat common_format(std::span<const Tensor* const> tensors) {
    const SourceFormat format = source_format(*tensors[0]);
    for (const Tensor* tensor : tensors) {
        if (source_format(*tensor) != format) { return SourceFormat::f32; }
    }
    return format;
}

void read_vector(std::span<const Tensor* const> tensors, std::span<float> out) {
    std::size_t filled = 0;
    for (const Tensor* tensor : tensors) {
        read_floats(*tensor, 0, tensor->shape[0], out.data() + filled);
        filled += tensor->shape[0];
    }
    CHECK(filled == out.size());
}

void read_rows(const PackedItem& item, std::span<const Tensor* const> tensors, std::uint32_t begin, std::uint32_t rows,
               SourceFormat format, std::byte* out) {
    const std::size_t row_bytes = item.inputs * element_bytes(format);
    std::vector<float> floats;
    std::size_t part = 0;
    std::uint32_t part_begin = 0;
    for (std::uint32_t i = 0; i < rows; ++i, out += row_bytes) {
        while (begin + i - part_begin >= item.sources[part].outputs) {
            part_begin += item.sources[part++].outputs;
        }
        const std::size_t row = begin + i - part_begin;
        const Tensor& tensor = *tensors[part];
        if (source_format(tensor) == format) {
            std::memcpy(out, tensor.bytes.data() + row * row_bytes, row_bytes);
            continue;
        }
        CHECK(format != SourceFormat::f16);
        if (format == SourceFormat::f32) {
            read_floats(tensor, row * item.inputs, item.inputs, reinterpret_cast<float*>(out));
            continue;
        }
        floats.resize(item.inputs);
        read_floats(tensor, row * item.inputs, item.inputs, floats.data());
        for (std::size_t k = 0; k < floats.size(); ++k) {
            const std::uint16_t bits = bf16_from_float(floats[k]);
            std::memcpy(out + 2 * k, &bits, 2);
        }
    }
}

}  // namespace engine
