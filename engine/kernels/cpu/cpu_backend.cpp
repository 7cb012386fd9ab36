#include "engine/kernels/cpu/cpu_backend.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "engine/kernels/float_formats.h"

namespace engine {
namespace {

/// Raise when any kernel of the fast backends changes its numbers.
constexpr std::uint32_t kNumericsVersion = 1;
/// Elements of light work (norms, rotations) below which a fork and join costs more than it saves (about 1 us).
constexpr std::size_t kLightWork = 16 * 1024;
/// The same for products, in multiply-adds.
constexpr std::size_t kProductWork = 128 * 1024;
/// Tasks a thread: some more than one, so that a thread that is held up can be helped.
constexpr std::uint32_t kTasksPerThread = 4;

std::size_t round_up(std::size_t value, std::size_t multiple) {
    return (value + multiple - 1) / multiple * multiple;
}

std::uint32_t lanes_of(const WeightKernels& kernels, std::uint32_t inputs) {
    return (inputs + kernels.lane_elements - 1) / kernels.lane_elements;
}

std::size_t packed_bytes(const WeightKernels& kernels, std::uint32_t rows, std::uint32_t inputs) {
    return round_up(rows, kernels.row_multiple) * round_up(lanes_of(kernels, inputs), kernels.lane_multiple) *
           kernels.lane_bytes;
}

}  // namespace

CpuBackend::CpuBackend(std::string_view family, const KernelTable& kernels, ThreadPool::Options threads,
                       const BackendOptions& options)
    : family_(family), kernels_(kernels), options_(options), pool_(std::move(threads)) {
    const ComputeMode mode;
    // Processors that round differently inside a bf16 dot product are different families in all but name.
    numerics_version_ = kNumericsVersion + (kernels.probe() & 0xffffff) * 256;
}

const WeightKernels& CpuBackend::kernels_of(WeightFormat format) const {
    CHECK(format != WeightFormat::fp8);
    return format == WeightFormat::bf16 ? kernels_.weights_bf16 : kernels_.weights_f32;
}

const KvKernels& CpuBackend::kernels_of(kv_cache::KvDtype dtype) const {
    return dtype == kv_cache::KvDtype::bf16 ? kernels_.kv_bf16 : kernels_.kv_f32;
}

std::uint32_t CpuBackend::tasks_of(std::uint32_t rows, std::size_t row_cost) const {
    if (rows * row_cost < kLightWork || pool_.threads() == 1) { return 1; }
    return std::min(rows, pool_.threads() * kTasksPerThread);
}

void CpuBackend::embed(const PackedMatrix& table, std::span<const base::TokenId> tokens, void* out_rows) {
    auto* out = static_cast<float*>(out_rows);
    const std::uint32_t e = kernels_of(table.format).lane_elements;
    const std::size_t lanes = (table.inputs + e - 1) / e;
    for_rows(static_cast<std::uint32_t>(tokens.size()), table.inputs, [&](std::uint32_t begin, std::uint32_t end) {
        for (std::uint32_t row = begin; row < end; ++row) {
            CHECK(tokens[row] >= 0 && static_cast<std::uint32_t>(tokens[row]) < table.outputs,
                  "token " << tokens[row] << " of " << table.outputs);
            const auto token = static_cast<std::size_t>(tokens[row]);
            const std::byte* lane =
                table.data + (token / kPanelOutputs * lanes * kPanelOutputs + token % kPanelOutputs) * 4;
            float* to = out + std::size_t{row} * table.inputs;
            for (std::uint32_t i = 0; i < table.inputs; i += e, lane += kPanelRowBytes) {
                if (table.format == WeightFormat::f32) {
                    std::memcpy(to + i, lane, 4);
                    continue;
                }
                std::uint16_t pair[2];
                std::memcpy(pair, lane, 4);
                to[i] = float_from_bf16(pair[0]);
                if (i + 1 < table.inputs) { to[i + 1] = float_from_bf16(pair[1]); }
            }
        }
    });
}

void CpuBackend::rms_norm(const void* x_rows, const float* weight, float eps, std::uint32_t rows, std::uint32_t width,
                          void* out_rows) {
    const auto* x = static_cast<const float*>(x_rows);
    auto* out = static_cast<float*>(out_rows);
    for_rows(rows, width, [&](std::uint32_t begin, std::uint32_t end) {
        for (std::size_t row = begin; row < end; ++row) {
            kernels_.rms_norm(x + row * width, weight, eps, width, out + row * width);
        }
    });
}

void CpuBackend::add_rms_norm(void* residual_rows, const void* delta_rows, const float* weight, float eps,
                              std::uint32_t rows, std::uint32_t width, void* out_rows) {
    auto* residual = static_cast<float*>(residual_rows);
    const auto* delta = static_cast<const float*>(delta_rows);
    auto* out = static_cast<float*>(out_rows);
    for_rows(rows, width, [&](std::uint32_t begin, std::uint32_t end) {
        for (std::size_t row = begin; row < end; ++row) {
            kernels_.add(residual + row * width, delta + row * width, width);
            kernels_.rms_norm(residual + row * width, weight, eps, width, out + row * width);
        }
    });
}

const std::byte* CpuBackend::pack(const PackedMatrix& w, const float* x, std::uint32_t rows, Scratch& scratch) {
    const WeightKernels& kernels = kernels_of(w.format);
    const std::uint32_t row_tiles = (rows + kernels.row_tile_max - 1) / kernels.row_tile_max;
    std::byte* packed = scratch.at_least(packed_bytes(kernels, rows, w.inputs));
    for_rows(row_tiles, std::size_t{kernels.row_tile_max} * w.inputs, [&](std::uint32_t begin, std::uint32_t end) {
        kernels.pack_rows(
            {.x = x, .rows = rows, .inputs = w.inputs, .tile_begin = begin, .tile_end = end, .out = packed});
    });
    return packed;
}

template <class Function>
void CpuBackend::for_panels(std::uint32_t panels, std::uint32_t step, std::size_t work, const Function& function) {
    const std::uint32_t steps = (panels + step - 1) / step;
    std::uint32_t tasks = 1;
    if (pool_.threads() > 1 && work >= kProductWork) {
        tasks = std::min(steps, pool_.threads() * kTasksPerThread);
        if (tasks < pool_.threads() * 2) { tasks = std::min(panels, pool_.threads() * 2); }
    }
    const bool in_steps = tasks <= steps;
    pool_.parallel(tasks, [&](std::uint32_t task) {
        if (in_steps) {
            function(steps * task / tasks * step, std::min(steps * (task + 1) / tasks * step, panels));
        } else {
            function(panels * task / tasks, panels * (task + 1) / tasks);
        }
    });
}

void CpuBackend::multiply(const PackedMatrix& w, const void* packed, std::uint32_t rows, const float* bias, float* y) {
    const WeightKernels& kernels = kernels_of(w.format);
    // Columns are divided in steps of what a tile takes at once (every tile's panel count divides 12 or 8).
    for_panels((w.outputs + kPanelOutputs - 1) / kPanelOutputs, rows <= 3 ? 8 : 6,
               std::size_t{rows} * w.inputs * w.outputs, [&](std::uint32_t begin, std::uint32_t end) {
                   kernels.linear({.x = packed,
                                   .rows = rows,
                                   .lanes = lanes_of(kernels, w.inputs),
                                   .w = w.data,
                                   .outputs = w.outputs,
                                   .panel_begin = begin,
                                   .panel_end = end,
                                   .bias = bias,
                                   .y = y});
               });
}

void CpuBackend::linear(const PackedMatrix& w, const void* x_rows, std::uint32_t rows, const float* bias, void* y_rows,
                        Activation /*kind*/) {
    if (rows == 0) { return; }
    multiply(w, pack(w, static_cast<const float*>(x_rows), rows, activations_), rows, bias,
             static_cast<float*>(y_rows));
}

/// Where there is a kernel for it, gate and up never lie in memory: of a prompt they are the largest of all
/// activations.
void CpuBackend::mlp(const MlpArgs& args) {
    const PackedMatrix& first = *args.gate_up;
    const WeightKernels& kernels = kernels_of(first.format);
    const std::uint32_t lanes = lanes_of(kernels, first.inputs);
    if (args.rows == 0 || kernels.gated == nullptr || args.down->format != first.format ||
        args.down->inputs % kernels.gated_multiple != 0 || std::size_t{args.rows} * lanes > kernels.gated_lanes_max) {
        Backend::mlp(args);
        return;
    }
    const std::byte* packed = pack(first, static_cast<const float*>(args.x), args.rows, activations_);
    std::byte* gated = gated_.at_least(packed_bytes(kernels, args.rows, args.down->inputs));
    for_panels(first.outputs / 2 / kPanelOutputs, 4, std::size_t{args.rows} * first.inputs * first.outputs,
               [&](std::uint32_t begin, std::uint32_t end) {
                   kernels.gated({.product = {.x = packed,
                                              .rows = args.rows,
                                              .lanes = lanes,
                                              .w = first.data,
                                              .outputs = first.outputs,
                                              .panel_begin = begin,
                                              .panel_end = end},
                                  .out = gated});
               });
    multiply(*args.down, gated, args.rows, nullptr, static_cast<float*>(args.y));
}

void CpuBackend::swiglu(const void* gate_up_rows, std::uint32_t rows, std::uint32_t width, void* out_rows) {
    const auto* gate_up = static_cast<const float*>(gate_up_rows);
    auto* out = static_cast<float*>(out_rows);
    for_rows(rows, std::size_t{4} * width, [&](std::uint32_t begin, std::uint32_t end) {
        for (std::size_t row = begin; row < end; ++row) {
            const float* gate = gate_up + row * 2 * width;
            kernels_.swiglu(gate, gate + width, width, out + row * width);
        }
    });
}

void CpuBackend::rope_and_append(const base::ModelShape& shape, const AppendArgs& args) {
    const kv_cache::KvLayout& layout = args.kv->layout();
    CHECK(layout.format().order == tile_order() && shape.head_dim <= kHeadDimMax && shape.head_dim % 2 == 0);
    const KvKernels& kernels = kernels_of(layout.format().dtype);
    const std::size_t q_width = std::size_t{shape.heads_q} * shape.head_dim;
    const std::size_t qkv_width = q_width + std::size_t{2} * shape.heads_kv * shape.head_dim;
    const std::size_t half = shape.head_dim / 2;
    for (const SequenceRows& sequence : args.sequences) {
        for_rows(sequence.rows, qkv_width, [&](std::uint32_t begin, std::uint32_t end) {
            for (std::uint32_t r = begin; r < end; ++r) {
                const std::size_t row = sequence.row_begin + r;
                const std::size_t position = sequence.position + r;
                const base::BlockId block = sequence.blocks[position / layout.block_tokens()];
                kernels.append({.qkv = static_cast<const float*>(args.qkv) + row * qkv_width,
                                .heads_q = shape.heads_q,
                                .heads_kv = shape.heads_kv,
                                .head_dim = shape.head_dim,
                                .cosines = args.rope->cosines.data() + position * half,
                                .sines = args.rope->sines.data() + position * half,
                                .q_norm = args.q_norm,
                                .k_norm = args.k_norm,
                                .norm_eps = args.norm_eps,
                                .q = static_cast<float*>(args.q) + row * q_width,
                                .k_tile = args.kv->tile(block, args.layer, kv_cache::KvPart::k, 0),
                                .v_tile = args.kv->tile(block, args.layer, kv_cache::KvPart::v, 0),
                                .tile_bytes = layout.tile_bytes(),
                                .token = static_cast<std::uint32_t>(position % layout.block_tokens()),
                                .block_tokens = layout.block_tokens()});
            }
        });
    }
}

}  // namespace engine
