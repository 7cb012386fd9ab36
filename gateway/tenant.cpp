#include "gateway/tenant.h"

#include <algorithm>

namespace gateway {
namespace {

constexpr std::size_t kTenantBytesMax = 64;

bool is_tenant(std::string_view text) {
    return !text.empty() && text.size() <= kTenantBytesMax && std::all_of(text.begin(), text.end(), [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
               std::string_view("._:-").find(c) != std::string_view::npos;
    });
}

}  // namespace

ApiResult<std::string> tenant_of(const RequestHead& head, const std::string& field) {
    std::string tenant = "default";
    if (field.empty()) { return tenant; }
    std::size_t count = 0;
    for (const auto& [name, value] : head.fields) {
        if (name != field) { continue; }
        ++count;
        tenant = value;
    }
    if (count > 1) { return bad_request("", "the header " + field + " is given " + std::to_string(count) + " times"); }
    if (!is_tenant(tenant)) {
        return bad_request("", "the header " + field + " must hold 1 to 64 of the characters A-Z a-z 0-9 . _ : -");
    }
    return tenant;
}

}  // namespace gateway
