#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace scheduler {

/// A tenant by a small number, in order of first sight.
enum class TenantId : std::uint32_t {};

/// Names of tenants for accounts and metrics: how many there are is up to whoever sends requests, so only the first
/// `tenants_max` get a number of their own and all others share `other`. Not thread-safe.
class Tenants {
public:
    explicit Tenants(std::size_t tenants_max);

    /// An empty name is "default". Names longer than 64 bytes are `other`.
    TenantId id_of(std::string_view name);
    /// By number; [0] is "other".
    const std::vector<std::string>& names() const { return names_; }

private:
    std::size_t tenants_max_;
    std::vector<std::string> names_;
    std::map<std::string, TenantId, std::less<>> ids_;
};

}  // namespace scheduler
