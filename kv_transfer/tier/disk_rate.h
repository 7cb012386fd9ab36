#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "base/clock.h"

namespace kv_transfer {

/// What a disk gives, bytes a second, told by the reads of a level: a few small ones at start, what an earlier process
/// kept, then loads. A value; not thread-safe.
class DiskRate {
public:
    /// Reads that were made to find it out, and what the quickest took: what others do to the disk, or the machine,
    /// makes single ones slow. `kept`: of an earlier process, which counts where both say about the same, since a load
    /// is the better measurement.
    void begin(std::uint64_t bytes, base::Duration quickest, std::optional<double> kept);
    /// Somebody knows.
    void begin(double rate) { rate_ = rate; }
    /// A load of so many bytes; `waited`: how much of `taken` was for the disk. Where that is little (it was decoding,
    /// or checksums) the disk may be quicker than it looks. Small loads say nothing.
    void add(std::uint64_t bytes, base::Duration taken, base::Duration waited, bool overlaps);

    /// Empty while nothing is known.
    std::optional<double> value() const { return rate_; }
    /// What is to be kept, once each time that it has changed by a tenth.
    std::optional<double> take_changed();

    static constexpr std::uint64_t kLoadBytes = 256u << 10;  // of a load that says something
    static constexpr double kAlike = 4;                      // `kept` counts up to so many times what reads say

private:
    std::optional<double> rate_;
    bool is_guess_ = false;  // of begin()
    double told_ = 0;        // by take_changed()
};

}  // namespace kv_transfer
