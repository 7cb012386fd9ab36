#include "caching/semantic/calibration.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace caching {
namespace {

/// How large a weight may well be: the ridge is in these units.
constexpr Terms kScales = {1.5, 10, 8, 2, 8, 12, 1, 1, 4, 3, 3, 8, 3, 3, 3, 2};

constexpr int kRounds = 8;
constexpr int kHalvings = 12;
constexpr double kEnough = 1e-3;  // of the likelihood: a round that brings less is the last

double dot(const Terms& a, const Terms& b) {
    double sum = 0;
    for (std::size_t i = 0; i < kTerms; ++i) {
        sum += a[i] * b[i];
    }
    return sum;
}

double logistic(double x) {
    return 1.0 / (1.0 + std::exp(-std::clamp(x, -30.0, 30.0)));
}

using Matrix = std::array<Terms, kTerms>;

/// Solves a symmetric, positive definite system in place (Cholesky).
Terms solve(Matrix a, Terms b) {
    for (std::size_t j = 0; j < kTerms; ++j) {
        for (std::size_t k = 0; k < j; ++k) {
            a[j][j] -= a[j][k] * a[j][k];
        }
        a[j][j] = std::sqrt(std::max(a[j][j], 1e-12));
        for (std::size_t i = j + 1; i < kTerms; ++i) {
            for (std::size_t k = 0; k < j; ++k) {
                a[i][j] -= a[i][k] * a[j][k];
            }
            a[i][j] /= a[j][j];
        }
    }
    for (std::size_t i = 0; i < kTerms; ++i) {
        for (std::size_t k = 0; k < i; ++k) {
            b[i] -= a[i][k] * b[k];
        }
        b[i] /= a[i][i];
    }
    for (std::size_t i = kTerms; i-- > 0;) {
        for (std::size_t k = i + 1; k < kTerms; ++k) {
            b[i] -= a[k][i] * b[k];
        }
        b[i] /= a[i][i];
    }
    return b;
}

}  // namespace

Terms terms_of(const Evidence& evidence) {
    const double rival = std::max(evidence.rival, 0.2);  // where nothing else is stored, nothing is known of rivals
    const double record = std::log((evidence.right + 1.0) / (evidence.wrong + 1.0));
    return {1.0,
            evidence.similarity - 0.8,
            evidence.similarity - rival - 0.3,
            evidence.support,
            evidence.mean - rival,
            evidence.unmatched,
            std::log1p(evidence.known) / 3.0,
            std::clamp(record, -2.0, 2.0),
            evidence.conflict,
            std::clamp(evidence.vote / 4.0, -1.5, 1.5),
            std::clamp(evidence.words_vote / 4.0, -1.5, 1.5),
            evidence.lean,
            evidence.joint.mine,
            evidence.joint.lead,
            evidence.joint.unexplained,
            evidence.joint.first};
}

Terms Calibration::start_weights() {
    return {3.0, 6.0, 3.0, 0.5, 1.0, -40.0, 0.0, 0.3, -4.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0};
}

Calibration::Calibration(const Options& options, const Terms& start)
    : options_(options), above_(start), weights_(start) {}

double Calibration::probability(const Evidence& evidence) const {
    return logistic(dot(weights_, terms_of(evidence)));
}

void Calibration::observe(const Evidence& evidence, bool correct) {
    const Seen seen{terms_of(evidence), correct};
    if (observations_.size() < options_.observations_max) {
        observations_.push_back(seen);
    } else {
        observations_[next_] = seen;
        next_ = (next_ + 1) % observations_.size();
    }
    if (++seen_ % options_.refit_every == 0) { refit(); }
}

void Calibration::save(ByteWriter& bytes) const {
    for (const double weight : weights_) {
        bytes.number(weight);
    }
    bytes.number(static_cast<std::uint64_t>(seen_));
    bytes.number(static_cast<std::uint32_t>(observations_.size()));
    for (std::size_t i = 0; i < observations_.size(); ++i) {  // the oldest first
        const Seen& seen = observations_[(next_ + i) % observations_.size()];
        for (const double term : seen.terms) {
            bytes.number(static_cast<float>(term));
        }
        bytes.number(static_cast<std::uint8_t>(seen.correct));
    }
}

