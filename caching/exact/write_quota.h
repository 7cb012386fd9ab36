#pragma once

#include <cstddef>
#include <string>
#include <unordered_map>

#include "base/clock.h"

namespace caching {

/// How much each tenant may have written, so that none of them turns over what all have kept: so many a minute, and as
/// many at once after a minute without any. A share of the bytes bounds what one tenant holds; this bounds what it
/// pushes out, writes to a disk and sends to other gateways. Bounded in tenants: while more than that are at it,
/// further ones write nothing. Pure; not thread-safe.
class WriteQuota {
public:
    struct Options {
        std::size_t per_minute = 0;  // of one tenant; 0: no bound, and nothing is kept of anybody
        std::size_t tenants_max = 65'536;
    };
    explicit WriteQuota(Options options) : options_(options) {}

    /// Whether the tenant may have one more written now; it counts then. Times do not go back.
    bool take(const std::string& tenant, base::TimePoint now);
    std::size_t tenants() const { return tenants_.size(); }

private:
    struct Tenant {
        double left = 0;
        base::TimePoint at{};  // when so many were left
    };
    double left_of(const Tenant& tenant, base::TimePoint now) const;
    /// Forgets tenants that may write all that they ever may.
    void forget_idle(base::TimePoint now);

    Options options_;
    std::unordered_map<std::string, Tenant> tenants_;
    base::TimePoint swept_at_{};
    bool was_swept_ = false;
};

}  // namespace caching
