#pragma once

#include <cstddef>
#include <vector>

#include "base/clock.h"
#include "caching/semantic/load_relief.h"

namespace gateway {

/// How far the cache's bounds give way for each model, from what the scheduler says of its workers. I/O thread only.
class PoolRelief {
public:
    /// `loads`: by model; borrowed, like the clock.
    PoolRelief(caching::LoadRelief::Options options, const std::vector<double>& loads, const base::Clock& clock)
        : loads_(loads), clock_(clock), reliefs_(loads.size(), caching::LoadRelief(options)) {}

    /// Looks at the load now; called with every request, so that it follows it.
    double of(std::size_t model) {
        const base::TimePoint now = clock_.now();
        reliefs_[model].see(loads_[model], now);
        return reliefs_[model].at(now);
    }

private:
    const std::vector<double>& loads_;
    const base::Clock& clock_;
    std::vector<caching::LoadRelief> reliefs_;  // by model
};

}  // namespace gateway
