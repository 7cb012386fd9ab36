#include "scheduler/predictor.h"

#include <cmath>

namespace scheduler {
namespace {

// One gigabyte a second, and of each other hand-off as much again.
constexpr base::LinearFit::Options kTransferStart{.prior = {1e-3, 1e-9, 1e-9}, .bucket_bits = {5, 64}};

/// The last steps of so long tell how often prompts are computed beside those that decode.
constexpr double kMixRememberedSeconds = 5;

double seconds_of(std::uint32_t microseconds) {
    return static_cast<double>(microseconds) * 1e-6;
}

}  // namespace

void Predictor::Mix::note(const base::StepWork& work, double seconds) {
    if (work.decode_sequences == 0) { return; }
    const double keep = std::exp(-seconds / kMixRememberedSeconds);
    for (double* sum : {&steps, &mixed_steps, &mixed_seconds}) {
        *sum *= keep;
    }
    steps += 1;
    if (work.prefill_tokens == 0) { return; }
    mixed_steps += 1;
    mixed_seconds += seconds;
}

MixedSteps Predictor::Mix::mean(double ratio) const {
    if (mixed_steps < 1) { return {.ratio = ratio}; }
    return {.share = mixed_steps / steps, .seconds = mixed_seconds / mixed_steps, .ratio = ratio};
}

Predictor::Fits::Fits() : transfer(kTransferStart) {}

Predictor::Predictor() : transfer_everywhere_(kTransferStart) {}

base::StepFit::Ratios Predictor::observe_step(base::WorkerId worker, Role role,
                                              const sluice::proto::StepSample& sample) {
    const base::StepWork work{.prefill_tokens = static_cast<double>(sample.prefill_tokens()),
                              .prefill_context = static_cast<double>(sample.prefill_context_tokens()),
                              .decode_sequences = static_cast<double>(sample.decode_sequences()),
                              .decode_context = static_cast<double>(sample.decode_context_tokens())};
    const double seconds = seconds_of(sample.duration_us());
    auto& own = workers_[worker];
    own.mix.note(work, seconds);
    Fits& shared = of_role(role);
    const DecodeCost decode = (own.step.decode_is_fitted() ? own.step : shared.step).decode();
    static_cast<void>(shared.step.observe(work, seconds, decode));
    return own.step.observe(work, seconds, decode);
}

std::optional<double> Predictor::observe_transfer(base::WorkerId worker, Role role,
                                                  const sluice::proto::TransferSample& sample) {
    if (sample.bytes() == 0 || role == Role::prefill) { return std::nullopt; }
    const auto bytes = static_cast<double>(sample.bytes());
    const double others = bytes * sample.others();
    const double seconds = seconds_of(sample.duration_us());
    static_cast<void>(transfer_everywhere_.observe(bytes, others, seconds));
    static_cast<void>(of_role(role).transfer.observe(bytes, others, seconds));
    return workers_[worker].transfer.observe(bytes, others, seconds);
}

/// A decode worker computes prompts as the workers for prefill do, until one has been seen to.
const base::StepFit& Predictor::prefill_of_role(Role role) const {
    const auto fit = [this](Role of) -> const base::StepFit& { return roles_[static_cast<std::size_t>(of)].step; };
    if (role != Role::decode || fit(role).prefill_is_fitted()) { return fit(role); }
    return fit(Role::prefill).prefill_is_fitted() ? fit(Role::prefill) : fit(Role::mixed);
}

Costs Predictor::costs(base::WorkerId worker, Role role) const {
    const auto own = workers_.find(worker);
    const Fits& shared = roles_[static_cast<std::size_t>(role)];
    const bool is_known = own != workers_.end();
    const base::StepFit& prefill =
        is_known && own->second.step.prefill_is_fitted() ? own->second.step : prefill_of_role(role);
    const base::StepFit& decode = is_known && own->second.step.decode_is_fitted() ? own->second.step : shared.step;
    const base::LinearFit& transfer = is_known && own->second.transfer.is_fitted() ? own->second.transfer
                                      : shared.transfer.is_fitted()                ? shared.transfer
                                                                                   : transfer_everywhere_;
    return {.prefill = prefill.prefill(),
            .decode = decode.decode(),
            .transfer = {transfer.coefficients()[0], transfer.coefficients()[1], transfer.coefficients()[2]},
            .mixed = is_known ? own->second.mix.mean(own->second.step.mixed_ratio())
                              : MixedSteps{.ratio = shared.step.mixed_ratio()},
            .learned = (role == Role::decode || prefill.prefill_is_fitted()) &&
                       (role == Role::prefill || decode.decode_is_fitted()),
            .prefill_learned = prefill.prefill_is_fitted()};
}

void Predictor::forget(base::WorkerId worker) {
    workers_.erase(worker);
}

}  // namespace scheduler
