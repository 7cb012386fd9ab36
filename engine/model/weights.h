#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/block_hash.h"
#include "base/model_shape.h"
#include "base/result.h"
#include "engine/kernels/packing.h"
#include "engine/model/checkpoint.h"

namespace engine {

/// Weights of one transformer layer. Vectors are float; those a family lacks are null.
struct LayerWeights {
    const float* attention_norm = nullptr;  // [hidden]
    PackedMatrix qkv;                       // [(heads_q + 2 * heads_kv) * head_dim, hidden]
    const float* qkv_bias = nullptr;        // [(heads_q + 2 * heads_kv) * head_dim]
    const float* q_norm = nullptr;          // [head_dim]
    const float* k_norm = nullptr;          // [head_dim]
    PackedMatrix output;                    // [hidden, heads_q * head_dim]
    const float* output_bias = nullptr;     // [hidden]
    const float* mlp_norm = nullptr;        // [hidden]
    PackedMatrix gate_up;                   // [2 * intermediate, hidden]
    PackedMatrix down;                      // [hidden, intermediate]
};

/// All weights of a model; borrowed from a mapped file, or from the memory of a device.
struct Weights {
    PackedMatrix embedding;  // [vocabulary, hidden]
    std::vector<LayerWeights> layers;
    const float* final_norm = nullptr;  // [hidden]
    PackedMatrix head;                  // [vocabulary, hidden]; the embedding itself where they are tied
};

/// One matrix (inputs > 0) or float vector (inputs == 0) of a packed file, and the tensors of the checkpoint that are
/// stacked along the outputs to make it.
struct PackedItem {
    struct Source {
        std::string tensor;
        std::uint32_t outputs = 0;
    };
    std::string name;  // "layers.3.qkv"
    std::vector<Source> sources;
    WeightFormat format = WeightFormat::f32;  // of a matrix
    std::uint32_t outputs = 0;
    std::uint32_t inputs = 0;
    std::uint64_t offset = 0;  // in the file; a multiple of kPackedAlignment
    std::uint64_t bytes = 0;   // of all of it; fp8: [outputs][inputs] bytes, then the scales as floats
    ScaleShape scale_shape;    // fp8

    /// fp8: [outputs, groups].
    std::uint64_t scale_count() const { return std::uint64_t{outputs} * scale_shape.groups(inputs); }
    /// fp8: where the scales begin, from `offset` on.
    std::uint64_t scales_offset() const { return std::uint64_t{outputs} * inputs; }
};

inline constexpr std::uint64_t kPackedAlignment = 4096;  // a page: also where the first item begins, behind the header

/// What a packed file of a model holds and where: follows from shape and format alone.
struct PackingPlan {
    WeightFormat format = WeightFormat::f32;  // of the layers' matrices; with fp8 the other ones are bf16
    WeightOrder order = WeightOrder::panels;
    std::vector<PackedItem> items;  // embedding, layer after layer, final norm, head
    std::uint64_t file_bytes = 0;

    /// Of names, sizes and places.
    base::BlockHash fingerprint() const;
};

/// fp8 goes with row_major only; `scale_shape` is of its scales.
PackingPlan plan_packing(const base::ModelShape& shape, WeightFormat format, WeightOrder order = WeightOrder::panels,
                         ScaleShape scale_shape = {});

/// Error: unimplemented for a matrix in fp8 whose inputs are no multiple of 16, or of a group, with its name.
base::Result<void> check_fp8_widths(const PackingPlan& plan);

/// Every tensor that the plan needs is there, in F32, F16 or BF16 and in the right shape; matrices also in F8_E4M3 with
/// scales beside them (find_scales()), or in blocks (Tensor::blocks). Error: data_loss for a missing one, one of
/// another shape (with both), unimplemented for another dtype, or for other scales than one for all, one per output, or
/// one per output and group of inputs.
base::Result<void> check_tensors(const Checkpoint& checkpoint, const PackingPlan& plan);

/// The scales of a matrix in F8_E4M3, one element, [outputs], or [outputs, groups of inputs]: "q_proj.weight_scale" of
/// "q_proj.weight". Null where there are none. Source: the compressed-tensors format "float-quantized", whose
/// strategies "tensor", "channel" and "group" these are.
const Tensor* find_scales(const Checkpoint& checkpoint, const std::string& tensor);

/// What `weight_format: auto` means: BF16 where every matrix is stored so or in FP8, or any in blocks, else F32. The
/// plan's tensors must be there.
WeightFormat stored_format(const Checkpoint& checkpoint, const PackingPlan& plan);

/// Points into the bytes of a packed file or of uploaded weights, which must have the plan's size and live longer.
Weights bind_weights(const base::ModelShape& shape, const PackingPlan& plan, const std::byte* file);

}  // namespace engine
