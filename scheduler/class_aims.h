#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/sliding_share.h"

namespace scheduler {

/// A class of requests that has an aim; none: all others.
enum class AimedClass : std::uint32_t { none = 0 };

/// What classes of requests get against what they are meant to get, their attainment, and which of them gives way: one
/// that misses less than it may, while another one of its priority, or of a higher one, misses more than it may. Not
/// thread-safe.
class ClassAims {
public:
    struct Options {
        base::Duration window = std::chrono::minutes(5);
        /// Of the time that a request could wait (FairShare): what is left to a class that gives way.
        double fraction_min = 0.5;
        /// Fewer requests than these say nothing of a share.
        std::uint32_t requests_min = 10;
    };
    explicit ClassAims(const Options& options);

    struct Aim {
        double attainment;  // share of its requests that shall meet their targets, (0, 1]
        std::int32_t priority;
    };
    using Aims = std::map<std::string, Aim, std::less<>>;
    /// By class. What is known of those that had an aim before stays.
    void set(const Aims& aims);
    AimedClass find(std::string_view name) const;
    /// A request was in time, or was not: refused ones, too.
    void judged(AimedClass of, bool is_met, base::TimePoint now);
    /// Of the time that a request of the class could wait, how much it may be predicted to wait: (0, 1].
    double fraction(AimedClass of, base::TimePoint now);
    /// Misses by those that the class may have; 1: just so many. 0 where too little is known.
    double burn(AimedClass of, base::TimePoint now);

private:
    struct Class {
        double misses_max;  // share; 0: it has no aim any more
        std::int32_t priority;
        base::SlidingShare met;
    };

    const Options options_;
    std::map<std::string, AimedClass, std::less<>> names_;
    std::vector<Class> classes_;  // by AimedClass, less one
};

}  // namespace scheduler
