#include "caching/in_context/router.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace caching {
namespace {

constexpr double kRidge = 1.0;       // observations that the prior is worth
constexpr double kNoiseStep = 0.02;  // of the mean of squared residuals
constexpr double kNoiseLeast = 0.0025;
constexpr double kDriftStep = 0.03;     // of the mean of residuals: about the last sixty
constexpr double kDriftMost = 4.5;      // standard deviations of that mean: chance goes so far once in some 100,000
constexpr double kDriftFrom = 60;       // observations before drift is looked for, and between two changes
constexpr double kKeptAfterChange = 5;  // observations that what was learnt is worth then
constexpr double kTemperature = 0.1;    // of the confidences' softmax
constexpr double kLossMost = 0.25;      // of one request, with all of it saved up; less in proportion
constexpr double kSurprisePrior = 100;  // comparisons before measured losses correct the expected ones by half
constexpr double kSurpriseMost = 1000;  // comparisons that are remembered

}  // namespace

std::string_view arm_name(Arm arm) {
    return arm == Arm::small ? "small" : "large";
}

ArmBelief::ArmBelief(std::size_t prior, double forgetting) : prior_(prior), forgetting_(forgetting) {
    CHECK(prior < kRouterFeatures);
    for (std::size_t i = 0; i < kRouterFeatures; ++i) {
        precision_[i][i] = kRidge;
    }
    factor();
}

void ArmBelief::factor() {
    for (std::size_t row = 0; row < kRouterFeatures; ++row) {
        for (std::size_t column = 0; column <= row; ++column) {
            double sum = precision_[row][column];
            for (std::size_t k = 0; k < column; ++k) {
                sum -= lower_[row][k] * lower_[column][k];
            }
            // The ridge keeps the diagonal above 0; rounding may not.
            lower_[row][column] = row == column ? std::sqrt(std::max(sum, 1e-9)) : sum / lower_[column][column];
        }
    }
    weights_ = solve(right_);
}

RouterFeatures ArmBelief::solve(const RouterFeatures& right) const {
    RouterFeatures result = right;
    for (std::size_t row = 0; row < kRouterFeatures; ++row) {
        for (std::size_t k = 0; k < row; ++k) {
            result[row] -= lower_[row][k] * result[k];
        }
        result[row] /= lower_[row][row];
    }
    for (std::size_t row = kRouterFeatures; row-- > 0;) {
        for (std::size_t k = row + 1; k < kRouterFeatures; ++k) {
            result[row] -= lower_[k][row] * result[k];
        }
        result[row] /= lower_[row][row];
    }
    return result;
}

ArmBelief::Estimate ArmBelief::estimate(const RouterFeatures& features) const {
    const RouterFeatures spread = solve(features);
    double mean = features[prior_];
    double variance = 0;
    for (std::size_t i = 0; i < kRouterFeatures; ++i) {
        mean += weights_[i] * features[i];
        variance += spread[i] * features[i];
    }
    return {std::clamp(mean, 0.0, 1.0), std::sqrt(std::max(variance, 0.0) * noise_)};
}

void ArmBelief::fade(double kept) {
    for (std::size_t row = 0; row < kRouterFeatures; ++row) {
        for (std::size_t column = 0; column < kRouterFeatures; ++column) {
            precision_[row][column] *= kept;
        }
        precision_[row][row] += (1 - kept) * kRidge;
        right_[row] *= kept;
    }
}

void ArmBelief::learn(const RouterFeatures& features, double quality) {
    if (!std::isfinite(quality)) { return; }
    quality = std::clamp(quality, 0.0, 1.0);
    const double residual = quality - estimate(features).mean;
    noise_ = std::max(noise_ + kNoiseStep * (residual * residual - noise_), kNoiseLeast);
    drift_ += kDriftStep * (residual - drift_);
    since_change_ += 1;
    const double chance = std::sqrt(noise_ * kDriftStep / (2 - kDriftStep));
    if (since_change_ > kDriftFrom && std::abs(drift_) > kDriftMost * chance) { replaced(); }
    fade(forgetting_);
    for (std::size_t row = 0; row < kRouterFeatures; ++row) {
        for (std::size_t column = 0; column < kRouterFeatures; ++column) {
            precision_[row][column] += features[row] * features[column];
        }
        right_[row] += features[row] * (quality - features[prior_]);
    }
    factor();
    ++observations_;
}

void ArmBelief::replaced() {
    fade(std::min(kKeptAfterChange / precision_[0][0], 1.0));  // feature 0 is 1: they are counted there
    factor();
    drift_ = 0;
    since_change_ = 0;
    ++changes_;
}

void LoadMeter::see(double load, base::TimePoint now) {
    if (!std::isfinite(load)) { return; }
    load = std::clamp(load, 0.0, 1000.0);
    if (!has_seen_) {
        has_seen_ = true;
        mean_ = load;
        at_ = now;
        return;
    }
    const double halves =
        std::max(std::chrono::duration<double>(now - at_) / std::chrono::duration<double>(half_life_), 0.0);
    mean_ += (1 - std::exp2(-halves)) * (load - mean_);
    at_ = std::max(at_, now);
}

