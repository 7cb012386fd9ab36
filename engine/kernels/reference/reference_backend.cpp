#include "engine/kernels/reference/reference_backend.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/check.h"
#include "engine/exact_math.h"
#include "engine/kernels/float_formats.h"
#include "engine/kernels/weight_at.h"

namespace engine {
namespace {

void store_kv(kv_cache::KvDtype dtype, float value, std::byte* to) {
    if (dtype == kv_cache::KvDtype::f32) {
        std::memcpy(to, &value, 4);
    } else {
        const std::uint16_t bits = bf16_from_float(value);
        std::memcpy(to, &bits, 2);
    }
}

double load_kv(kv_cache::KvDtype dtype, const std::byte* from) {
    if (dtype == kv_cache::KvDtype::f32) {
        float value = 0;
        std::memcpy(&value, from, 4);
        return value;
    }
    std::uint16_t bits = 0;
    std::memcpy(&bits, from, 2);
    return float_from_bf16(bits);
}

void norm_row(const float* x, const float* weight, double eps, std::size_t width, float* out) {
    double squares = 0;
    for (std::size_t i = 0; i < width; ++i) {
        squares += double{x[i]} * x[i];
    }
    const double scale = 1.0 / std::sqrt(squares / static_cast<double>(width) + eps);
    for (std::size_t i = 0; i < width; ++i) {
        out[i] = static_cast<float>(x[i] * scale * weight[i]);
    }
}

void rotate_head(const AppendArgs& args, const float* x, const float* norm, std::size_t position, std::size_t head_dim,
                 float* out) {
    std::vector<float> head(x, x + head_dim);
    if (norm != nullptr) { norm_row(x, norm, args.norm_eps, head_dim, head.data()); }
    const std::size_t half = head_dim / 2;
    for (std::size_t i = 0; i < half; ++i) {
        const double c = args.rope->cosines[position * half + i];
        const double s = args.rope->sines[position * half + i];
        out[i] = static_cast<float>(head[i] * c - head[half + i] * s);
        out[half + i] = static_cast<float>(head[half + i] * c + head[i] * s);
    }
}

}  // namespace

void ReferenceBackend::embed(const PackedMatrix& table, std::span<const base::TokenId> tokens, void* out_rows) {
    auto* out = static_cast<float*>(out_rows);
    for (std::size_t row = 0; row < tokens.size(); ++row) {
        CHECK(tokens[row] >= 0 && static_cast<std::uint32_t>(tokens[row]) < table.outputs,
              "token " << tokens[row] << " of " << table.outputs);
        for (std::size_t i = 0; i < table.inputs; ++i) {
            out[row * table.inputs + i] =
                static_cast<float>(weight_at(table, weight_order(), static_cast<std::size_t>(tokens[row]), i));
        }
    }
}

void ReferenceBackend::rms_norm(const void* x_rows, const float* weight, float eps, std::uint32_t rows,
                                std::uint32_t width, void* out_rows) {
    const auto* x = static_cast<const float*>(x_rows);
    auto* out = static_cast<float*>(out_rows);
    for (std::size_t row = 0; row < rows; ++row) {
        norm_row(x + row * width, weight, eps, width, out + row * width);
    }
}

void ReferenceBackend::add_rms_norm(void* residual_rows, const void* delta_rows, const float* weight, float eps,
                                    std::uint32_t rows, std::uint32_t width, void* out_rows) {
    auto* residual = static_cast<float*>(residual_rows);
    const auto* delta = static_cast<const float*>(delta_rows);
    auto* out = static_cast<float*>(out_rows);
    for (std::size_t i = 0; i < std::size_t{rows} * width; ++i) {
        residual[i] += delta[i];
    }
    rms_norm(residual, weight, eps, rows, width, out);
}

void ReferenceBackend::linear(const PackedMatrix& w, const void* x_rows, std::uint32_t rows, const float* bias,
                              void* y_rows, Activation /*kind*/) {
    const auto* x = static_cast<const float*>(x_rows);
    auto* y = static_cast<float*>(y_rows);
    for (std::size_t row = 0; row < rows; ++row) {
        for (std::size_t o = 0; o < w.outputs; ++o) {
            double sum = 0;
            for (std::size_t i = 0; i < w.inputs; ++i) {
                sum += x[row * w.inputs + i] * weight_at(w, weight_order(), o, i);
            }
            if (bias != nullptr) { sum += bias[o]; }
            y[row * w.outputs + o] = static_cast<float>(sum);
        }
    }
}

void ReferenceBackend::swiglu(const void* gate_up_rows, std::uint32_t rows, std::uint32_t width, void* out_rows) {
    const auto* gate_up = static_cast<const float*>(gate_up_rows);
    auto* out = static_cast<float*>(out_rows);
    for (std::size_t row = 0; row < rows; ++row) {
        for (std::size_t i = 0; i < width; ++i) {
            const double gate = gate_up[row * 2 * width + i];
            const double sigmoid = gate < -700 ? 0 : 1.0 / (1.0 + exact::exp(-gate));
            out[row * width + i] = static_cast<float>(gate * sigmoid * gate_up[row * 2 * width + width + i]);
        }
    }
}

void ReferenceBackend::rope_and_append(const base::ModelShape& shape, const AppendArgs& args) {
    const kv_cache::KvLayout& layout = args.kv->layout();
    const kv_cache::KvDtype dtype = layout.format().dtype;
    const std::size_t d = shape.head_dim;
    const std::size_t heads = shape.heads_q + std::size_t{2} * shape.heads_kv;
    std::vector<float> rotated(d);
    for (const SequenceRows& sequence : args.sequences) {
        for (std::size_t r = 0; r < sequence.rows; ++r) {
            const std::size_t position = sequence.position + r;
            const std::size_t row = sequence.row_begin + r;
            const float* qkv = static_cast<const float*>(args.qkv) + row * heads * d;
            for (std::size_t h = 0; h < shape.heads_q; ++h) {
                rotate_head(args, qkv + h * d, args.q_norm, position, d,
                            static_cast<float*>(args.q) + (row * shape.heads_q + h) * d);
            }
            const auto token = static_cast<std::uint32_t>(position % layout.block_tokens());
            std::byte* block = args.kv->block(sequence.blocks[position / layout.block_tokens()]);
            for (std::uint32_t h = 0; h < shape.heads_kv; ++h) {
                rotate_head(args, qkv + (shape.heads_q + h) * d, args.k_norm, position, d, rotated.data());
                const float* v = qkv + (std::size_t{shape.heads_q} + shape.heads_kv + h) * d;
                for (std::uint32_t i = 0; i < d; ++i) {
                    using kv_cache::KvPart;
                    store_kv(dtype, rotated[i], block + layout.element_offset(args.layer, KvPart::k, h, token, i));
                    store_kv(dtype, v[i], block + layout.element_offset(args.layer, KvPart::v, h, token, i));
                }
            }
        }
    }
}

void ReferenceBackend::attention(const base::ModelShape& shape, const AttentionArgs& args) {
    const kv_cache::KvLayout& layout = args.kv->layout();
    const kv_cache::KvDtype dtype = layout.format().dtype;
    const std::size_t d = shape.head_dim;
    const std::uint32_t group = shape.heads_q / shape.heads_kv;
    const auto* q = static_cast<const float*>(args.q);
    auto* attended = static_cast<float*>(args.out);
    for (const SequenceRows& sequence : args.sequences) {
        for (std::uint32_t r = 0; r < sequence.rows; ++r) {
            for (std::uint32_t h = 0; h < shape.heads_q; ++h) {
                const std::size_t at = ((std::size_t{sequence.row_begin} + r) * shape.heads_q + h) * d;
                const std::uint32_t keys = sequence.position + r + 1;
                const auto element = [&](kv_cache::KvPart part, std::uint32_t key, std::uint32_t i) {
                    const base::BlockId block = sequence.blocks[key / layout.block_tokens()];
                    return load_kv(
                        dtype, args.kv->block(block) +
                                   layout.element_offset(args.layer, part, h / group, key % layout.block_tokens(), i));
                };
                std::vector<double> weights(keys);
                double largest = -INFINITY;
                for (std::uint32_t key = 0; key < keys; ++key) {
                    double score = 0;
                    for (std::uint32_t i = 0; i < d; ++i) {
                        score += q[at + i] * element(kv_cache::KvPart::k, key, i);
                    }
                    weights[key] = score * args.scale;
                    largest = std::max(largest, weights[key]);
                }
                double sum = 0;
                for (double& weight : weights) {
                    weight = exact::exp(weight - largest);
                    sum += weight;
                }
                for (std::uint32_t i = 0; i < d; ++i) {
                    double out = 0;
                    for (std::uint32_t key = 0; key < keys; ++key) {
                        out += weights[key] * element(kv_cache::KvPart::v, key, i);
                    }
                    attended[at + i] = static_cast<float>(out / sum);
                }
            }
        }
    }
}

}  // namespace engine
