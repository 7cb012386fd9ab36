#include "kv_transfer/rate/bandwidth.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "base/check.h"

namespace kv_transfer {
namespace {

double seconds_of(base::Duration duration) {
    return std::chrono::duration<double>(duration).count();
}

}  // namespace

void Bandwidth::Mean::add(double rate, double seconds) {
    const double kept = std::exp2(-seconds / half_life_s_);
    sum_ = sum_ * kept + rate * (1 - kept);
    weight_ = weight_ * kept + (1 - kept);
}

void Bandwidth::add(std::uint64_t bytes, base::Duration busy) {
    bytes_ += bytes;
    busy_ += std::max(busy, base::Duration::zero());
    if (busy_ == base::Duration::zero() || bytes_ == 0 || (bytes_ < kSampleBytes && busy_ < kSampleTime)) { return; }
    const double seconds = seconds_of(busy_);
    const double rate = static_cast<double>(bytes_) / seconds;
    const double error = samples_ == 0 ? 0 : (expected() - rate) / rate;
    errors_[newest_error_] = std::max(errors_[newest_error_], error);
    newest_error_s_ += seconds;
    if (newest_error_s_ >= seconds_of(kErrorTime)) {
        newest_error_ = (newest_error_ + 1) % kErrors;
        errors_[newest_error_] = 0;
        newest_error_s_ = 0;
    }
    late_[samples_ % kLate] = {rate, static_cast<double>(bytes_)};
    ++samples_;
    busy_s_ += seconds;
    fast_.add(rate, seconds);
    slow_.add(rate, seconds);
    bytes_ = 0;
    busy_ = {};
}

double Bandwidth::harmonic() const {
    double bytes = 0;
    double seconds = 0;
    for (std::size_t i = 0; i < std::min<std::uint64_t>(samples_, kLate); ++i) {
        bytes += late_[i].bytes;
        seconds += late_[i].bytes / late_[i].rate;
    }
    return seconds <= 0 ? 0 : bytes / seconds;
}

double Bandwidth::expected() const {
    return std::min({harmonic(), fast(), slow()});
}

double Bandwidth::low() const {
    const double error =
        std::max(*std::max_element(errors_.begin(), errors_.end()), kStrange * std::exp2(-busy_s_ / kFamiliar_s));
    return expected() / (1 + error);
}

void WireMeter::landed(base::TimePoint sent, base::TimePoint landed, std::uint64_t bytes) {
    const base::TimePoint begin = std::max(sent, last_landed_);
    bandwidth_.add(bytes, landed - begin);
    last_landed_ = std::max(last_landed_, landed);
}

void Ratio::add(double above, double below) {
    CHECK(above > 0 && below > 0, above << " by " << below);
    above_ = above_ * kKept + above;
    below_ = below_ * kKept + below;
}

}  // namespace kv_transfer
