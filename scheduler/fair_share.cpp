#include "scheduler/fair_share.h"

#include <algorithm>
#include <limits>

#include "base/check.h"
#include "base/ids.h"

namespace scheduler {

FairShare::FairShare(Options options) : options_(std::move(options)) {
    CHECK(options_.tokens_ahead_max > 0 && options_.fraction_min > 0 && options_.fraction_min <= 1);
    for (const double weight : options_.weights) {
        CHECK(weight > 0, weight);
    }
}

double FairShare::weight(TenantId tenant) const {
    return base::raw(tenant) < options_.weights.size() ? options_.weights[base::raw(tenant)] : 1;
}

double& FairShare::counter_at(TenantId tenant) {
    if (base::raw(tenant) >= counters_.size()) { counters_.resize(base::raw(tenant) + 1); }
    return counters_[base::raw(tenant)];
}

double FairShare::counter(TenantId tenant) const {
    return base::raw(tenant) < counters_.size() ? counters_[base::raw(tenant)] : 0;
}

void FairShare::asks(TenantId tenant, std::int32_t priority, base::TimePoint now) {
    bool was_active = false;
    std::optional<double> least;
    for (auto at = asked_.begin(); at != asked_.end();) {
        if (!is_active(at->second, now)) {
            at = asked_.erase(at);
            continue;
        }
        was_active = was_active || at->first.tenant == tenant;
        const double other = counter(at->first.tenant);
        if (at->first.tenant != tenant) { least = least ? std::min(*least, other) : other; }
        ++at;
    }
    if (!was_active) {
        // Among nobody: to whoever was here last.
        if (!least && last_) { least = counter(*last_); }
        if (least) { counter_at(tenant) = std::max(counter(tenant), *least); }
    }
    asked_[{priority, tenant}] = now;
    last_ = tenant;
}

double FairShare::tokens_ahead(TenantId tenant, std::int32_t priority, base::TimePoint now) const {
    double least = counter(tenant);
    const auto first = asked_.lower_bound({priority, TenantId{0}});
    for (auto at = first; at != asked_.end() && at->first.priority == priority; ++at) {
        if (is_active(at->second, now)) { least = std::min(least, counter(at->first.tenant)); }
    }
    return counter(tenant) - least;
}

double FairShare::fraction(TenantId tenant, std::int32_t priority, base::TimePoint now) const {
    const auto above = asked_.lower_bound({priority, TenantId{std::numeric_limits<std::uint32_t>::max()}});
    const bool is_below_others =
        std::any_of(above, asked_.end(), [&](const auto& one) { return is_active(one.second, now); });
    const double ahead = std::min(1.0, tokens_ahead(tenant, priority, now) / options_.tokens_ahead_max);
    const double among_equals = 1 - ahead * (1 - options_.fraction_min);
    return is_below_others ? options_.fraction_min * among_equals : among_equals;
}

void FairShare::charge(TenantId tenant, double prompt_tokens, double answer_tokens) {
    counter_at(tenant) += (prompt_tokens + kAnswerWeight * answer_tokens) / weight(tenant);
}

}  // namespace scheduler
