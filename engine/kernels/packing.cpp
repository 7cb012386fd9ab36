#include "engine/kernels/packing.h"

#include <bit>
#include <cstring>

#include "base/check.h"
#include "engine/kernels/float_formats.h"

namespace engine {
namespace {

constexpr std::size_t kPanel = 16;

std::size_t lanes_of(WeightFormat format, std::uint32_t inputs) {
    return format == WeightFormat::bf16 ? (std::size_t{inputs} + 1) / 2 : inputs;
}

float element(SourceFormat format, const std::byte* source, std::size_t index) {
    if (format == SourceFormat::f32) {
        float value = 0;
        std::memcpy(&value, source + index * 4, 4);
        return value;
    }
    std::uint16_t bits = 0;
    std::memcpy(&bits, source + index * 2, 2);
    return format == SourceFormat::f16 ? float_from_f16(bits) : float_from_bf16(bits);
}

}  // namespace

std::string_view name_of(WeightFormat format) {
    switch (format) {
        case WeightFormat::f32:
            return "f32";
        case WeightFormat::bf16:
            return "bf16";
        case WeightFormat::fp8:
            return "fp8";
    }
    return "?";
}

std::size_t packed_bytes(WeightFormat format, std::uint32_t outputs, std::uint32_t inputs) {
    CHECK(format != WeightFormat::fp8);
    const std::size_t panels = (std::size_t{outputs} + kPanel - 1) / kPanel;
    return panels * lanes_of(format, inputs) * kPanel * 4;
}

void pack_matrix(SourceFormat source_format, const std::byte* source, std::uint32_t outputs, std::uint32_t inputs,
                 WeightFormat format, std::byte* out) {
    CHECK(outputs > 0 && inputs > 0);
    const std::size_t lanes = lanes_of(format, inputs);
    const std::size_t elements = format == WeightFormat::bf16 ? 2 : 1;
    std::memset(out, 0, packed_bytes(format, outputs, inputs));
    for (std::size_t o = 0; o < outputs; ++o) {
        std::byte* panel = out + o / kPanel * lanes * kPanel * 4;
        for (std::size_t i = 0; i < inputs; ++i) {
            const float value = element(source_format, source, o * inputs + i);
            const std::size_t at = (i / elements * kPanel + o % kPanel) * elements + i % elements;
            if (format == WeightFormat::f32) {
                std::memcpy(panel + at * 4, &value, 4);
            } else {
                const std::uint16_t bits = bf16_from_float(value);
                std::memcpy(panel + at * 2, &bits, 2);
            }
        }
    }
}

}  // namespace engine
