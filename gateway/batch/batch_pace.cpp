#include "gateway/batch/batch_pace.h"

#include <algorithm>

namespace gateway {

void BatchPace::ended(bool kept, base::TimePoint now) {
    if (kept) {
        ++kept_;
        return;
    }
    beside_ /= 2;
    kept_ = 0;
    grown_at_ = now + kPause - kGrowInterval;
}

std::size_t BatchPace::allowed(std::size_t others, std::size_t running, base::TimePoint now) {
    if (now < not_before_) { return 0; }
    if (others == 0) {
        // Who comes next finds as many as were borne before, but for those that are at work by then.
        return at_once_max_;
    }
    const bool is_used = running >= beside_;  // else more were allowed than there is
    const bool has_seen = kept_ > 0 || beside_ == 0;
    if (is_used && has_seen && now - grown_at_ >= kGrowInterval) {
        beside_ = std::min(beside_ + 1, at_once_max_);
        kept_ = 0;
        grown_at_ = now;
    }
    return beside_;
}

}  // namespace gateway
