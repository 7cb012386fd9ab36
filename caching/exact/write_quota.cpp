#include "caching/exact/write_quota.h"

#include <algorithm>

namespace caching {
namespace {

constexpr double kMinuteS = 60;
constexpr base::Duration kSweepEvery = std::chrono::seconds(1);  // so that newcomers do not cost a look at all

}  // namespace

double WriteQuota::left_of(const Tenant& tenant, base::TimePoint now) const {
    const auto most = static_cast<double>(options_.per_minute);
    const double passed_s = std::max(std::chrono::duration<double>(now - tenant.at).count(), 0.0);
    return std::min(tenant.left + passed_s * most / kMinuteS, most);
}

void WriteQuota::forget_idle(base::TimePoint now) {
    if (was_swept_ && now - swept_at_ < kSweepEvery) { return; }
    was_swept_ = true;
    swept_at_ = now;
    std::erase_if(tenants_, [&](const auto& one) {
        return left_of(one.second, now) >= static_cast<double>(options_.per_minute);
    });
}

bool WriteQuota::take(const std::string& tenant, base::TimePoint now) {
    if (options_.per_minute == 0) { return true; }
    auto found = tenants_.find(tenant);
    if (found == tenants_.end()) {
        if (tenants_.size() >= options_.tenants_max) { forget_idle(now); }
        if (tenants_.size() >= options_.tenants_max) { return false; }
        found = tenants_.emplace(tenant, Tenant{.left = static_cast<double>(options_.per_minute), .at = now}).first;
    }
    Tenant& one = found->second;
    one.left = left_of(one, now);
    one.at = now;
    if (one.left < 1) { return false; }
    one.left -= 1;
    return true;
}

}  // namespace caching
