#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

/// exp, log, pow, sine and cosine out of IEEE additions and multiplications alone, so that every machine, compiler and
/// C library gives the same bits (design 4.1); libm promises no such thing. Errors are a few units in the last place of
/// a double: far below what a float shows. The build forbids contraction (-ffp-contract=off).
namespace engine::exact {

/// e^x for x <= 709; 0 below -708. No branches, so that a loop over it vectorises.
inline double exp(double x) {
    constexpr double kLog2E = 0x1.71547652b82fep+0;
    constexpr double kLn2High = 0x1.62e42fee00000p-1;  // 32 bits of ln 2: n * kLn2High is exact
    constexpr double kLn2Low = 0x1.a39ef35793c76p-33;
    constexpr double kRound = 0x1.8p+52;  // adding it leaves the nearest integer in the low bits
    const double clamped = x < -708.0 ? -708.0 : x;
    const double shifted = clamped * kLog2E + kRound;
    const double n = shifted - kRound;
    const double r = (clamped - n * kLn2High) - n * kLn2Low;  // |r| <= 0.35
    double p = 1.0 / 6227020800.0;                            // Taylor: r^14 / 14! is below 2^-57
    p = p * r + 1.0 / 479001600.0;
    p = p * r + 1.0 / 39916800.0;
    p = p * r + 1.0 / 3628800.0;
    p = p * r + 1.0 / 362880.0;
    p = p * r + 1.0 / 40320.0;
    p = p * r + 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    const auto power = std::bit_cast<double>((std::bit_cast<std::uint64_t>(shifted) + 1023) << 52);  // 2^n
    return x < -708.0 ? 0.0 : p * power;
}

/// Natural logarithm of a finite x > 0.
inline double log(double x) {
    constexpr double kLn2High = 0x1.62e42fee00000p-1;
    constexpr double kLn2Low = 0x1.a39ef35793c76p-33;
    int exponent = 0;
    double m = std::frexp(x, &exponent);  // exact
    if (m < 0.70710678118654752) {
        m += m;
        --exponent;
    }
    const double s = (m - 1.0) / (m + 1.0);  // |s| < 0.172; log m = 2 artanh s
    const double s2 = s * s;
    double p = 0.0;
    for (int k = 23; k >= 3; k -= 2) {
        p = (p + 1.0 / k) * s2;
    }
    return exponent * kLn2High + (2.0 * s + (2.0 * s * p + exponent * kLn2Low));
}

/// base^exponent for base > 0.
inline double pow(double base, double exponent) {
    return exp(exponent * log(base));
}

struct SineCosine {
    double sine = 0;
    double cosine = 0;
};

/// For |x| up to about 2^24; the absolute error grows above 2^20 but stays below 2^-28.
inline SineCosine sine_cosine(double x) {
    constexpr double kTwoOverPi = 6.36619772367581382433e-01;
    constexpr double kPiHalf1 = 1.57079632673412561417e+00;  // first 33 bits of pi/2, then the next 33, then the rest
    constexpr double kPiHalf2 = 6.07710050630396597660e-11;
    constexpr double kPiHalf3 = 2.02226624879595063154e-21;
    constexpr double kRound = 0x1.8p+52;
    const double shifted = x * kTwoOverPi + kRound;
    const double n = shifted - kRound;
    const double r = ((x - n * kPiHalf1) - n * kPiHalf2) - n * kPiHalf3;  // |r| <= pi/4
    const double r2 = r * r;
    double s = 1.0;
    for (int k = 19; k >= 3; k -= 2) {
        s = 1.0 - s * r2 / (k * (k - 1));
    }
    s *= r;
    double c = 1.0;
    for (int k = 20; k >= 2; k -= 2) {
        c = 1.0 - c * r2 / (k * (k - 1));
    }
    switch (std::bit_cast<std::uint64_t>(shifted) & 3) {
        case 0:
            return {s, c};
        case 1:
            return {c, -s};
        case 2:
            return {-s, -c};
        default:
            return {-c, s};
    }
}

}  // namespace engine::exact
