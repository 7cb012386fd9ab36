#include "caching/semantic/joint_vote.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>

#include "base/check.h"

namespace caching {
namespace {

constexpr float kWidth = 0.25F;       // of a cosine, over which what one question says of another falls to 1/e
constexpr float kNoise = 0.05F;       // of an answer: questions that are all but the same may have others
constexpr float kPivotLeast = 1e-3F;  // cosines are rounded, so the matrix may be a little less than positive

float kernel(float cosine) {
    return std::exp((std::min(cosine, 1.0F) - 1.0F) / kWidth);
}

/// a x = b of a symmetric, positive definite matrix, row by row; only its upper half is looked at. In place.
std::vector<float> solve(std::vector<float>& a, std::vector<float> b) {
    const std::size_t n = b.size();
    const auto pivot = [&](std::size_t k) { return std::max(a[k * n + k], kPivotLeast); };
    for (std::size_t k = 0; k < n; ++k) {
        const float* top = &a[k * n];
        for (std::size_t i = k + 1; i < n; ++i) {
            const float share = top[i] / pivot(k);
            float* row = &a[i * n];
            for (std::size_t j = i; j < n; ++j) {
                row[j] -= share * top[j];
            }
            b[i] -= share * b[k];
        }
    }
    for (std::size_t k = n; k-- > 0;) {
        for (std::size_t j = k + 1; j < n; ++j) {
            b[k] -= a[k * n + j] * b[j];
        }
        b[k] /= pivot(k);
    }
    return b;
}

}  // namespace

JointVote joint_vote(std::span<const float> among, std::span<const float> to_question,
                     std::span<const std::uint64_t> answers, std::uint64_t candidate) {
    const std::size_t n = to_question.size();
    CHECK(answers.size() == n && among.size() == n * n);
    std::vector<float> matrix(n * n);
    std::vector<float> known(n);
    for (std::size_t i = 0; i < n; ++i) {
        known[i] = kernel(to_question[i]);
        for (std::size_t j = i + 1; j < n; ++j) {
            matrix[i * n + j] = kernel(among[i * n + j]);
        }
        matrix[i * n + i] = 1.0F + kNoise;
    }
    const std::vector<float> voices = solve(matrix, known);
    JointVote vote;
    std::vector<std::pair<std::uint64_t, double>> sums;  // few: by answer, the nearest one's first
    for (std::size_t i = 0; i < n; ++i) {
        const double voice = static_cast<double>(voices[i]);
        vote.unexplained -= voice * static_cast<double>(known[i]);
        const auto sum =
            std::find_if(sums.begin(), sums.end(), [&](const auto& one) { return one.first == answers[i]; });
        if (sum == sums.end()) {
            sums.emplace_back(answers[i], voice);
        } else {
            sum->second += voice;
        }
    }
    double next = 0;
    for (const auto& [answer, sum] : sums) {
        (answer == candidate ? vote.mine : next) = answer == candidate ? sum : std::max(next, sum);
    }
    vote.lead = vote.mine - next;
    vote.first = vote.lead >= 0 ? 1.0 : 0.0;
    return vote;
}

}  // namespace caching
