#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <random>
#include <string_view>

#include "caching/in_context/options.h"

namespace caching {

class ByteReader;
class ByteWriter;

/// What a router knows of a request and the examples that the small model would get. Every one about 0 to 1.
inline constexpr std::size_t kRouterFeatures = 9;
using RouterFeatures = std::array<double, kRouterFeatures>;
/// The first feature is 1. These two are what answers to the nearest questions were worth, which is what is expected
/// before a regression knows better; where nothing was judged, the constants: nothing is offloaded on faith.
inline constexpr std::size_t kNearSmall = 7;
inline constexpr std::size_t kNearLarge = 8;
inline constexpr double kUnknownSmall = 0.4;
inline constexpr double kUnknownLarge = 0.8;

/// What one arm's answers are worth, by the features of the request: Bayesian linear regression whose older
/// observations fade, so that another model behind the same name is learnt anew. (IC-Cache trains a network of half a
/// million weights in JAX with a replay buffer; nine terms need neither.) Not thread-safe.
class ArmBelief {
public:
    /// `prior`: the feature that is expected before anything was seen.
    ArmBelief(std::size_t prior, double forgetting);

    struct Estimate {
        double mean = 0;
        double deviation = 0;  // of the mean, not of an answer
    };
    Estimate estimate(const RouterFeatures& features) const;
    /// `quality` 0 to 1.
    void learn(const RouterFeatures& features, double quality);
    /// Whether the last observations deviate from what was expected in a way that chance does not explain: the model is
    /// another one. Most of what was learnt is forgotten then.
    bool has_changed() const { return changes_ > 0; }
    std::uint64_t changes() const { return changes_; }
    std::uint64_t observations() const { return observations_; }
    /// It is another model: as has_changed(), without waiting for its answers.
    void replaced();

    /// For another life. Nothing changes where it says false.
    void save(ByteWriter& bytes) const;
    bool restore(ByteReader& bytes);

private:
    using Matrix = std::array<std::array<double, kRouterFeatures>, kRouterFeatures>;
    void factor();
    RouterFeatures solve(const RouterFeatures& right) const;
    void fade(double kept);

    std::size_t prior_;
    double forgetting_;
    Matrix precision_{};  // ridge + sum of x x'
    Matrix lower_{};      // its Cholesky factor
    RouterFeatures right_{};
    RouterFeatures weights_{};
    double noise_ = 0.09;  // variance of an answer's quality around its mean
    double drift_ = 0;     // mean of the last residuals
    double since_change_ = 0;
    std::uint64_t changes_ = 0;
    std::uint64_t observations_ = 0;
};

/// The load of the large model: a mean that halves its weight every half-life, and how far that is above the threshold.
class LoadMeter {
public:
    LoadMeter(base::Duration half_life, double threshold) : half_life_(half_life), threshold_(threshold) {}
    /// `load`: 1 is all that the large model's workers can do. Times must not go backwards.
    void see(double load, base::TimePoint now);
    double mean() const { return mean_; }
    /// max(0, mean - threshold): for how long this stays above 0 says that the pool is too small (IC-Cache, A.2).
    double excess() const;
    /// Less than half of the threshold: what is done now takes nothing from anybody.
    bool is_idle() const { return 2 * mean_ < threshold_; }

private:
    base::Duration half_life_;
    double threshold_;
    double mean_ = 0;
    bool has_seen_ = false;
    base::TimePoint at_{};
};

/// Which model answers: a contextual bandit with a term of load, S_i = mu_i - (rest + lambda0 tanh(gamma L)) C_i
/// (IC-Cache, A.2, Theorem 4; the price at rest is ours), and an account of quality: what offloading is expected to
/// cost on average stays below `loss_target`, whatever the load is. Requests that could go either way, and a small
/// share of all, ask for a comparison of both; that is the only feedback it needs. Deterministic from its seed. Not
/// thread-safe.
class Router {
public:
    explicit Router(const InContextOptions& options);

    struct Allowed {
        bool small = true;
        bool large = true;
    };
    struct Choice {
        Arm arm = Arm::large;
        std::string_view why;  // forced, only, quality, price, budget
        double mean_small = 0;
        double mean_large = 0;
        double price = 0;       // of a whole cost, in quality, under this load
        double confidence = 0;  // of the arm that was taken, 0 to 1
        bool is_unsure = false;
        bool is_compared =
            false;  // the other arm shall answer, too, for who looks at nobody's answer but learns from it
    };
    /// LoadMeter's.
    struct Load {
        double excess = 0;
        bool is_idle = false;
    };
    Choice choose(const RouterFeatures& features, Load load, Allowed allowed);

    /// An answer of one arm was judged, by itself: 0 to 1.
    void learn(const RouterFeatures& features, Arm arm, double quality);
    /// Both answered; `choice`: what was chosen and expected.
    void learn_both(const RouterFeatures& features, const Choice& choice, double small, double large);
    /// Another model answers for this arm from now on.
    void replaced(Arm arm);

    const ArmBelief& belief(Arm arm) const { return arm == Arm::small ? small_ : large_; }
    /// Quality that may still be given up, in requests' worth; never below 0.
    double account() const { return account_; }
    std::uint64_t choices(Arm arm) const { return arm == Arm::small ? chosen_small_ : chosen_large_; }
    std::uint64_t comparisons() const { return comparisons_; }

    /// For another life; without what was counted. Nothing changes where it says false.
    void save(ByteWriter& bytes) const;
    bool restore(ByteReader& bytes);

private:
    static constexpr double kAccountMost = 5;     // losses of a whole answer that may be saved up
    static constexpr std::uint64_t kAlert = 400;  // requests after a change for which more is compared

    bool draw(double share);
    void look_for_change();

    InContextOptions options_;
    std::mt19937_64 random_;
    ArmBelief small_;
    ArmBelief large_;
    double account_ = 0;
    double surprise_ = 0;  // of losses that were measured, over what was expected: sum
    double surprise_count_ = 0;
    std::uint64_t changes_seen_ = 0;
    std::uint64_t alert_ = 0;  // requests for which more is compared, after a change
    std::uint64_t chosen_small_ = 0;
    std::uint64_t chosen_large_ = 0;
    std::uint64_t comparisons_ = 0;
};

}  // namespace caching
