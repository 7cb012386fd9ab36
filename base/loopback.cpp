#include "base/loopback.h"

#include <arpa/inet.h>

#include <string>

namespace base {

bool is_loopback_host(std::string_view host) {
    if (host.starts_with('[') && host.ends_with(']')) { host = host.substr(1, host.size() - 2); }
    if (host == "localhost") { return true; }
    const std::string text(host);
    in6_addr six{};
    if (inet_pton(AF_INET6, text.c_str(), &six) == 1) { return IN6_IS_ADDR_LOOPBACK(&six); }
    in_addr four{};
    return inet_pton(AF_INET, text.c_str(), &four) == 1 && (ntohl(four.s_addr) >> 24) == 127;
}

}  // namespace base
