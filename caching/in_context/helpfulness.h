#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace caching {

class ByteReader;
class ByteWriter;

/// What is known of an example for a question, before the answer.
struct HelpfulnessEvidence {
    double similarity = 0;      // of the questions' vectors
    double word_overlap = 0;    // share of the question's words that the example's question has
    double answer_quality = 1;  // of the example's own answer, 0 to 1
    double record = 0.5;        // of answers that had it in their prompt: a half is what was expected of them
    double record_uses = 0;     // how many those were
    double answer_bytes = 0;
};

/// The second stage of the selector: how likely an answer is good that has the example in its prompt. Similar is not
/// helpful (IC-Cache, section 2.3), so it is learnt from answers that were judged.
/// IC-Cache has a cross-encoder of TinyBERT's size read both texts; this is a logistic form over six terms, of which
/// one is the example's own record, trained by steps of AdaGrad (Duchi et al., JMLR 2011): no weights to ship, and 0.1
/// us. Deterministic. Not thread-safe.
class HelpfulnessProxy {
public:
    static constexpr std::size_t kTerms = 7;
    HelpfulnessProxy();

    /// 0 to 1.
    double predict(const HelpfulnessEvidence& evidence) const;
    /// An answer with the example in its prompt was judged. `quality` 0 to 1; `weight`: its share among the examples of
    /// that prompt.
    void learn(const HelpfulnessEvidence& evidence, double quality, double weight = 1.0);
    std::uint64_t observations() const { return observations_; }

    /// For another life. Nothing changes where it says false.
    void save(ByteWriter& bytes) const;
    bool restore(ByteReader& bytes);

private:
    static std::array<double, kTerms> terms_of(const HelpfulnessEvidence& evidence);

    std::array<double, kTerms> weights_{};
    std::array<double, kTerms> squares_{};
    std::uint64_t observations_ = 0;
};

/// The least helpfulness of an example that is used. Some requests try others than the best known; what a threshold
/// brings is the mean gain of its requests (IC-Cache, section 4.1: "periodically try several on a sampled subset").
/// Not thread-safe.
class HelpfulnessThreshold {
public:
    /// `start` is in use until another one is known to bring more.
    explicit HelpfulnessThreshold(double start, double trial_share);

    /// For one request. Draws from `random`.
    struct Choice {
        double at_least = 0;
        std::size_t index = 0;
    };
    Choice choose(std::mt19937_64& random) const;
    /// How much better the answer was than those to questions like it, net of what its examples cost.
    void learn(std::size_t index, double gain);
    double best() const { return values_[best_]; }

    /// For another life. Nothing changes where it says false.
    void save(ByteWriter& bytes) const;
    bool restore(ByteReader& bytes);

private:
    static constexpr double kSeenMost = 400;  // judged answers; beyond it older ones fade

    struct Seen {
        double gain = 0;
        double variance = 0.06;  // of one gain
        double count = 0;
        double error() const { return variance / count; }
    };
    double trial_share_;
    std::vector<double> values_;
    std::vector<Seen> seen_;
    std::size_t best_ = 0;
    std::uint64_t since_look_ = 0;
};

/// Share of the different words of `question` that `other` has, too.
double word_overlap(std::span<const std::string> question_words, std::span<const std::string> other_words);

}  // namespace caching
