#pragma once

#include <boost/asio/ip/address.hpp>
#include <boost/asio/ip/network_v4.hpp>
#include <boost/asio/ip/network_v6.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "gateway/http/gate.h"

namespace gateway {

/// In which field our proxies say whom they ask for. One of the two: a proxy that writes one passes the other on as the
/// client wrote it.
enum class ForwardedField { x_forwarded_for, forwarded };

/// What a client is counted under: its IPv4 address (also where it is written as IPv6), or the /64 of its IPv6 address,
/// which one client has as a whole.
std::string client_name(const boost::asio::ip::address& address);

/// The proxies that may say whom a request comes from. Immutable: any thread.
class TrustedProxies {
public:
    /// None.
    TrustedProxies() = default;
    /// `networks`: addresses ("10.0.0.7", "::1") or networks ("10.0.0.0/8"). Error: invalid_argument, naming the entry.
    static base::Result<TrustedProxies> make(const std::vector<std::string>& networks, ForwardedField field);

    bool trusts(const boost::asio::ip::address& peer) const;
    /// The address that a request comes from: the peer's; where that is a proxy of ours, the last in the field that is
    /// none. What a client wrote there itself stands further to the front, and is not read. What is no address ends the
    /// search at the proxy that wrote it.
    boost::asio::ip::address client_of(const boost::asio::ip::address& peer, const RequestHead& head) const;

private:
    std::vector<boost::asio::ip::network_v4> v4_;
    std::vector<boost::asio::ip::network_v6> v6_;
    ForwardedField field_ = ForwardedField::x_forwarded_for;
};

}  // namespace gateway
