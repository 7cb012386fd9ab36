#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "base/clock.h"

namespace base {

/// Of what came within about the last `window`, how much was good: counted in thirtieths of it, which are forgotten one
/// by one. Not thread-safe.
class SlidingShare {
public:
    /// `window`: > 0.
    explicit SlidingShare(Duration window) : part_(std::max(Duration(1), window / kParts)) {}

    /// Time does not go back.
    void note(bool is_good, TimePoint now) {
        forget(now);
        Counts& part = parts_[static_cast<std::size_t>(newest_ % kParts)];
        for (Counts* const counts : {&part, &sum_}) {
            counts->good += is_good;
            ++counts->all;
        }
    }
    struct Counts {
        std::uint64_t good = 0;
        std::uint64_t all = 0;
    };
    Counts counts(TimePoint now) {
        forget(now);
        return sum_;
    }
    /// Empty when nothing came.
    std::optional<double> share(TimePoint now) {
        const Counts now_there = counts(now);
        if (now_there.all == 0) { return std::nullopt; }
        return static_cast<double>(now_there.good) / static_cast<double>(now_there.all);
    }

private:
    static constexpr std::int64_t kParts = 30;

    void forget(TimePoint now) {
        const std::int64_t part = now.time_since_epoch() / part_;
        for (std::int64_t i = std::max(newest_ + 1, part - kParts + 1); i <= part; ++i) {
            Counts& old = parts_[static_cast<std::size_t>(i % kParts)];
            sum_.good -= old.good;
            sum_.all -= old.all;
            old = {};
        }
        newest_ = std::max(newest_, part);
    }

    Duration part_;
    std::array<Counts, kParts> parts_;
    Counts sum_;
    std::int64_t newest_ = 0;  // the part that is being filled, counted from the clock's begin
};

}  // namespace base
