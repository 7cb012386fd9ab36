#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "gateway/http/cors.h"
#include "gateway/http/gate.h"

namespace gateway {

/// Whether a request is meant for this server: by its Host (a name of somebody else's that was pointed at our address
/// is none of ours: DNS rebinding) and by its Origin (a page of another site that makes a browser act for it). Clients
/// that are no browsers send no Origin and the Host that they were given. One thread at a time.
class SiteCheck {
public:
    /// Lets everything pass.
    SiteCheck() = default;
    /// `hosts`: names that the server answers to, without ports; "*": every one. On loopback, and wherever names are
    /// given, no others pass, but for those of this machine itself (localhost, 127.0.0.0/8, [::1]). Beyond loopback
    /// probes (GET of /health, /ready, /live, /metrics) come by address, and pass whatever they name.
    /// `cors`: pages that may ask; so may pages of the host that they ask.
    /// Error: invalid_argument for what is no host.
    static base::Result<SiteCheck> make(const std::vector<std::string>& hosts, bool on_loopback, Cors cors);

    /// Other pages that may ask from now on.
    void set_cors(Cors cors) { cors_ = std::move(cors); }

    /// 403 with what to do about it, or nothing.
    std::optional<HttpRefusal> refusal(const RequestHead& head) const;

private:
    bool answers_to(const RequestHead& head, std::string_view host) const;

    std::vector<std::string> hosts_;  // lower case
    bool checks_hosts_ = false;
    bool checks_origins_ = false;
    bool on_loopback_ = false;
    Cors cors_;
};

}  // namespace gateway
