// The operators of an encoder; the rest of the backend is in reference_backend.cpp.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "engine/exact_math.h"
#include "engine/kernels/reference/reference_backend.h"

namespace engine {
namespace {

constexpr double kPi = 3.14159265358979323846;

/// erf(x) = 2 / sqrt(pi) * e^(-x^2) * sum of 2^n x^(2n + 1) / (2n + 1)!!: all terms have one sign.
double error_function(double x) {
    const double size = std::abs(x);
    if (size > 6.0) { return x < 0 ? -1.0 : 1.0; }
    double term = size;
    double sum = size;
    for (int n = 1; term > sum * 1e-17; ++n) {
        term *= 2.0 * size * size / (2 * n + 1);
        sum += term;
    }
    const double value = 2.0 / std::sqrt(kPi) * exact::exp(-size * size) * sum;
    return x < 0 ? -value : value;
}

double gelu_of(double x, Gelu kind) {
    if (kind == Gelu::exact) { return 0.5 * x * (1.0 + error_function(x * std::sqrt(0.5))); }
    const double u = std::sqrt(2.0 / kPi) * (x + 0.044715 * x * x * x);
    return u < -350.0 ? 0.0 : x / (1.0 + exact::exp(-2.0 * u));  // (1 + tanh u) / 2
}

}  // namespace

void ReferenceBackend::add_layer_norm(float* x, const float* delta, const LayerNorm& norm, std::uint32_t rows,
                                      std::uint32_t width) {
    std::vector<double> sums(width);
    for (std::size_t row = 0; row < rows; ++row) {
        double mean = 0;
        for (std::size_t i = 0; i < width; ++i) {
            sums[i] = double{x[row * width + i]} + delta[row * width + i];
            mean += sums[i];
        }
        mean /= width;
        double variance = 0;
        for (const double sum : sums) {
            variance += (sum - mean) * (sum - mean);
        }
        variance /= width;
        const double scale = 1.0 / std::sqrt(variance + norm.eps);
        for (std::size_t i = 0; i < width; ++i) {
            x[row * width + i] = static_cast<float>((sums[i] - mean) * scale * norm.weight[i] + norm.bias[i]);
        }
    }
}

void ReferenceBackend::gelu(float* x, Gelu kind, std::uint32_t rows, std::uint32_t width) {
    for (std::size_t i = 0; i < std::size_t{rows} * width; ++i) {
        x[i] = static_cast<float>(gelu_of(x[i], kind));
    }
}

void ReferenceBackend::attend_within(const TextAttention& args) {
    const std::size_t d = args.head_dim;
    const std::size_t width = args.heads * d;
    for (const SequenceRows& text : args.texts) {
        std::vector<double> weights(text.rows);
        const float* const rows = args.qkv + text.row_begin * 3 * width;
        for (std::size_t r = 0; r < text.rows; ++r) {
            for (std::size_t h = 0; h < args.heads; ++h) {
                const float* q = rows + r * 3 * width + h * d;
                double largest = -INFINITY;
                for (std::size_t key = 0; key < text.rows; ++key) {
                    const float* k = rows + key * 3 * width + width + h * d;
                    double score = 0;
                    for (std::size_t i = 0; i < d; ++i) {
                        score += double{q[i]} * k[i];
                    }
                    weights[key] = score * args.scale;
                    largest = std::max(largest, weights[key]);
                }
                double sum = 0;
                for (double& weight : weights) {
                    weight = exact::exp(weight - largest);
                    sum += weight;
                }
                float* const out = args.out + (text.row_begin + r) * width + h * d;
                for (std::size_t i = 0; i < d; ++i) {
                    double value = 0;
                    for (std::size_t key = 0; key < text.rows; ++key) {
                        value += weights[key] * rows[key * 3 * width + 2 * width + h * d + i];
                    }
                    out[i] = static_cast<float>(value / sum);
                }
            }
        }
    }
}

}  // namespace engine
