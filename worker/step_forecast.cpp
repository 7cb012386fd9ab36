#include "worker/step_forecast.h"

#include <algorithm>
#include <chrono>
#include <cmath>

namespace worker {

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
    note_step(work_of(shares), duration);
}

void StepForecast::note_step(const base::StepWork& work, base::Duration duration) {
    const double seconds = std::chrono::duration<double>(duration).count();
    fit_.observe(work, seconds, fit_.decode());
}

KnownCosts StepForecast::known() const {
    KnownCosts costs;
    if (fit_.prefill_is_fitted()) { costs.prefill = fit_.prefill(); }
    if (fit_.decode_is_fitted()) { costs.decode = fit_.decode(); }
    return costs;
}

std::optional<base::Duration> StepForecast::predict_prefill(std::uint32_t computed_tokens, std::uint32_t tokens,
                                                            std::uint32_t step_tokens) const {
    const auto cost = known().prefill;
    if (!cost || tokens == 0) { return std::nullopt; }
    const double steps = std::ceil(static_cast<double>(tokens) / step_tokens);
    const double seconds = base::prefill_seconds(*cost, steps, tokens, base::context_sum(computed_tokens, tokens));
    return std::chrono::duration_cast<base::Duration>(std::chrono::duration<double>(seconds));
}

base::Duration StepForecast::predict(std::span<const StepShare> shares) const {
    const auto known = cost();
    if (!known || shares.empty()) { return base::Duration::zero(); }
    const base::StepWork work = work_of(shares);
    const bool is_mixed = work.prefill_tokens > 0 && work.decode_sequences > 0;
    const double seconds = base::step_seconds(*known, work) * (is_mixed ? mixed_ratio() : 1);
    return std::chrono::duration_cast<base::Duration>(std::chrono::duration<double>(seconds));
}

}  // namespace worker
