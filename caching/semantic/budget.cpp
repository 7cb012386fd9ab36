#include "caching/semantic/budget.h"

#include <algorithm>

namespace caching {
namespace {

constexpr double kWrongChanceMost = 0.12;   // of one answer, with the whole budget left
constexpr double kWrongChanceLeast = 0.01;  // with the budget nearly spent
constexpr double kCreditHits = 100;         // so that a cold category can begin
constexpr double kShadowPrior = 2;          // expected errors before shadows outweigh the calibration

}  // namespace

double ErrorBudget::bias() const {
    return std::max(1.0, (static_cast<double>(shadow_errors_) + kShadowPrior) / (shadows_expected_ + kShadowPrior));
}

double ErrorBudget::allowed_rate() const {
    const auto semantic = static_cast<double>(std::max<std::uint64_t>(hits_semantic_, 1));
    return std::min(0.5, target_ * (static_cast<double>(hits_exact_) + semantic) / semantic);
}

double ErrorBudget::wrong_chance_max() const {
    if (state_ == State::exact_only || target_ <= 0) { return 0; }
    const double allowed = target_ * (static_cast<double>(hits_exact_ + hits_semantic_) + kCreditHits);
    const double left = 1.0 - expected_wrong() / allowed;
    if (left <= 0) { return 0; }
    const double most = state_ == State::tight ? kWrongChanceMost / 4 : kWrongChanceMost;
    return kWrongChanceLeast + (most - kWrongChanceLeast) * std::min(1.0, 2.0 * left);
}

void ErrorBudget::semantic_hit(double wrong_chance) {
    ++hits_semantic_;
    expected_wrong_ += wrong_chance;
}

void ErrorBudget::shadow(bool wrong, double wrong_chance) {
    ++shadows_;
    shadow_errors_ += wrong ? 1 : 0;
    shadows_expected_ += wrong_chance;
    const ErrorBound since = anytime_bound(shadow_errors_ - shadow_errors_before_, shadows_ - shadows_before_);
    if (since.lower > allowed_rate()) {
        state_ = state_ == State::open ? State::tight : State::exact_only;
        shadows_before_ = shadows_;
        shadow_errors_before_ = shadow_errors_;
    }
}

}  // namespace caching
