#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace engine {

/// How the matrices of a model are stored after packing. fp8: those of the layers as e4m3 with one scale per output,
/// multiplied with activations that are rounded the same way, row by row; embedding and head stay bf16
/// (docs/decisions/0013-fp8-weights.md).
enum class WeightFormat : std::uint32_t { f32 = 0, bf16 = 1, fp8 = 2 };
std::string_view name_of(WeightFormat format);  // as settings spell it: "bf16"

/// In which order.
/// panels: one order for all CPU backends, so that they share one file: outputs in panels of 16 (the last one padded
/// with zeros), `[panel][inputs / e][16][e]` with e = 2 for bf16 (the pair that one vdpbf16ps lane takes; an odd number
/// of inputs is padded with a zero) and e = 1 for f32. row_major: `[outputs][inputs]`, as in checkpoints; CUDA.
enum class WeightOrder : std::uint32_t { panels = 0, row_major = 1 };

/// Numbers that weights are multiplied with: one for each output, or one for each group of neighbouring inputs of it.
struct ScaleShape {
    std::uint32_t group_inputs = 0;  // a multiple of 16 that divides the inputs; 0: all inputs of an output

    /// Of one output.
    std::uint32_t groups(std::uint32_t inputs) const { return group_inputs == 0 ? 1 : inputs / group_inputs; }
    bool operator==(const ScaleShape&) const = default;
};

/// A weight matrix `[outputs, inputs]` in the backend's order, in a mapped file or in the memory of its device;
/// borrowed, read-only.
struct PackedMatrix {
    WeightFormat format = WeightFormat::f32;
    std::uint32_t outputs = 0;
    std::uint32_t inputs = 0;
    const std::byte* data = nullptr;  // 64-byte aligned
    /// fp8: [outputs, scale_shape.groups(inputs)]; else null.
    const float* scales = nullptr;
    ScaleShape scale_shape = {};
};

/// Bytes of the packed form in panels, of f32 or bf16.
std::size_t packed_bytes(WeightFormat format, std::uint32_t outputs, std::uint32_t inputs);

/// Packs rows [output_begin, output_begin + outputs) of a row-major checkpoint matrix. `source`: [outputs, inputs] of
/// f32, f16 or bf16 (`source_format`), `out`: packed_bytes(...) bytes. Rounds to nearest even where precision is lost.
enum class SourceFormat : std::uint32_t { f32, f16, bf16 };
void pack_matrix(SourceFormat source_format, const std::byte* source, std::uint32_t outputs, std::uint32_t inputs,
                 WeightFormat format, std::byte* out);

}  // namespace engine
