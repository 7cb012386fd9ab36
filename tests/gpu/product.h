#pragma once

#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include "tests/gpu/harness.h"

namespace gpu_check {

/// The shape of a matrix W in y = x W^T.
struct Product {
    std::int32_t outputs;
    std::int32_t inputs;
};

inline std::string name_of(const Product& p) {
    return std::to_string(p.outputs) + "x" + std::to_string(p.inputs);
}

/// y [rows, outputs] of w [outputs, inputs] and x [rows, inputs], bf16 or already double.
template <class Number>
std::vector<double> reference_of(const std::vector<Number>& w, const std::vector<Number>& x, const Product& p,
                                 std::int32_t rows) {
    const auto inputs = static_cast<std::size_t>(p.inputs);
    const auto outputs = static_cast<std::size_t>(p.outputs);
    const auto value = [](Number number) {
        if constexpr (std::is_same_v<Number, double>) {
            return number;
        } else {
            return number_of(number);
        }
    };
    std::vector<double> y(static_cast<std::size_t>(rows) * outputs);
    parallel_for(outputs, [&](std::size_t o) {
        std::vector<double> w_row(inputs);
        for (std::size_t k = 0; k < inputs; ++k) {
            w_row[k] = value(w[o * inputs + k]);
        }
        for (std::size_t row = 0; row < static_cast<std::size_t>(rows); ++row) {
            double sum = 0;
            for (std::size_t k = 0; k < inputs; ++k) {
                sum += w_row[k] * value(x[row * inputs + k]);
            }
            y[row * outputs + o] = sum;
        }
    });
    return y;
}

}  // namespace gpu_check
