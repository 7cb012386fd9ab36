#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "base/metrics.h"

namespace gateway {

/// The rows `sluice_gateway_tenant_tokens_total`: what each tenant used. The label is its name, never a key. The first
/// `named_max` of them have rows of their own, all later ones share one, so that a client that is trusted with names
/// (gateway.tenant_header) cannot make series. I/O thread only.
class TenantTokens {
public:
    /// Where all tenants beyond these are counted.
    static constexpr const char* kOther = "other";

    TenantTokens(base::Metrics& metrics, std::size_t named_max) : metrics_(metrics), named_max_(named_max) {}

    /// Whoever has API keys says whose there are: only these tenants may have rows of their own from now on. Rows of
    /// others end, and what is still under way for them counts for `kOther`. Nothing to do for a list that it has.
    void set_tenants(const std::shared_ptr<const std::set<std::string>>& tenants);

    /// Of one answer; nothing where all are 0. `cached`: of `prompt`.
    void add(const std::string& tenant, std::uint64_t prompt, std::uint64_t cached, std::uint64_t completion);

private:
    struct Rows;
    Rows& rows_of(const std::string& tenant);

    base::Metrics& metrics_;
    const std::size_t named_max_;
    std::shared_ptr<const std::set<std::string>> tenants_;  // null: anybody may be one
    std::map<std::string, std::shared_ptr<Rows>> named_;
    std::shared_ptr<Rows> other_;
};

}  // namespace gateway
