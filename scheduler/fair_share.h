#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "base/clock.h"
#include "scheduler/tenants.h"

namespace scheduler {

/// How much service each tenant has had, in virtual tokens, and how far one may fill queues that has had more than the
/// others. Source: VTC (Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024), algorithm 2, with
/// predicted answers (section 4.3 there). The scheduler has no queue whose order it could choose: requests are placed
/// as they come, so the counters say who is let in. Not thread-safe.
///
/// A counter grows by (prompt tokens to compute + kAnswerWeight * answer tokens) / weight. Who comes new, or comes back
/// after `window` without a request, is lifted to the least counter of those who are active: nobody saves up. Classes
/// of a higher priority come first: only those of one priority are compared, and while a higher one is active, a lower
/// one may fill queues as if it had had far too much.
class FairShare {
public:
    /// A token of an answer weighs so many of a prompt (the ratio of VTC's evaluation and of common prices).
    static constexpr double kAnswerWeight = 2;

    struct Options {
        /// By tenant; those beyond the end have 1. All > 0.
        std::vector<double> weights = {};
        /// Whoever is this many virtual tokens ahead has the least fraction, and between there is a straight line: how
        /// far two tenants with requests at hand may come apart, but for one request.
        double tokens_ahead_max = 16'384;
        /// Of the time that a request could wait.
        double fraction_min = 0.5;
        base::Duration window = std::chrono::seconds(60);
    };
    explicit FairShare(Options options);

    /// The tenant asks, whether it gets a place or not.
    void asks(TenantId tenant, std::int32_t priority, base::TimePoint now);
    /// How much of the time that a request could wait, what its own prompt takes left aside, one of the tenant, which
    /// has just asked, may be predicted to wait: (0, 1].
    double fraction(TenantId tenant, std::int32_t priority, base::TimePoint now) const;
    /// How far the tenant's counter is above the least of those it is compared with; 0: it is the least, or alone.
    double tokens_ahead(TenantId tenant, std::int32_t priority, base::TimePoint now) const;

    /// Service was promised, or turned out to be another (negative: less).
    void charge(TenantId tenant, double prompt_tokens, double answer_tokens);
    double counter(TenantId tenant) const;

private:
    struct Key {
        std::int32_t priority;
        TenantId tenant;
        auto operator<=>(const Key&) const = default;
    };
    double weight(TenantId tenant) const;
    double& counter_at(TenantId tenant);
    bool is_active(base::TimePoint asked, base::TimePoint now) const { return now - asked < options_.window; }

    const Options options_;
    std::vector<double> counters_;          // by tenant
    std::map<Key, base::TimePoint> asked_;  // last; of a bounded number of tenants and priorities
    std::optional<TenantId> last_;          // who asked
};

}  // namespace scheduler
