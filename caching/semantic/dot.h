#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace caching {

/// Products of one vector with `rows` others that lie one behind the other: out[r] = sum of a[i] * matrix[r, i]. Exact
/// in every form (32-bit sums of 8-bit products), so all forms give the same numbers. dimensions <= 65,536.
using DotRows = void (*)(const std::int8_t* a, const std::int8_t* matrix, std::size_t rows, std::size_t dimensions,
                         std::int32_t* out);

/// The plain form, the oracle of the others.
void dot_rows_reference(const std::int8_t* a, const std::int8_t* matrix, std::size_t rows, std::size_t dimensions,
                        std::int32_t* out);
void dot_rows_avx2(const std::int8_t* a, const std::int8_t* matrix, std::size_t rows, std::size_t dimensions,
                   std::int32_t* out);
void dot_rows_avx512(const std::int8_t* a, const std::int8_t* matrix, std::size_t rows, std::size_t dimensions,
                     std::int32_t* out);

bool has_avx2();
bool has_avx512();
/// The widest that this processor has.
DotRows best_dot_rows();

/// A vector of length 1 as int8: value i is about q[i] * scale. Returns the scale.
float quantise(std::span<const float> vector, std::int8_t* q);

}  // namespace caching
