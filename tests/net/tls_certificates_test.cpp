// KV between workers that have certificates.
#include <atomic>
#include <string>

#include "net/tls.h"
#include "tests/net/tls_node.h"
#include "tests/support/certificates.h"
// Last, see there.
#include "tests/support/catch.h"

using base::PeerRole;
using net_test::in;
using net_test::kLimit;
using net_test::message;
using net_test::pattern;
using net_test::TlsNode;
using test_support::certificate_of;
using test_support::CertificateFolder;
using test_support::kCertified;
using test_support::kDay;
using test_support::new_authority;

namespace {

struct Worker {
    Worker(const base::IssuedCertificate& certificate, const std::string& authority_pem)
        : folder(certificate, authority_pem), certificates(folder.open()), node(options()) {}
    net::TlsOptions options() const {
        net::TlsOptions made;
        made.certificates = certificates;
        return made;
    }
    CertificateFolder folder;
    std::shared_ptr<base::Certificates> certificates;
    TlsNode node;
};

/// A message from `from` to `to`: fine, or why it does not arrive.
base::Result<void> send(TlsNode& from, TlsNode& to) {
    static int sends = 0;
    const std::string name = "kv " + std::to_string(++sends);
    const auto peer = from.transport->connect(to.transport->address());
    if (!peer) { return base::pass_on(peer); }
    auto sent =
        from.transport->send(*peer, message(1, "kv", pattern(5000, 3)), in(kLimit), from.heard.completion(name));
    return sent ? from.heard.outcome(name) : sent;
}

bool holds(const std::string& text, const std::string& words) {
    UNSCOPED_INFO(text);
    return text.find(words) != std::string::npos;
}

/// A message from `from` does not arrive at `to`; why `from` gives the connection up.
std::string refusal(TlsNode& from, TlsNode& to) {
    const auto peer = from.transport->connect(to.transport->address());
    REQUIRE(peer);
    // What is on its way when the connection is refused may count as sent; it is read by nobody.
    static_cast<void>(
        from.transport->send(*peer, message(1, "kv", pattern(5000, 3)), in(kLimit), from.heard.completion("refused")));
    REQUIRE(from.heard.wait_lost(*peer));
    CHECK(to.heard.look([](auto& heard) { return heard.received_.empty(); }));
    return from.heard.look([&](auto& heard) {
        for (const auto& lost : heard.lost_) {
            if (lost.peer == *peer) { return lost.why.message; }
        }
        return std::string();
    });
}

}  // namespace

TEST_CASE("TLS with certificates keeps the promises of a transport", "[net]") {
    const auto authority = new_authority();
    const CertificateFolder prefill(certificate_of(authority, PeerRole::prefill), authority.certificate_pem);
    const CertificateFolder decode(certificate_of(authority, PeerRole::decode), authority.certificate_pem);
    const base::SystemClock clock;
    net_test::check_transport([&] {
        net_test::Pair pair;
        net::TlsOptions options;
        options.certificates = prefill.open();
        pair.left = std::move(*net::make_tls_transport(options, clock));
        options.certificates = decode.open();
        pair.right = std::move(*net::make_tls_transport(options, clock));
        REQUIRE(pair.left->start(*pair.heard_left));
        REQUIRE(pair.right->start(*pair.heard_right));
        return pair;
    });
}

TEST_CASE("KV goes between workers that an authority of theirs has certified, and nobody else", "[net][hostile]") {
    const auto authority = new_authority();
    Worker decode(certificate_of(authority, PeerRole::decode), authority.certificate_pem);
    SECTION("prefill and mixed may") {
        for (const PeerRole role : {PeerRole::prefill, PeerRole::mixed}) {
            Worker other(certificate_of(authority, role), authority.certificate_pem);
            CHECK(send(other.node, decode.node));
            CHECK(send(decode.node, other.node));
        }
    }
    // Of those who connect the one with the wrong certificate learns by an alert that it is bad; his peer knows why.
    SECTION("a role that exchanges none") {
        for (const PeerRole role : {PeerRole::gateway, PeerRole::scheduler, PeerRole::encode, PeerRole::operate}) {
            const CertificateFolder folder(certificate_of(authority, role), authority.certificate_pem);
            net::TlsOptions options;
            options.certificates = folder.open();
            const base::SystemClock clock;
            CHECK(net::make_tls_transport(options, clock).error().code == base::ErrorCode::invalid_argument);
            // It does so all the same.
            net_test::Insider insider(decode.node.port(), options);
            CHECK(insider.is_thrown_out());
        }
    }
    SECTION("another authority") {
        const auto other = new_authority("somebody");
        Worker stranger(certificate_of(other, PeerRole::prefill), other.certificate_pem + authority.certificate_pem);
        CHECK(holds(refusal(stranger.node, decode.node), "bad certificate"));
        CHECK(holds(refusal(decode.node, stranger.node), "is of another authority (CN = somebody)"));
    }
    SECTION("one that has run out") {
        Worker late(certificate_of(authority, PeerRole::prefill, 10), authority.certificate_pem);
        *decode.folder.now = kCertified + 11 * kDay;
        CHECK(holds(refusal(late.node, decode.node), "bad certificate"));
        CHECK(holds(refusal(decode.node, late.node), "has run out at 2030-03-27"));
    }
    SECTION("the cluster's key alone") {
        TlsNode keyed;
        CHECK_FALSE(refusal(keyed, decode.node).empty());
        CHECK_FALSE(refusal(decode.node, keyed).empty());
    }
}

TEST_CASE("KV: connections outlive their certificates, and new ones use the new", "[net]") {
    const auto authority = new_authority();
    Worker prefill(certificate_of(authority, PeerRole::prefill, 10), authority.certificate_pem);
    Worker decode(certificate_of(authority, PeerRole::decode, 10), authority.certificate_pem);
    REQUIRE(send(prefill.node, decode.node));
    for (Worker* worker : {&prefill, &decode}) {
        const PeerRole role = worker->certificates->current()->self().role;
        worker->folder.put(certificate_of(authority, role, 50), authority.certificate_pem);
        REQUIRE(worker->certificates->look().value());
        *worker->folder.now = kCertified + 20 * kDay;
    }
    REQUIRE(send(prefill.node, decode.node));
    REQUIRE(prefill.node.heard.look([](auto& heard) { return heard.lost_.empty(); }));
    Worker late(certificate_of(authority, PeerRole::mixed), authority.certificate_pem);
    *late.folder.now = kCertified + 20 * kDay;
    REQUIRE(send(late.node, decode.node));
    REQUIRE(send(prefill.node, late.node));
}
