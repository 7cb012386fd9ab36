#pragma once

#include <string_view>

namespace base {

/// Whether `host` (no port; brackets around an IPv6 address may be there) is this machine and nothing else: localhost,
/// 127.0.0.0/8, ::1. Names are not resolved.
bool is_loopback_host(std::string_view host);

}  // namespace base
