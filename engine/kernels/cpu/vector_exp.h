// Part of an instruction set's file (vector_avx2.cpp, vector_avx512.cpp, vector_amx.cpp); everything in it is local to
// that file. Powers of 2 and e.
#pragma once

namespace engine {
namespace {

inline std::uint32_t least(std::uint32_t a, std::uint32_t b) {
    return a < b ? a : b;
}

/// 2^x for x in [-0.5, 0.5]: minimax, relative error 5.1e-9 before rounding.
inline Vec exp2_fraction(Vec x) {
    Vec p = set(0.000154531629451f);
    p = fma(p, x, set(0.00133908633647f));
    p = fma(p, x, set(0.00961808255728f));
    p = fma(p, x, set(0.0555035711422f));
    p = fma(p, x, set(0.240226507606f));
    p = fma(p, x, set(0.693147188026f));
    return fma(p, x, set(1.0f));
}

/// 2^x for x <= 0 (and NaN); 0 below -126.
inline Vec exp2_nonpositive(Vec x) {
    const Vec clamped = max(set(-126.0f), x);  // NaN stays: max gives its second operand then
    const Vec n = round(clamped);
    return zero_where_less(x, set(-126.0f), mul(exp2_fraction(sub(clamped, n)), power_of_two(n)));
}

/// e^x, error below 2 units in the last place; inf above 88.8, 0 below -87.3 (results are never denormal).
inline Vec exp(Vec x) {
    const Vec clamped = max(set(-88.0f), min(set(89.0f), x));
    const Vec n = round(mul(clamped, set(1.44269504f)));
    Vec r = fma(n, set(-0.693145752f), clamped);  // 0x1.62e4p-1: n * it is exact
    r = fma(n, set(-1.42860677e-6f), r);
    Vec p = set(0.0013933641032f);
    p = fma(p, r, set(0.00836914849086f));
    p = fma(p, r, set(0.041666465006f));
    p = fma(p, r, set(0.166665052604f));
    p = fma(p, r, set(0.500000001346f));
    p = fma(p, r, set(1.0f));
    p = fma(p, r, set(1.0f));
    // Two factors: 2^n itself may not be a float while the product is.
    const Vec half = round(mul(n, set(0.5f)));
    return mul(mul(p, power_of_two(half)), power_of_two(sub(n, half)));
}

}  // namespace
}  // namespace engine
