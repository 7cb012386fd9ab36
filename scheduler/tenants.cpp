#include "scheduler/tenants.h"

namespace scheduler {
namespace {

constexpr std::size_t kNameBytesMax = 64;
constexpr TenantId kOther{0};

}  // namespace

Tenants::Tenants(std::size_t tenants_max) : tenants_max_(tenants_max), names_{"other"} {}

TenantId Tenants::id_of(std::string_view name) {
    if (name.empty()) { name = "default"; }
    if (name == names_.front() || name.size() > kNameBytesMax) { return kOther; }
    if (const auto known = ids_.find(name); known != ids_.end()) { return known->second; }
    if (ids_.size() >= tenants_max_) { return kOther; }
    const TenantId id{static_cast<std::uint32_t>(names_.size())};
    names_.emplace_back(name);
    ids_.emplace(name, id);
    return id;
}

}  // namespace scheduler
