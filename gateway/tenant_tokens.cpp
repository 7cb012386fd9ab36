#include "gateway/tenant_tokens.h"

namespace gateway {

struct TenantTokens::Rows {
    Rows(base::Metrics& metrics, const std::string& tenant)
        : series(metrics),
          prompt(row(tenant, "prompt")),
          cached_prompt(row(tenant, "cached_prompt")),
          completion(row(tenant, "completion")) {}

    prometheus::Counter& row(const std::string& tenant, const char* kind) {
        return series.counter("sluice_gateway_tenant_tokens_total",
                              "Tokens of answered requests by tenant; beyond gateway.tenants_named_max all are other",
                              {{"tenant", tenant}, {"kind", kind}});
    }

    base::SeriesLease series;
    prometheus::Counter& prompt;
    prometheus::Counter& cached_prompt;
    prometheus::Counter& completion;
};

void TenantTokens::set_tenants(const std::shared_ptr<const std::set<std::string>>& tenants) {
    if (tenants == tenants_) { return; }
    tenants_ = tenants;
    std::erase_if(named_, [this](const auto& one) { return !tenants_->contains(one.first); });
}

TenantTokens::Rows& TenantTokens::rows_of(const std::string& tenant) {
    if (const auto known = named_.find(tenant); known != named_.end()) { return *known->second; }
    if (named_.size() < named_max_ && (tenants_ == nullptr || tenants_->contains(tenant))) {
        return *named_.emplace(tenant, std::make_shared<Rows>(metrics_, tenant)).first->second;
    }
    if (other_ == nullptr) { other_ = std::make_shared<Rows>(metrics_, kOther); }
    return *other_;
}

void TenantTokens::add(const std::string& tenant, std::uint64_t prompt, std::uint64_t cached,
                       std::uint64_t completion) {
    if (prompt == 0 && completion == 0) { return; }
    Rows& rows = rows_of(tenant);
    rows.prompt.Increment(static_cast<double>(prompt));
    rows.cached_prompt.Increment(static_cast<double>(cached));
    rows.completion.Increment(static_cast<double>(completion));
}

}  // namespace gateway
