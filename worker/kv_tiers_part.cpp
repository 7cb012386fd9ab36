#include "worker/kv_tiers_part.h"

#include "base/check.h"

namespace worker {

KvTiersPart::KvTiersPart(std::vector<KvTiers::Tier> tiers, const WorkerOptions& limits, StepControl& control,
                         const std::string& worker, base::Metrics& metrics)
    : control_(control), tiers_(std::move(tiers), limits, *this, worker, metrics) {}

TierSequence KvTiersPart::seen(const Sequence& sequence) {
    const StartRequest& request = sequence.request;
    TierSequence seen;
    seen.id = sequence.id;
    seen.key = request.key;
    seen.state = sequence.state;
    seen.tokens = static_cast<std::uint32_t>(sequence.tokens.size());
    seen.computed_tokens = sequence.computed_tokens;
    seen.step_tokens = sequence.step_tokens;
    seen.chain = sequence.chain;
    seen.kv = sequence.kv ? &*sequence.kv : nullptr;
    seen.first_token_due = request.slo.first_token;
    seen.source_tokens = request.kv_source ? request.kv_source->kv_tokens : 0;
    seen.must_be_computed = sequence.wants_prompt_scores();
    seen.session = request.session;
    return seen;
}

std::optional<TierSequence> KvTiersPart::find(RequestKey key) const {
    const Sequence* sequence = control_.find(key);
    return sequence == nullptr ? std::nullopt : std::optional(seen(*sequence));
}

void KvTiersPart::make_loading(RequestKey key) {
    Sequence* sequence = control_.find(key);
    CHECK(sequence != nullptr);
    control_.make_loading(*sequence);
}

void KvTiersPart::load_from_end(RequestKey key, const KvFromEnd& range) {
    Sequence* sequence = control_.find(key);
    CHECK(sequence != nullptr);
    control_.load_from_end(*sequence, range);
}

void KvTiersPart::loaded(RequestKey key, base::Result<std::uint32_t> kv_tokens) {
    control_.loaded(key, std::move(kv_tokens));
}

std::optional<base::Duration> KvTiersPart::predict_prefill(std::uint32_t computed_tokens, std::uint32_t tokens) const {
    return control_.predict_prefill(computed_tokens, tokens);
}

void KvTiersPart::tell_load_price(std::size_t level, double seconds_per_token) {
    control_.tell_load_price(level, seconds_per_token);
}

}  // namespace worker
