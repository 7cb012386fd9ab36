#pragma once

#include <cstddef>
#include <cstdint>
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

    /// Of one answer; nothing where all are 0. `cached`: of `prompt`.
    void add(const std::string& tenant, std::uint64_t prompt, std::uint64_t cached, std::uint64_t completion);

private:
    base::Metrics& metrics_;
    const std::size_t named_max_;
    std::set<std::string> named_;
};

}  // namespace gateway
