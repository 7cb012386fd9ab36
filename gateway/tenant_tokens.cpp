#include "gateway/tenant_tokens.h"

namespace gateway {

void TenantTokens::add(const std::string& tenant, std::uint64_t prompt, std::uint64_t cached,
                       std::uint64_t completion) {
    if (prompt == 0 && completion == 0) { return; }
    bool is_named = named_.contains(tenant);
    if (!is_named && named_.size() < named_max_) { is_named = named_.insert(tenant).second; }
    const auto count = [&](const char* kind, std::uint64_t tokens) {
        metrics_
            .counter("sluice_gateway_tenant_tokens_total",
                     "Tokens of answered requests by tenant; beyond gateway.tenants_named_max all are other",
                     {{"tenant", is_named ? tenant : kOther}, {"kind", kind}})
            .Increment(static_cast<double>(tokens));
    };
    count("prompt", prompt);
    count("cached_prompt", cached);
    count("completion", completion);
}

}  // namespace gateway
