#include "gateway/request/session_hints.h"

#include <algorithm>
#include <span>

namespace gateway {

std::uint64_t hint_name(const base::HashKey& key, HintKind kind, std::string_view tenant, std::string_view name) {
    if (name.empty()) { return 0; }
    std::string text{static_cast<char>(kind)};
    text += std::to_string(tenant.size());  // so that no tenant and name together are another tenant's and name
    text += ':';
    text += tenant;
    text += name;
    return std::max<std::uint64_t>(1, base::keyed_hash(key, std::as_bytes(std::span(text))).low);
}

}  // namespace gateway
