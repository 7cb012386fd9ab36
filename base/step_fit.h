#pragma once

#include <cstdint>
#include <optional>

#include "base/linear_fit.h"
#include "base/step_cost.h"

namespace base {

/// What the steps of an engine take, learned online from steps that were measured. Not thread-safe.
///
/// A step with prompt tokens only teaches the prefill model, one with decode sequences only the decode model. A step
/// with both teaches prefill what is left after the predicted share of its decode sequences.
class StepFit {
public:
    StepFit();

    /// measured / predicted of what a step did; empty for a phase that the step had no usable sample of.
    struct Ratios {
        std::optional<double> prefill;
        std::optional<double> decode;
    };
    /// `decode`: by what the share of the decode sequences in a mixed step is told (this fit's own or a better one).
    Ratios observe(const StepWork& work, double seconds, const DecodeCost& decode);

    PrefillCost prefill() const;
    DecodeCost decode() const;
    /// Whether enough was seen to prefer this to what one knows of engines of the same kind.
    bool prefill_is_fitted() const { return prefill_.is_fitted(); }
    bool decode_is_fitted() const { return decode_.is_fitted(); }
    /// Empty until both are fitted.
    std::optional<StepCost> cost() const;
    /// measured / predicted of steps with prompts and decodes in them, lately: what the sum of both models is off.
    double mixed_ratio() const { return mixed_ratio_; }

private:
    LinearFit prefill_;
    LinearFit decode_;
    double mixed_ratio_ = 1;
};

}  // namespace base
