#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "caching/semantic/bytes.h"
#include "caching/semantic/joint_vote.h"

namespace caching {

/// What is known of the best answer at hand for a question, before anything is served.
struct Evidence {
    double similarity = 0;  // of the nearest question with this answer
    double rival = 0;       // of the nearest question with another answer; 0: none
    double support = 0;     // share of this answer among the nearest five
    double mean = 0;        // similarity of the nearest three with this answer (a missing one counts as the rival)
    double unmatched = 0;   // share of content words that only one of the two questions has
    double conflict = 0;    // 1: a gate that is no veto here is not passed
    double vote = 0;        // logarithm of the odds that the neighbours give this answer, each by its nearness
    double words_vote = 0;  // likewise by the hashed vectors alone, where a model's stand beside them; else 0
    double lean = 0;        // how much more the hashed vectors are alike than both together
    JointVote joint;        // of the neighbours
    double known = 0;       // questions known to have this answer
    double right = 0;       // how often this answer was found right, and
    double wrong = 0;       // wrong, when it was the nearest
};

constexpr std::size_t kTerms = 16;
using Terms = std::array<double, kTerms>;
Terms terms_of(const Evidence& evidence);

/// How likely the answer is right, learnt from answers that the model gave anyway: logistic, by Newton's method over
/// the latest observations, pulled to the weights of the level above (all categories; above them the start values).
/// Source: the logistic of vCache (Schroeder et al., ICLR 2026) for an entry; here of a category, on more than the
/// similarity, so that an entry can serve before it has observations of its own.
class Calibration {
public:
    struct Options {
        std::size_t observations_max = 4096;  // the latest
        std::size_t refit_every = 48;
        double pull = 3.0;  // of the level above, as a ridge on each weight's scale
    };
    /// `start`: the weights before anything was seen.
    Calibration(const Options& options, const Terms& start);

    void observe(const Evidence& evidence, bool correct);
    /// The level above has moved.
    void set_above(const Terms& above) { above_ = above; }
    double probability(const Evidence& evidence) const;
    const Terms& weights() const { return weights_; }
    std::size_t observations() const { return seen_; }

    /// Observations and weights, for another life. False for bytes that are none: it is then as it was.
    void save(ByteWriter& bytes) const;
    bool restore(ByteReader& bytes);

    /// Weights of the start: a question is taken for another only where their content words are the same.
    static Terms start_weights();

private:
    struct Seen {
        Terms terms;
        bool correct;
    };
    void refit();
    double likelihood(const Terms& weights) const;

    Options options_;
    Terms above_;
    Terms weights_;
    std::vector<Seen> observations_;  // a ring
    std::size_t next_ = 0;
    std::size_t seen_ = 0;
};

/// Bounds of an error rate that hold at every moment at once, however often one looks: mixture of Bernoulli martingales
/// under a uniform prior, by Ville's inequality. `level`: chance that the true rate is ever outside.
struct ErrorBound {
    double lower = 0;
    double upper = 1;
};
ErrorBound anytime_bound(std::uint64_t errors, std::uint64_t trials, double level = 0.05);

}  // namespace caching
