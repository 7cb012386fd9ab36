#include "base/linear_fit.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <limits>

#include "base/check.h"

namespace base {
namespace {

constexpr std::size_t kSquares = 6;         // of LinearFit::Sums
constexpr std::size_t kBucketsPerSide = 8;  // 64 in all: as many as bits in a set of them
constexpr double kSecondsMax = 3600;
constexpr double kFeatureMax = 1e15;
constexpr double kPredictionMin = 1e-7;           // seconds; nothing we measure is shorter
constexpr double kBucketForget = 1.0 - 1.0 / 32;  // per sample of the bucket: it remembers its last few dozens
constexpr double kFade = 1.0 / 4096;              // per unit of age, for all buckets
constexpr double kGrowthMax = 1e6;                // sums are then brought back to weights around 1
constexpr double kDistrust = 200;                 // age of a sample grows with the square of the usual deviation
constexpr double kRidge = 0.02;                   // weight of the prior, in samples
constexpr double kHuber = 3;                      // deviations up to this many usual ones count in full
constexpr double kDeviationStep = 0.1;            // the median tracker moves by this share per sample
constexpr double kDeviationMin = 0.02;
constexpr double kFar = 0.3;        // a deviation so large, ...
constexpr int kFarInARow = 5;       // ... so often in a row, is no noise
constexpr double kSpeedMin = 1e-6;  // a machine this much faster or slower than the prior is a broken clock
constexpr double kSpeedMax = 1e6;

std::size_t side(double x, unsigned bits) {
    const auto magnitude = static_cast<std::size_t>(std::bit_width(static_cast<std::uint64_t>(x)));
    return std::min(kBucketsPerSide - 1, magnitude / bits);
}

using Matrix = std::array<std::array<double, 3>, 3>;

/// Solves the part of `matrix` x = `right` that `subset` (bits) names; the other x are 0. Positive definite: the ridge
/// sees to that, and Gaussian elimination needs no pivoting.
std::array<double, 3> solve_subset(const Matrix& matrix, const std::array<double, 3>& right, unsigned subset) {
    Matrix m = matrix;
    std::array<double, 3> r = right;
    for (std::size_t i = 0; i < 3; ++i) {
        if ((subset >> i & 1u) != 0) { continue; }
        for (std::size_t j = 0; j < 3; ++j) {
            m[i][j] = m[j][i] = i == j ? 1.0 : 0.0;
        }
        r[i] = 0;
    }
    for (std::size_t i = 0; i < 3; ++i) {
        for (std::size_t k = i + 1; k < 3; ++k) {
            const double factor = m[k][i] / m[i][i];
            for (std::size_t j = i; j < 3; ++j) {
                m[k][j] -= factor * m[i][j];
            }
            r[k] -= factor * r[i];
        }
    }
    std::array<double, 3> x{};
    for (std::size_t i = 3; i-- > 0;) {
        double sum = r[i];
        for (std::size_t j = i + 1; j < 3; ++j) {
            sum -= m[i][j] * x[j];
        }
        x[i] = sum / m[i][i];
    }
    return x;
}

/// The same for all of them, as one straight line: this is nearly always enough, and every step that is measured
/// anywhere comes here.
std::array<double, 3> solve_all(Matrix m, std::array<double, 3> r) {
    const double second = m[1][0] / m[0][0];
    const double third = m[2][0] / m[0][0];
    m[1][1] -= second * m[0][1];
    m[1][2] -= second * m[0][2];
    r[1] -= second * r[0];
    m[2][1] -= third * m[0][1];
    m[2][2] -= third * m[0][2];
    r[2] -= third * r[0];
    const double last = m[2][1] / m[1][1];
    m[2][2] -= last * m[1][2];
    r[2] -= last * r[1];
    std::array<double, 3> x{};
    x[2] = r[2] / m[2][2];
    x[1] = (r[1] - m[1][2] * x[2]) / m[1][1];
    x[0] = (r[0] - m[0][1] * x[1] - m[0][2] * x[2]) / m[0][0];
    return x;
}

constexpr unsigned kAllOfThem = 7;

bool is_feasible(const std::array<double, 3>& x) {
    return x[0] >= 0 && x[1] >= 0 && x[2] >= 0;  // false for NaN
}

/// The best feasible solution in which at least one unknown is 0.
std::array<double, 3> best_of_parts(const Matrix& matrix, const std::array<double, 3>& right) {
    double best_value = std::numeric_limits<double>::infinity();
    std::array<double, 3> best{};
    for (unsigned subset = 1; subset < kAllOfThem; ++subset) {
        const std::array<double, 3> x = solve_subset(matrix, right, subset);
        if (!is_feasible(x)) { continue; }
        double value = 0;
        for (std::size_t i = 0; i < 3; ++i) {
            value -= right[i] * x[i];  // at the optimum of a subset x'Mx - 2 r'x = -r'x
        }
        if (value < best_value) {
            best_value = value;
            best = x;
        }
    }
    CHECK(std::isfinite(best_value), "no feasible subset");
    return best;
}

}  // namespace

LinearFit::LinearFit(Options options) : options_(options), coefficients_(options.prior) {
    for (const double one : options_.prior) {
        CHECK(std::isfinite(one) && one > 0, one);
    }
    for (const unsigned bits : options_.bucket_bits) {
        CHECK(bits > 0);
    }
}

void LinearFit::multiply(Sums& sums, double factor) {
    for (double& one : sums) {
        one *= factor;
    }
}

LinearFit::Sums& LinearFit::bucket_of(double x1, double x2) {
    const std::size_t index = side(x1, options_.bucket_bits[0]) * kBucketsPerSide + side(x2, options_.bucket_bits[1]);
    const std::uint64_t bit = std::uint64_t{1} << index;
    const auto at = buckets_.begin() + std::popcount(used_buckets_ & (bit - 1));
    if ((used_buckets_ & bit) != 0) { return *at; }
    used_buckets_ |= bit;
    return *buckets_.insert(at, Sums{});
}

double LinearFit::predict(double x1, double x2) const {
    return std::max(kPredictionMin, coefficients_[0] + coefficients_[1] * x1 + coefficients_[2] * x2);
}

std::optional<double> LinearFit::observe(double x1, double x2, double seconds) {
    const auto usable = [](double value, double high) { return value >= 0 && value <= high; };  // false for NaN
    if (!usable(x1, kFeatureMax) || !usable(x2, kFeatureMax) || !usable(seconds, kSecondsMax) || seconds == 0) {
        return std::nullopt;
    }
    const double predicted = predict(x1, x2);
    const double unit = 1 / std::max(seconds, predicted);
    const double deviation = std::abs(seconds - predicted) * unit;  // below 1
    far_in_a_row_ = deviation <= kFar     ? 0
                    : seconds > predicted ? std::max(far_in_a_row_, 0) + 1
                                          : std::min(far_in_a_row_, 0) - 1;
    const bool has_changed = std::abs(far_in_a_row_) >= kFarInARow;
    if (has_changed) {
        buckets_.clear();
        used_buckets_ = 0;
        far_in_a_row_ = 0;
        growth_ = 1;
    }
    const double weight =
        growth_ * (has_changed ? 1 : std::min(1.0, kHuber * usual_deviation_ / std::max(deviation, kDeviationMin)));
    usual_deviation_ =
        std::clamp(usual_deviation_ * (deviation > usual_deviation_ ? 1 + kDeviationStep : 1 - kDeviationStep),
                   kDeviationMin, 1.0);

    Sums& sums = bucket_of(x1, x2);
    ++samples_;
    multiply(sums, kBucketForget);
    const std::array<double, 3> z = {unit, x1 * unit, x2 * unit};
    const double target = seconds * unit;
    std::size_t at = 0;
    for (std::size_t i = 0; i < 3; ++i) {
        for (std::size_t j = i; j < 3; ++j) {
            sums[at++] += weight * z[i] * z[j];
        }
        sums[kSquares + i] += weight * z[i] * target;
    }
    // A sample is of age 1, and of more while predictions are bad.
    if (usual_deviation_ != growth_by_at_) {
        growth_by_ = std::exp(kFade * (1 + kDistrust * usual_deviation_ * usual_deviation_));
        growth_by_at_ = usual_deviation_;
    }
    growth_ *= growth_by_;
    if (growth_ > kGrowthMax) {
        for (Sums& one : buckets_) {
            multiply(one, 1 / growth_);
        }
        growth_ = 1;
    }
    solve();
    return seconds / predicted;
}

void LinearFit::solve() {
    Sums all{};
    const double unit = 1 / growth_;
    for (const Sums& sums : buckets_) {
        for (std::size_t i = 0; i < all.size(); ++i) {
            all[i] += unit * sums[i];
        }
    }
    const double* const products = all.data() + kSquares;
    const Matrix raw = {{{all[0], all[1], all[2]}, {all[1], all[3], all[4]}, {all[2], all[4], all[5]}}};
    // This machine's speed against the prior: least squares with that one unknown.
    double above = 0;
    double below = 0;
    for (std::size_t i = 0; i < 3; ++i) {
        above += options_.prior[i] * products[i];
        for (std::size_t j = 0; j < 3; ++j) {
            below += options_.prior[i] * options_.prior[j] * raw[i][j];
        }
    }
    const double speed = below > 0 ? std::clamp(above / below, kSpeedMin, kSpeedMax) : 1.0;

    // In units of the scaled prior all unknowns are of order 1, which also conditions the matrix.
    std::array<double, 3> scale{};
    Matrix matrix{};
    std::array<double, 3> right{};
    for (std::size_t i = 0; i < 3; ++i) {
        scale[i] = speed * options_.prior[i];
    }
    for (std::size_t i = 0; i < 3; ++i) {
        for (std::size_t j = 0; j < 3; ++j) {
            matrix[i][j] = scale[i] * scale[j] * raw[i][j];
        }
        matrix[i][i] += kRidge;
        right[i] = scale[i] * products[i] + kRidge;
    }
    // The least of all is the best where it is feasible, which is nearly always: only else are its parts looked at.
    std::array<double, 3> best = solve_all(matrix, right);
    if (!is_feasible(best)) { best = best_of_parts(matrix, right); }
    for (std::size_t i = 0; i < 3; ++i) {
        coefficients_[i] = best[i] * scale[i];
    }
}

}  // namespace base
