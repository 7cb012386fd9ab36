#include "worker/step_forecast.h"

#include <algorithm>
#include <chrono>

namespace worker {
namespace {

constexpr double kRatioStep = 1.0 / 16;  // of each mixed step
constexpr double kRatioMin = 0.5;
constexpr double kRatioMax = 2;

}  // namespace

base::StepWork work_of(std::span<const StepShare> shares) {
    base::StepWork work;
    for (const StepShare& share : shares) {
        if (share.is_decode()) {
            work.decode_sequences += 1;
            work.decode_context += share.tokens_before;
        } else {
            work.prefill_tokens += share.tokens;
            work.prefill_context += base::context_sum(share.tokens_before, share.tokens);
        }
    }
    return work;
}

void StepForecast::note_step(std::span<const StepShare> shares, base::Duration duration) {
    const base::StepWork work = work_of(shares);
    const double seconds = std::chrono::duration<double>(duration).count();
    const auto known = cost();
    fit_.observe(work, seconds, fit_.decode());
    if (!known || work.prefill_tokens == 0 || work.decode_sequences == 0) { return; }
    const double ratio = std::clamp(seconds / base::step_seconds(*known, work), kRatioMin, kRatioMax);
    mixed_ratio_ += kRatioStep * (ratio - mixed_ratio_);
}

std::optional<base::StepCost> StepForecast::cost() const {
    if (!fit_.prefill_is_fitted() || !fit_.decode_is_fitted()) { return std::nullopt; }
    return base::StepCost{fit_.prefill(), fit_.decode()};
}

KnownCosts StepForecast::known() const {
    KnownCosts costs;
    if (fit_.prefill_is_fitted()) { costs.prefill = fit_.prefill(); }
    if (fit_.decode_is_fitted()) { costs.decode = fit_.decode(); }
    return costs;
}

base::Duration StepForecast::predict(std::span<const StepShare> shares) const {
    const auto known = cost();
    if (!known || shares.empty()) { return base::Duration::zero(); }
    const base::StepWork work = work_of(shares);
    const bool is_mixed = work.prefill_tokens > 0 && work.decode_sequences > 0;
    const double seconds = base::step_seconds(*known, work) * (is_mixed ? mixed_ratio_ : 1);
    return std::chrono::duration_cast<base::Duration>(std::chrono::duration<double>(seconds));
}

}  // namespace worker
