#include "caching/in_context/helpfulness.h"

#include <algorithm>
#include <cmath>
#include <set>

namespace caching {
namespace {

constexpr double kStep = 0.2;             // of AdaGrad
constexpr double kRecordPrior = 4;        // uses that a record needs to count half
constexpr std::uint64_t kLookEvery = 64;  // judged answers between two choices of the best threshold
constexpr double kSeenLeast = 30;         // judged answers before a threshold may be the best
constexpr double kErrors = 1.0;           // standard errors by which a better threshold is better

}  // namespace

HelpfulnessProxy::HelpfulnessProxy() {
    // Before anything was learnt only what is alike helps: even at a cosine of one half.
    weights_[0] = -3.0;
    weights_[1] = 6.0;
    squares_.fill(1.0);
}

std::array<double, HelpfulnessProxy::kTerms> HelpfulnessProxy::terms_of(const HelpfulnessEvidence& evidence) {
    const double trust = evidence.record_uses / (evidence.record_uses + kRecordPrior);
    return {1.0,
            evidence.similarity,
            evidence.word_overlap,
            evidence.answer_quality - 0.5,
            4 * trust * (evidence.record - 0.5),
            trust,
            std::log1p(evidence.answer_bytes) / 8 - 0.5};
}

double HelpfulnessProxy::predict(const HelpfulnessEvidence& evidence) const {
    const auto terms = terms_of(evidence);
    double sum = 0;
    for (std::size_t i = 0; i < kTerms; ++i) {
        sum += weights_[i] * terms[i];
    }
    return 1.0 / (1.0 + std::exp(-std::clamp(sum, -30.0, 30.0)));
}

void HelpfulnessProxy::learn(const HelpfulnessEvidence& evidence, double quality, double weight) {
    if (!std::isfinite(quality) || !(weight > 0)) { return; }
    const double error = weight * (std::clamp(quality, 0.0, 1.0) - predict(evidence));
    const auto terms = terms_of(evidence);
    for (std::size_t i = 0; i < kTerms; ++i) {
        const double slope = error * terms[i];
        squares_[i] += slope * slope;
        weights_[i] = std::clamp(weights_[i] + kStep * slope / std::sqrt(squares_[i]), -20.0, 20.0);
    }
    ++observations_;
}

HelpfulnessThreshold::HelpfulnessThreshold(double start, double trial_share)
    : trial_share_(trial_share), values_{0.2, 0.35, 0.5, 0.65, 0.8} {
    const auto same = std::find(values_.begin(), values_.end(), start);
    best_ = static_cast<std::size_t>(same - values_.begin());
    if (same == values_.end()) { values_.push_back(start); }
    seen_.resize(values_.size());
}

HelpfulnessThreshold::Choice HelpfulnessThreshold::choose(std::mt19937_64& random) const {
    std::size_t index = best_;
    if (std::uniform_real_distribution<double>(0, 1)(random) < trial_share_) { index = random() % values_.size(); }
    return {values_[index], index};
}

void HelpfulnessThreshold::learn(std::size_t index, double gain) {
    if (index >= seen_.size() || !std::isfinite(gain)) { return; }
    Seen& seen = seen_[index];
    seen.count = std::min(seen.count + 1, kSeenMost);
    const double off = gain - seen.gain;
    seen.gain += off / seen.count;
    seen.variance += (off * off - seen.variance) / (seen.count + kSeenLeast);
    if (++since_look_ < kLookEvery) { return; }
    since_look_ = 0;
    for (std::size_t one = 0; one < seen_.size(); ++one) {
        if (seen_[one].count < kSeenLeast) { continue; }
        if (one == best_ || seen_[best_].count < kSeenLeast) { continue; }
        const double error = std::sqrt(seen_[one].error() + seen_[best_].error());
        if (seen_[one].gain > seen_[best_].gain + kErrors * error) { best_ = one; }
    }
}

double word_overlap(std::span<const std::string> question_words, std::span<const std::string> other_words) {
    const std::set<std::string_view> asked(question_words.begin(), question_words.end());
    if (asked.empty()) { return 0; }
    const std::set<std::string_view> other(other_words.begin(), other_words.end());
    const auto shared =
        std::count_if(asked.begin(), asked.end(), [&](std::string_view word) { return other.contains(word); });
    return static_cast<double>(shared) / static_cast<double>(asked.size());
}

}  // namespace caching
