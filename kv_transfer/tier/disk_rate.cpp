#include "kv_transfer/tier/disk_rate.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "kv_transfer/tier/tier_record.h"

namespace kv_transfer {
namespace {

constexpr double kLearningStep = 0.5;   // of each load
constexpr double kChanged = 0.1;        // by so much, and it is kept anew
constexpr double kWaitedShare = 0.25;   // of the time: less, and it was not the disk that took it
constexpr double kLeastSeconds = 1e-6;  // no clock tells less

double rate_of(std::uint64_t bytes, base::Duration taken) {
    const double seconds = std::max(kLeastSeconds, std::chrono::duration<double>(taken).count());
    return std::clamp(static_cast<double>(bytes) / seconds, kTierRateMin, kTierRateMax);
}

}  // namespace

void DiskRate::begin(std::uint64_t bytes, base::Duration quickest, std::optional<double> kept) {
    if (bytes == 0) { return; }
    const double read = rate_of(bytes, quickest);
    const bool is_alike = kept && *kept <= read * kAlike && *kept >= read / kAlike;
    rate_ = is_alike ? *kept : read;
    is_guess_ = true;
    told_ = is_alike ? *kept : 0;
}

void DiskRate::add(std::uint64_t bytes, base::Duration taken, base::Duration waited, bool overlaps) {
    if (bytes < kLoadBytes) { return; }
    // Read one after the other: only the waiting was for the disk.
    const double rate = rate_of(bytes, overlaps ? taken : waited);
    const bool was_busy = !overlaps || std::chrono::duration<double>(waited).count() >=
                                           kWaitedShare * std::chrono::duration<double>(taken).count();
    if (!rate_ || (is_guess_ && was_busy)) {
        rate_ = rate;
    } else if (was_busy) {
        *rate_ += kLearningStep * (rate - *rate_);
    } else {
        rate_ = std::max(*rate_, rate);  // at least that
    }
    is_guess_ = is_guess_ && !was_busy;
}

std::optional<double> DiskRate::take_changed() {
    if (!rate_ || std::abs(*rate_ - told_) <= kChanged * told_) { return std::nullopt; }
    told_ = *rate_;
    return rate_;
}

}  // namespace kv_transfer
