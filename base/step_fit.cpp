#include "base/step_fit.h"

#include <algorithm>

namespace base {
namespace {

// Where learning starts: a model of about 100M parameters on a few CPU cores. Only the proportions matter for long: the
// fit scales them to the machine with the first samples.
constexpr LinearFit::Options kPrefillStart{.prior = {2e-3, 2e-4, 1e-8}, .bucket_bits = {2, 4}};
constexpr LinearFit::Options kDecodeStart{.prior = {5e-3, 1e-3, 1e-6}, .bucket_bits = {2, 3}};

/// A mixed step whose decode share is predicted to be more of it than this says too little about prefill.
constexpr double kDecodeShareMax = 0.75;

constexpr double kRatioStep = 1.0 / 16;  // of each mixed step
constexpr double kRatioMin = 0.5;
constexpr double kRatioMax = 2;

}  // namespace

StepFit::StepFit() : prefill_(kPrefillStart), decode_(kDecodeStart) {}

StepFit::Ratios StepFit::observe(const StepWork& work, double seconds, const DecodeCost& decode) {
    if (work.prefill_tokens == 0) {
        if (work.decode_sequences == 0) { return {}; }
        return {.prefill = {}, .decode = decode_.observe(work.decode_sequences, work.decode_context, seconds)};
    }
    const auto known = cost();
    if (known && work.decode_sequences > 0) {
        const double ratio = std::clamp(seconds / step_seconds(*known, work), kRatioMin, kRatioMax);
        mixed_ratio_ += kRatioStep * (ratio - mixed_ratio_);
    }
    const double rest = seconds - decode_share_seconds(decode, work.decode_sequences, work.decode_context);
    if (rest < (1 - kDecodeShareMax) * seconds) { return {}; }
    return {.prefill = prefill_.observe(work.prefill_tokens, work.prefill_context, rest), .decode = {}};
}

std::optional<StepCost> StepFit::cost() const {
    if (!prefill_is_fitted() || !decode_is_fitted()) { return std::nullopt; }
    return StepCost{prefill(), decode()};
}

PrefillCost StepFit::prefill() const {
    const LinearFit::Coefficients& c = prefill_.coefficients();
    return {c[0], c[1], c[2]};
}

DecodeCost StepFit::decode() const {
    const LinearFit::Coefficients& c = decode_.coefficients();
    return {c[0], c[1], c[2]};
}

}  // namespace base
