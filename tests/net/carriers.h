#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "base/check.h"
#include "base/clock.h"
#include "net/tls.h"
#include "net/ucx.h"
#include "tests/net/carriers_tls.h"

namespace net_test {

/// The transport between processes of this name: "ucx", "tls".
inline std::unique_ptr<net::Transport> make_carrier(const std::string& name, const base::Clock& clock,
                                                    base::Duration connect_timeout = std::chrono::seconds(3)) {
    if (name == "ucx") {
        net::UcxOptions options;
        options.connect_timeout = connect_timeout;
        auto made = net::make_ucx_transport(options, clock);
        CHECK(made.has_value(), made.error().message);
        return std::move(*made);
    }
    CHECK(name == "tls", name);
    net::TlsOptions options = tls_options();
    options.connect_timeout = connect_timeout;
    auto made = net::make_tls_transport(options, clock);
    CHECK(made.has_value(), made.error().message);
    return std::move(*made);
}

}  // namespace net_test
