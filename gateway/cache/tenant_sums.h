#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

#include "gateway/cache/cache_ask.h"

namespace gateway {

/// What the cache has done for each tenant since the start: of the first `kTenantsMost` that came; the others are told
/// together. Requests that pass it by count for nobody. Not thread-safe.
class TenantSums {
public:
    static constexpr std::size_t kTenantsMost = 1024;
    struct Sums {
        std::uint64_t requests = 0;
        std::uint64_t hits = 0;  // of them, also those that shared another one's run
        double saved_s = 0;      // of the model
    };

    /// Once for a request, when it is known what became of it.
    void decided(const CacheAsk& ask, double saved_s) {
        if (ask.outcome == CacheOutcome::bypass) { return; }
        const auto found = named_.find(ask.tenant);
        const bool is_told = found != named_.end() || named_.size() < kTenantsMost;
        Sums& sums = found != named_.end() ? found->second : is_told ? named_[ask.tenant] : others_;
        ++sums.requests;
        if (!ask.is_served()) { return; }
        ++sums.hits;
        sums.saved_s += saved_s;
    }
    const std::map<std::string, Sums>& named() const { return named_; }
    const Sums& others() const { return others_; }

private:
    std::map<std::string, Sums> named_;
    Sums others_;
};

}  // namespace gateway
