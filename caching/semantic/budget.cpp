#include "caching/semantic/budget.h"

#include <algorithm>

namespace caching {
namespace {

constexpr double kWrongChanceMost = 0.04;  // of one answer, with the whole budget left
constexpr double kLateChanceMost = 0.12;  // likewise of one that may have changed: what was seen of changes is no guess
constexpr double kWrongChanceLeast = 0.01;  // with the budget nearly spent
constexpr double kCreditHits = 100;         // so that a cold category can begin
constexpr double kShadowPrior = 6;          // expected errors before shadows outweigh the calibration

}  // namespace

double ErrorBudget::bias() const {
    return std::max(1.0, (static_cast<double>(shadow_errors_) + kShadowPrior) / (shadows_expected_ + kShadowPrior));
}

double ErrorBudget::allowed_rate() const {
    const auto semantic = static_cast<double>(std::max<std::uint64_t>(hits_semantic_, 1));
    return std::min(0.5, target_ * (static_cast<double>(hits_exact_) + semantic) / semantic);
}

double ErrorBudget::wrong_chance_max(double relief) const {
    return chance_max(kWrongChanceMost, relief);
}

double ErrorBudget::late_chance_max(double relief) const {
    return chance_max(kLateChanceMost, relief);
}

double ErrorBudget::chance_max(double at_rest, double relief) const {
    if (state_ == State::exact_only || target_ <= 0) { return 0; }
    const double allowed = target_ * (static_cast<double>(hits_exact_ + hits_semantic_) + kCreditHits);
    const double left = 1.0 - expected_wrong() / (allowed * (1.0 - reserve_.share * (1.0 - relief)));
    if (left <= 0) { return 0; }
    const double open = at_rest + relief * std::max(reserve_.wrong_chance_most - at_rest, 0.0);
    const double most = state_ == State::tight ? at_rest / 4 : open;
    return kWrongChanceLeast + (most - kWrongChanceLeast) * std::min(1.0, 2.0 * left);
}

void ErrorBudget::semantic_hit(double wrong_chance) {
    ++hits_semantic_;
    expected_wrong_ += wrong_chance;
}

void ErrorBudget::late_hit(double wrong_chance) {
    ++hits_exact_;
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

void ErrorBudget::save(ByteWriter& bytes) const {
    bytes.number(static_cast<std::uint32_t>(state_));
    for (const std::uint64_t count :
         {hits_exact_, hits_semantic_, shadows_, shadow_errors_, shadows_before_, shadow_errors_before_}) {
        bytes.number(count);
    }
    bytes.number(expected_wrong_);
    bytes.number(shadows_expected_);
}

bool ErrorBudget::restore(ByteReader& bytes) {
    ErrorBudget read(target_, reserve_);
    const auto state = bytes.number<std::uint32_t>();
    for (std::uint64_t* count : {&read.hits_exact_, &read.hits_semantic_, &read.shadows_, &read.shadow_errors_,
                                 &read.shadows_before_, &read.shadow_errors_before_}) {
        *count = bytes.number<std::uint64_t>();
    }
    read.expected_wrong_ = bytes.number<double>();
    read.shadows_expected_ = bytes.number<double>();
    const bool is_sound = read.shadow_errors_ <= read.shadows_ && read.shadow_errors_before_ <= read.shadow_errors_ &&
                          read.shadows_before_ <= read.shadows_ && read.expected_wrong_ >= 0 &&
                          read.shadows_expected_ >= 0;
    if (!bytes.ok() || !is_sound || state > static_cast<std::uint32_t>(State::exact_only)) { return false; }
    read.state_ = static_cast<State>(state);
    *this = read;
    return true;
}

}  // namespace caching
