#include "cli/kv_plane.h"

#include "base/seal.h"
// Last, see there.
#include "tests/support/catch.h"

using base::AddressKind;
using base::ErrorCode;
using cli::KvPlaneSettings;

namespace {

/// Settings of which some are said.
struct Said {
    std::string transport = "auto";
    std::string host = {};
    std::string advertised_host = {};
    std::string net_devices = {};

    KvPlaneSettings settings() const {
        KvPlaneSettings all;
        all.transport = transport;
        all.host = host;
        all.advertised_host = advertised_host;
        all.net_devices = net_devices;
        return all;
    }
};

std::string ways(const Said& said, const std::string& listen_host) {
    const cli::KvWays chosen = cli::choose_kv_ways(said.settings(), listen_host);
    return std::string(chosen.ucx ? "ucx " : "") + (chosen.tls ? "tls" : "");
}

}  // namespace

TEST_CASE("KV goes over UCX inside a host, and over TLS too where a worker can be reached from others", "[cli]") {
    CHECK(ways({}, "127.0.0.1") == "ucx ");
    CHECK(ways({}, "localhost") == "ucx ");
    CHECK(ways({}, "[::1]") == "ucx ");
    CHECK(ways({}, "192.0.2.1") == "ucx tls");
    CHECK(ways({}, "[2001:db8::1]") == "ucx tls");
    CHECK(ways({.host = "192.0.2.1"}, "127.0.0.1") == "ucx tls");
    CHECK(ways({.host = "127.0.0.1"}, "192.0.2.1") == "ucx ");
    // Everywhere is no address that others could be told.
    CHECK(ways({}, "0.0.0.0") == "ucx ");
    CHECK(ways({}, "[::]") == "ucx ");
    CHECK(ways({.advertised_host = "192.0.2.1"}, "0.0.0.0") == "ucx tls");
    // UCX on a device of a trusted network takes the place of TLS.
    CHECK(ways({.net_devices = "eth0"}, "192.0.2.1") == "ucx ");
    // What is told is done.
    CHECK(ways({.transport = "ucx"}, "192.0.2.1") == "ucx ");
    CHECK(ways({.transport = "tls"}, "127.0.0.1") == "tls");
}

TEST_CASE("what the KV plane may not do is said before anything is loaded", "[cli]") {
    cli::CommonFlags flags;
    cli::ClusterSettings cluster;
    const auto code = [&](const Said& said) {
        const auto checked = cli::check_kv_plane(said.settings(), flags, cluster);
        return checked ? std::string("fine") : std::string(base::error_code_name(checked.error().code));
    };
    CHECK(code({}) == "fine");
    CHECK(code({.net_devices = "eth0"}) == "permission_denied");
    CHECK(code({.host = "192.0.2.1"}) == "permission_denied");
    CHECK(code({.host = "127.0.0.1"}) == "fine");
    cluster.trusted_network = true;
    flags.listen_public = true;
    CHECK(code({.net_devices = "eth0"}) == "fine");
    CHECK(code({.host = "192.0.2.1"}) == "fine");
    CHECK(code({.transport = "tls", .net_devices = "eth0"}) == "invalid_argument");
}

TEST_CASE("a worker's KV address is of the kind of its transport", "[cli]") {
    const base::SystemClock clock;
    const base::HashKey key = base::random_hash_key();
    cli::ClusterSettings cluster;
    cluster.key = key;
    constexpr base::Incarnation kLife{77};
    const auto kind_of = [&](const Said& said) -> int {
        const auto made = cli::make_kv_transport(said.settings(), "127.0.0.1", cluster, kLife, clock);
        REQUIRE(made);
        REQUIRE(base::check_address(key, (*made)->address(), kLife));
        for (const AddressKind kind : {AddressKind::ucx, AddressKind::tls, AddressKind::book}) {
            if (base::open_address(key, (*made)->address(), kind)) { return static_cast<int>(kind); }
        }
        return -1;
    };
    CHECK(kind_of({}) == static_cast<int>(AddressKind::ucx));
    CHECK(kind_of({.transport = "tls"}) == static_cast<int>(AddressKind::tls));
    const auto nowhere = cli::make_kv_transport(Said{.transport = "tls", .host = "192.0.2.1"}.settings(), "127.0.0.1",
                                                cluster, kLife, clock);
    REQUIRE_FALSE(nowhere);
    CHECK(nowhere.error().code == ErrorCode::unavailable);
    CHECK(nowhere.error().message.find("worker.kv_host") != std::string::npos);
}
