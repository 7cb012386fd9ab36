#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

namespace base {

/// seconds ~ c0 + c1 * x1 + c2 * x2 with c >= 0, learned online from measured samples. Not thread-safe.
///
/// Ridge regression on relative errors, over buckets:
/// - Every sample is divided by max(measured, predicted), so that short and long steps count alike (DistServe,
///   appendix A) and a sample that is far too long counts for little. What deviates by more than a multiple of the
///   usual (median) deviation is weighted down as by Huber, so that garbage cannot move the fit while a lasting change
///   can. Where five samples in a row are far off on the same side, what was learned before is wrong, all of it, and
///   learning begins anew with the last of them: a machine that was slow for its first steps is known again soon.
/// - Samples are summed by the magnitude of (x1, x2); each bucket forgets by itself. A worker that decoded one sequence
///   for an hour still knows what many cost. Unused buckets fade: slowly while predictions are good, fast when they are
///   not (a machine that changed its speed).
/// - The ridge pulls towards the prior scaled to this machine's speed (one number, fitted to the same sums): what the
///   samples do not show keeps the prior's shape.
/// - Non-negative: all three coefficients are solved for, and where one comes out below 0 all subsets, of which the
/// best
///   feasible one is kept: exact.
class LinearFit {
public:
    using Coefficients = std::array<double, 3>;
    struct Options {
        Coefficients prior;                     // each > 0
        std::array<unsigned, 2> bucket_bits{};  // a bucket spans this many powers of two of x1, x2; > 0
    };
    explicit LinearFit(Options options);

    /// Learns one sample; x1, x2 >= 0, seconds > 0. Returns measured / predicted, the prediction made before learning.
    /// Empty, and nothing learned, when a value is not finite or out of range (seconds above an hour).
    std::optional<double> observe(double x1, double x2, double seconds);

    double predict(double x1, double x2) const;
    const Coefficients& coefficients() const { return coefficients_; }
    /// Enough was seen to prefer this fit to a more general one.
    bool is_fitted() const { return samples_ >= kSamplesNeeded; }
    std::uint64_t samples() const { return samples_; }

    static constexpr std::uint64_t kSamplesNeeded = 8;

private:
    /// Of squares 00 01 02 11 12 22, then of products with what was measured 0 1 2.
    using Sums = std::array<double, 9>;
    static void multiply(Sums& sums, double factor);
    Sums& bucket_of(double x1, double x2);
    void solve();

    Options options_;
    std::vector<Sums> buckets_;       // those that are used, by number
    std::uint64_t used_buckets_ = 0;  // bit set of their numbers
    std::uint64_t samples_ = 0;
    double growth_ = 1;             // what a sample weighs now: later ones weigh more, in place of earlier ones fading
    double usual_deviation_ = 1.0;  // tracks the median of |relative error|
    // By how much growth_ grows at the deviation for which that was worked out last: it is the same for most samples.
    double growth_by_ = 1;
    double growth_by_at_ = -1;
    int far_in_a_row_ = 0;  // samples that were far too long (> 0) or far too short (< 0)
    Coefficients coefficients_;
};

}  // namespace base
