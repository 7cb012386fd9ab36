#include "caching/semantic/dot.h"

#include <algorithm>
#include <cmath>

namespace caching {

void dot_rows_reference(const std::int8_t* a, const std::int8_t* matrix, std::size_t rows, std::size_t dimensions,
                        std::int32_t* out) {
    for (std::size_t row = 0; row < rows; ++row) {
        std::int32_t sum = 0;
        for (std::size_t i = 0; i < dimensions; ++i) {
            sum += std::int32_t{a[i]} * matrix[row * dimensions + i];
        }
        out[row] = sum;
    }
}

bool has_avx2() {
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx2") != 0;
#else
    return false;
#endif
}

bool has_avx512() {
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0;
#else
    return false;
#endif
}

DotRows best_dot_rows() {
    if (has_avx512()) { return dot_rows_avx512; }
    if (has_avx2()) { return dot_rows_avx2; }
    return dot_rows_reference;
}

float quantise(std::span<const float> vector, std::int8_t* q) {
    float most = 0;
    for (const float value : vector) {
        most = std::max(most, std::abs(value));
    }
    const float scale = most > 0 ? most / 127.0F : 1.0F;
    for (std::size_t i = 0; i < vector.size(); ++i) {
        q[i] = static_cast<std::int8_t>(std::clamp(std::lround(vector[i] / scale), -127L, 127L));
    }
    return scale;
}

}  // namespace caching