bool Calibration::restore(ByteReader& bytes) {
    Terms weights;
    for (double& weight : weights) {
        weight = bytes.number<double>();
    }
    const auto count = bytes.number<std::uint64_t>();
    const auto kept = bytes.number<std::uint32_t>();
    if (!bytes.ok() || kept > options_.observations_max || kept > count) { return false; }
    std::vector<Seen> observations;
    for (std::uint32_t i = 0; i < kept && bytes.ok(); ++i) {
        Seen& seen = observations.emplace_back();
        for (double& term : seen.terms) {
            term = static_cast<double>(bytes.number<float>());
        }
        seen.correct = bytes.number<std::uint8_t>() != 0;
    }
    const auto is_number = [](double value) { return std::isfinite(value); };
    if (!bytes.ok() || !std::all_of(weights.begin(), weights.end(), is_number)) { return false; }
    for (const Seen& seen : observations) {
        if (!std::all_of(seen.terms.begin(), seen.terms.end(), is_number)) { return false; }
    }
    weights_ = weights;
    observations_ = std::move(observations);
    next_ = 0;
    seen_ = static_cast<std::size_t>(count);
    return true;
}

/// Logarithm of how likely the observations and these weights are together.
double Calibration::likelihood(const Terms& weights) const {
    double sum = 0;
    for (std::size_t i = 0; i < kTerms; ++i) {
        const double away = (weights[i] - above_[i]) / kScales[i];
        sum -= 0.5 * options_.pull * away * away;
    }
    for (const Seen& seen : observations_) {
        const double x = dot(weights, seen.terms);
        const double against = seen.correct ? -x : x;
        sum -= against > 30 ? against : std::log1p(std::exp(against));
    }
    return sum;
}

/// Newton's method; a step that makes things worse is halved, so it cannot run away from a far start.
void Calibration::refit() {
    double before = likelihood(weights_);
    for (int round = 0; round < kRounds; ++round) {
        Matrix curvature{};
        Terms slope{};
        for (std::size_t i = 0; i < kTerms; ++i) {
            const double pull = options_.pull / (kScales[i] * kScales[i]);
            curvature[i][i] = pull;
            slope[i] = pull * (above_[i] - weights_[i]);
        }
        for (const Seen& seen : observations_) {
            const double p = logistic(dot(weights_, seen.terms));
            const double weight = p * (1.0 - p);
            const double miss = (seen.correct ? 1.0 : 0.0) - p;
            for (std::size_t i = 0; i < kTerms; ++i) {
                slope[i] += miss * seen.terms[i];
                for (std::size_t j = 0; j <= i; ++j) {
                    curvature[i][j] += weight * seen.terms[i] * seen.terms[j];
                }
            }
        }
        const Terms step = solve(curvature, slope);
        double length = 1;
        double after = before;
        Terms tried = weights_;
        for (int halving = 0; halving < kHalvings; ++halving, length /= 2) {
            for (std::size_t i = 0; i < kTerms; ++i) {
                tried[i] = weights_[i] + length * step[i];
            }
            after = likelihood(tried);
            if (after > before) { break; }
        }
        if (!(after > before)) { return; }
        weights_ = tried;
        if (after - before < kEnough) { return; }
        before = after;
    }
}

ErrorBound anytime_bound(std::uint64_t errors, std::uint64_t trials, double level) {
    if (trials == 0) { return {}; }
    const auto wrong = static_cast<double>(errors);
    const auto right = static_cast<double>(trials - errors);
    const double mixture = std::lgamma(wrong + 1) + std::lgamma(right + 1) - std::lgamma(wrong + right + 2);
    const auto evidence_against = [&](double rate) {  // logarithm of the martingale under this rate
        return mixture - (wrong > 0 ? wrong * std::log(rate) : 0) - (right > 0 ? right * std::log1p(-rate) : 0);
    };
    const double limit = std::log(1.0 / level);
    const double middle = wrong / (wrong + right);
    const auto edge = [&](double inside, double outside) {
        for (int i = 0; i < 60; ++i) {
            const double rate = 0.5 * (inside + outside);
            (evidence_against(rate) < limit ? inside : outside) = rate;
        }
        return inside;
    };
    return {errors == 0 ? 0.0 : edge(middle, 0.0), errors == trials ? 1.0 : edge(middle, 1.0)};
}

}  // namespace caching
