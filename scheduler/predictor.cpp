#include "scheduler/predictor.h"

namespace scheduler {
namespace {

// Where learning starts: a model of about 100M parameters on a few CPU cores. Only the proportions matter for long: the
// fit scales them to the machine with the first samples.
constexpr LinearFit::Options kPrefillStart{.prior = {2e-3, 2e-4, 1e-8}, .bucket_bits = {2, 4}};
constexpr LinearFit::Options kDecodeStart{.prior = {5e-3, 1e-3, 1e-6}, .bucket_bits = {2, 3}};
// One gigabyte a second; the third coefficient has no feature.
constexpr LinearFit::Options kTransferStart{.prior = {1e-3, 1e-9, 1e-9}, .bucket_bits = {5, 64}};

/// A mixed step whose decode share is predicted to be more of it than this says too little about prefill.
constexpr double kDecodeShareMax = 0.75;

double seconds_of(std::uint32_t microseconds) {
    return static_cast<double>(microseconds) * 1e-6;
}

}  // namespace

Predictor::Fits::Fits() : prefill(kPrefillStart), decode(kDecodeStart), transfer(kTransferStart) {}

Predictor::Predictor() : transfer_everywhere_(kTransferStart) {}

Predictor::StepRatios Predictor::observe_step(base::WorkerId worker, Role role,
                                              const sluice::proto::StepSample& sample) {
    const auto prefill_tokens = static_cast<double>(sample.prefill_tokens());
    const auto prefill_context = static_cast<double>(sample.prefill_context_tokens());
    const auto sequences = static_cast<double>(sample.decode_sequences());
    const auto decode_context = static_cast<double>(sample.decode_context_tokens());
    const double seconds = seconds_of(sample.duration_us());
    Fits& own = workers_[worker];
    Fits& shared = of_role(role);
    StepRatios ratios;
    if (prefill_tokens > 0) {
        double rest = seconds;
        if (sequences > 0) {
            const DecodeCost decode = costs(worker, role).decode;
            rest -= sequences * decode.sequence_seconds + decode_context * decode.context_seconds;
            if (rest < (1 - kDecodeShareMax) * seconds) { return ratios; }
        }
        ratios.prefill = own.prefill.observe(prefill_tokens, prefill_context, rest);
        static_cast<void>(shared.prefill.observe(prefill_tokens, prefill_context, rest));
    } else if (sequences > 0) {
        ratios.decode = own.decode.observe(sequences, decode_context, seconds);
        static_cast<void>(shared.decode.observe(sequences, decode_context, seconds));
    }
    return ratios;
}

std::optional<double> Predictor::observe_transfer(base::WorkerId worker, Role role,
                                                  const sluice::proto::TransferSample& sample) {
    if (sample.bytes() == 0) { return std::nullopt; }
    const auto bytes = static_cast<double>(sample.bytes());
    const double seconds = seconds_of(sample.duration_us());
    static_cast<void>(transfer_everywhere_.observe(bytes, 0, seconds));
    static_cast<void>(of_role(role).transfer.observe(bytes, 0, seconds));
    return workers_[worker].transfer.observe(bytes, 0, seconds);
}

Costs Predictor::costs(base::WorkerId worker, Role role) const {
    const auto own = workers_.find(worker);
    const Fits& shared = roles_[static_cast<std::size_t>(role)];
    const auto pick = [&](LinearFit Fits::* fit) -> const LinearFit& {
        if (own != workers_.end() && (own->second.*fit).is_fitted()) { return own->second.*fit; }
        return shared.*fit;
    };
    const LinearFit::Coefficients& prefill = pick(&Fits::prefill).coefficients();
    const LinearFit::Coefficients& decode = pick(&Fits::decode).coefficients();
    const LinearFit& transfer_fit = pick(&Fits::transfer);
    const LinearFit::Coefficients& transfer =
        (transfer_fit.is_fitted() ? transfer_fit : transfer_everywhere_).coefficients();
    return {.prefill = {prefill[0], prefill[1], prefill[2]},
            .decode = {decode[0], decode[1], decode[2]},
            .transfer = {transfer[0], transfer[1]}};
}

void Predictor::forget(base::WorkerId worker) {
    workers_.erase(worker);
}

}  // namespace scheduler
