#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/check.h"
#include "engine/kernels/float_formats.h"
#include "engine/kernels/packing.h"

namespace engine {

/// W[output][input], its scale included: the plain reader of every format and order that is packed, the oracle of the
/// fast ones. Panels: f32 and bf16.
inline double weight_at(const PackedMatrix& w, WeightOrder order, std::size_t output, std::size_t input) {
    std::size_t at = output * w.inputs + input;
    if (order == WeightOrder::panels) {
        CHECK(w.format != WeightFormat::fp8);
        const std::size_t e = w.format == WeightFormat::bf16 ? 2 : 1;
        const std::size_t lanes = (w.inputs + e - 1) / e;
        at = ((output / 16 * lanes + input / e) * 16 + output % 16) * e + input % e;
    }
    if (w.format == WeightFormat::f32) {
        float value = 0;
        std::memcpy(&value, w.data + at * 4, 4);
        return static_cast<double>(value);
    }
    if (w.format == WeightFormat::bf16) {
        std::uint16_t bits = 0;
        std::memcpy(&bits, w.data + at * 2, 2);
        return static_cast<double>(float_from_bf16(bits));
    }
    const float value = float_from_e4m3(std::to_integer<std::uint8_t>(w.data[at]));
    const std::size_t group = w.scale_shape.group_inputs == 0 ? 0 : input / w.scale_shape.group_inputs;
    const float scale = w.scales[output * w.scale_shape.groups(w.inputs) + group];
    return static_cast<double>(value) * static_cast<double>(scale);
}

}  // namespace engine