double LoadMeter::excess() const {
    return std::max(0.0, mean_ - threshold_);
}

Router::Router(const InContextOptions& options)
    : options_(options),
      random_(options.seed),
      small_(kNearSmall, options.forgetting),
      large_(kNearLarge, options.forgetting) {}

bool Router::draw(double share) {
    return std::uniform_real_distribution<double>(0, 1)(random_) < share;
}

Router::Choice Router::choose(const RouterFeatures& features, Load load, Allowed allowed) {
    Choice choice;
    choice.mean_small = small_.estimate(features).mean;
    choice.mean_large = large_.estimate(features).mean;
    choice.price = options_.rest_price + options_.load_price * std::tanh(options_.load_steepness * load.excess);
    const double score_small = choice.mean_small - choice.price * options_.small_cost;
    const double score_large = choice.mean_large - choice.price;
    const double confidence_small = 1.0 / (1.0 + std::exp((score_large - score_small) / kTemperature));
    // Of two confidences p and 1 - p the standard deviation is |p - (1 - p)| / 2.
    // That load makes the choice plain says nothing of what the models are worth: without it, so.
    const double plain = 1.0 / (1.0 + std::exp((choice.mean_large - choice.mean_small) / kTemperature));
    choice.is_unsure = std::abs(2 * plain - 1) / 2 < options_.unsure_below;
    if (options_.route != RouteMode::learnt || allowed.small != allowed.large) {
        const bool is_only = allowed.small != allowed.large;
        choice.arm = is_only ? (allowed.small ? Arm::small : Arm::large)
                             : (options_.route == RouteMode::small ? Arm::small : Arm::large);
        choice.why = is_only ? "only" : "forced";
    } else {
        account_ = std::min(account_ + options_.loss_target * choice.mean_large, kAccountMost);
        choice.arm = score_small >= score_large ? Arm::small : Arm::large;
        choice.why = choice.mean_small >= choice.mean_large ? "quality" : "price";
        if (choice.arm == Arm::large) { choice.why = "quality"; }
        if (choice.arm == Arm::small) {
            const double surprise = surprise_ / (surprise_count_ + kSurprisePrior);
            const double loss = choice.mean_large - choice.mean_small + surprise;  // below 0: a gain
            // The emptier the account, the smaller the loss that it is spent on: what is left goes to the requests that
            // lose least, not to those that come first.
            if (loss > std::min(kLossMost * account_ / kAccountMost, account_)) {
                choice.arm = Arm::large;
                choice.why = "budget";
            } else {
                account_ = std::min(account_ - loss, kAccountMost);
            }
        }
    }
    choice.confidence = choice.arm == Arm::small ? confidence_small : 1 - confidence_small;
    const bool is_alert = alert_ > 0;
    if (is_alert) { --alert_; }
    double share = options_.compare_share;
    if (load.is_idle) { share = std::max(share, options_.compare_idle_share); }
    // A large model that has too much to do is not asked for more than it must.
    const bool may_ask_more = load.excess <= 0 || choice.arm == Arm::large;
    if ((choice.is_unsure || is_alert) && may_ask_more) { share = std::max(share, options_.compare_unsure_share); }
    // Drawn in any case: what follows does not depend on what one request was allowed.
    const bool is_drawn = draw(share);
    choice.is_compared = is_drawn && options_.route == RouteMode::learnt && allowed.small && allowed.large;
    ++(choice.arm == Arm::small ? chosen_small_ : chosen_large_);
    return choice;
}

void Router::look_for_change() {
    const std::uint64_t changes = small_.changes() + large_.changes();
    if (changes == changes_seen_) { return; }
    changes_seen_ = changes;
    alert_ = kAlert;
    surprise_ = 0;
    surprise_count_ = 0;
}

void Router::replaced(Arm arm) {
    (arm == Arm::small ? small_ : large_).replaced();
    look_for_change();
}

void Router::learn(const RouterFeatures& features, Arm arm, double quality) {
    (arm == Arm::small ? small_ : large_).learn(features, quality);
    look_for_change();
}

void Router::learn_both(const RouterFeatures& features, const Choice& choice, double small, double large) {
    if (!std::isfinite(small) || !std::isfinite(large)) { return; }
    ++comparisons_;
    if (choice.arm == Arm::small) {
        if (surprise_count_ >= kSurpriseMost) {
            surprise_ *= 1 - 1 / kSurpriseMost;
            surprise_count_ -= 1;
        }
        surprise_ += std::clamp((large - small) - (choice.mean_large - choice.mean_small), -1.0, 1.0);
        surprise_count_ += 1;
    }
    small_.learn(features, small);
    large_.learn(features, large);
    look_for_change();
}

}  // namespace caching
