#pragma once

#include <optional>

#include "base/clock.h"

namespace caching {

/// How far bounds give way because a pool has too much to do: 0 at rest, 1 wholly. Follows the load within seconds
/// upwards and more slowly downwards, and moves a tenth a second at the most, so that a burst of arrivals is no load.
/// Without news for a while it is at rest: an unknown load relaxes nothing. Pure; not thread-safe.
/// Source: load-adaptive policies of "Category-aware semantic caching" (arXiv 2510.26835), which projects them.
class LoadRelief {
public:
    struct Options {
        double from = 0.8;  // load of the pool from which on bounds give way; 1: as much as it can do
        double full = 1.2;  // and at which they have; above `from`
    };
    explicit LoadRelief(Options options) : options_(options) {}

    /// `load` is the pool's at `now`: what it has to do by what it can. Times never go back.
    void see(double load, base::TimePoint now);
    double at(base::TimePoint now) const;
    /// Of what was seen, as it is weighed.
    double mean() const { return mean_; }

private:
    Options options_;
    double mean_ = 0;
    double relief_ = 0;
    std::optional<base::TimePoint> seen_;
};

}  // namespace caching
