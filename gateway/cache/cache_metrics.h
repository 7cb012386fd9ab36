#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/metrics.h"
#include "caching/store/shared_answers.h"
#include "gateway/cache/cache_ask.h"
#include "gateway/cache/similar_answers.h"

namespace gateway {

/// All rows `sluice_gateway_cache_*`. Made only where the cache is on. Thread-safe, like base::Metrics.
class CacheMetrics {
public:
    explicit CacheMetrics(base::Metrics& metrics);

    /// How a request ended up, once it is known. What it saved counts where it was served.
    void decided(const CacheAsk& ask, double saved_s);
    /// The model's work for an answer that was served again.
    void saved(const std::string& model, std::uint64_t prompt_tokens, std::uint64_t completion_tokens, double seconds);
    /// outcome: kept, cut, personal, too_large, empty, no_room, purged, quota.
    void stored(std::string_view outcome);
    /// A run that only compares; outcome: begun, busy.
    void shadow(std::string_view outcome);
    /// reason: queue_full, timeout.
    void lookup_skipped(std::string_view reason);
    /// A question's vector by an encoder of the cluster; outcome: made, kept (from before), shared (with another one's
    /// that is under way), busy (too much is under way), failed.
    void vector(std::string_view outcome);
    /// How far bounds give way for the load of the model's workers now.
    void relief(const std::string& model, double relief);
    /// An answer that at rest would not have been served; kind: exact (an equal request), semantic.
    void relieved(const std::string& model, std::string_view kind);
    /// A run of the model failed, and one of those who waited for it asks anew.
    void promoted() { promoted_.Increment(); }
    void purged(std::uint64_t entries) { purged_.Increment(static_cast<double>(entries)); }
    void standing(std::size_t entries, std::size_t bytes, std::uint64_t evicted, std::size_t waiters);
    void store(std::uint64_t written, std::uint64_t lost, bool is_well);
    /// A look at what other gateways keep; outcome: hit, miss, late (it took too long), away (it was not asked).
    void shared_lookup(std::string_view outcome);
    void shared(const caching::SharedAnswers& shared);
    void category(const CategoryStanding& standing);
    /// Answers that several tenants got alike: how many anybody may have, and how many wait for further tenants.
    void common(std::size_t answers, std::size_t waiting);
    /// One of them was served.
    void common_served(const std::string& model);

private:
    static void raise(prometheus::Counter& counter, std::uint64_t to);

    base::Metrics& metrics_;
    prometheus::Gauge& entries_;
    prometheus::Gauge& bytes_;
    prometheus::Counter& evicted_;
    prometheus::Gauge& waiters_;
    prometheus::Counter& promoted_;
    prometheus::Counter& purged_;
};

}  // namespace gateway
