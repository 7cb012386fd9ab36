#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "base/block_hash.h"
#include "base/certificates.h"
#include "base/clock.h"
#include "base/ids.h"
#include "base/result.h"
#include "net/transport.h"

namespace net {

struct TlsOptions {
    Limits limits{};
    /// Of the cluster: addresses carry a MAC under it.
    base::HashKey key = {};
    /// The identity of the cluster, made from its key: both sides of a connection show it and accept exactly it.
    std::string certificate_pem = {};
    std::string private_key_pem = {};
    /// In its place, where processes have certificates of their own: each side accepts who may exchange KV
    /// (base::may_call). New connections use those that are current.
    std::shared_ptr<const base::Certificates> certificates = {};
    /// The life that the address names; none: one drawn at random.
    base::Incarnation life = {};

    /// Where to listen: an address, or a name that is resolved once. Others connect to `advertised_host` (an address),
    /// or where it is empty to this.
    std::string host = "127.0.0.1";
    std::string advertised_host = {};
    /// The first free port of these; 0: any free one.
    std::uint16_t port_first = 0;
    std::uint16_t port_last = 0;

    std::size_t commands_max = 4096;        // waiting for the transport's thread
    std::size_t sends_inflight_max = 1024;  // per transport
    std::size_t peers_max = 256;
    /// Connections that have not said who they are yet: of all, and of one address (an IPv6 /64). The oldest of the
    /// address that has most of them makes room.
    std::size_t strangers_max = 128;
    std::size_t strangers_per_address_max = 32;
    base::Duration connect_timeout = std::chrono::seconds(3);    // until the other side has answered the hello
    base::Duration handshake_timeout = std::chrono::seconds(3);  // of who connects to us, until its hello
    /// A connection on which nothing was heard for so long is lost; a third of it before, the other side is asked.
    base::Duration silence_timeout = std::chrono::seconds(20);
    /// Records under one key. AES-GCM bears 2^24.5 (RFC 8446, section 5.5).
    std::uint64_t records_per_key = std::uint64_t{1} << 23;
};

/// A transport over TCP with TLS 1.3, for networks between hosts. It listens from the moment it is made and accepts
/// from start() on. One thread does all of its work, encryption too. Several may live in one process. Error:
/// invalid_argument (identity, host), unavailable (no port is free, OpenSSL refuses). `clock` must outlive it.
[[nodiscard]] base::Result<std::unique_ptr<Transport>> make_tls_transport(const TlsOptions& options,
                                                                          const base::Clock& clock);

}  // namespace net
