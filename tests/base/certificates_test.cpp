#include "base/certificates.h"

#include <sys/stat.h>

#include <fstream>
#include <iterator>
#include <string>

#include "base/certificate_make.h"
#include "base/certificate_times.h"
#include "tests/support/certificates.h"

#include "tests/support/catch.h"

using base::ErrorCode;
using base::PeerCall;
using base::PeerName;
using base::PeerRole;
using base::PeerSide;
using test_support::certificate_of;
using test_support::CertificateFolder;
using test_support::kCertified;
using test_support::kDay;
using test_support::new_authority;

namespace {

std::string text_of(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

bool says(const base::Error& error, const std::string& words) {
    INFO(error.message);
    return error.message.find(words) != std::string::npos;
}

}  // namespace

TEST_CASE("a peer's name is a URI with cluster, role and name, and nothing else is", "[base]") {
    const PeerName peer{"prod-1", PeerRole::decode, "gpu_7.rack"};
    REQUIRE(base::peer_uri(peer) == "sluice://prod-1/decode/gpu_7.rack");
    REQUIRE(base::parse_peer_uri(base::peer_uri(peer)).value() == peer);
    REQUIRE(base::parse_peer_uri("sluice://c/operator/me").value().role == PeerRole::operate);
    for (const char* bad :
         {"", "sluice://", "sluice://c", "sluice://c/gateway", "sluice://c/gateway/", "sluice:///gateway/n",
          "sluice://c/king/n", "sluice://c/gateway/n/m", "spiffe://c/gateway/n", "sluice://c/gateway/n m",
          "sluice://c/Gateway/n", "sluice://c/gateway/n\n"}) {
        CAPTURE(bad);
        REQUIRE(base::parse_peer_uri(bad).error().code == ErrorCode::invalid_argument);
    }
    REQUIRE_FALSE(base::parse_peer_uri("sluice://c/gateway/" + std::string(64, 'n')));
    REQUIRE(base::parse_peer_uri("sluice://c/gateway/" + std::string(63, 'n')));
}

TEST_CASE("who may call whom is the matrix of the documentation", "[base]") {
    // Rows as in docs/security.md.
    const PeerRole roles[] = {PeerRole::gateway, PeerRole::scheduler, PeerRole::prefill, PeerRole::decode,
                              PeerRole::mixed,   PeerRole::encode,    PeerRole::operate};
    const std::pair<PeerCall, const char*> rows[] = {
        {PeerCall::place, "Y------"}, {PeerCall::release, "Y------"}, {PeerCall::describe, "Y-----Y"},
        {PeerCall::drain, "------Y"}, {PeerCall::attach, "--YYYY-"},  {PeerCall::serve, "Y------"},
        {PeerCall::kv, "--YYY--"},
    };
    for (const auto& [call, who] : rows) {
        for (std::size_t i = 0; i < std::size(roles); ++i) {
            CAPTURE(base::peer_call_name(call), base::peer_role_name(roles[i]));
            CHECK(base::may_call(roles[i], call) == (who[i] == 'Y'));
        }
    }
    CHECK(base::may_run_as(PeerRole::mixed, PeerRole::prefill));
    CHECK(base::may_run_as(PeerRole::mixed, PeerRole::decode));
    CHECK(base::may_run_as(PeerRole::decode, PeerRole::decode));
    CHECK_FALSE(base::may_run_as(PeerRole::decode, PeerRole::mixed));
    CHECK_FALSE(base::may_run_as(PeerRole::prefill, PeerRole::decode));
    CHECK_FALSE(base::may_run_as(PeerRole::mixed, PeerRole::encode));
}

TEST_CASE("a certificate of the authority says who its bearer is", "[base]") {
    const auto authority = new_authority();
    const CertificateFolder ours(certificate_of(authority, PeerRole::scheduler), authority.certificate_pem);
    const auto certificates = ours.open();
    REQUIRE(base::peer_uri(certificates->current()->self()) == "sluice://test/scheduler/one");
    REQUIRE(base::certificate_starts_unix_s(certificates->current()->chain_pem()) == kCertified);
    REQUIRE(base::certificate_starts_unix_s("no certificate") == 0);
    REQUIRE(certificates->current()->expires_unix_s() == kCertified + 100 * kDay);

    const auto shown = certificate_of(authority, PeerRole::gateway).certificate_pem;
    for (const PeerSide side : {PeerSide::client, PeerSide::server}) {
        REQUIRE(certificates->verify(shown, shown, side).value() == PeerName{"test", PeerRole::gateway, "one"});
    }

    const auto refused = [&](const std::string& pem) {
        return certificates->verify(pem, pem, PeerSide::client).error();
    };
    SECTION("none") {
        const auto error = refused("");
        CHECK(error.code == ErrorCode::unauthenticated);
        CHECK(says(error, "no certificate is shown"));
        CHECK(says(error, "cluster.certificate_file"));
    }
    SECTION("of another authority, of the same name even") {
        const auto error = refused(certificate_of(new_authority(), PeerRole::gateway).certificate_pem);
        CHECK(error.code == ErrorCode::unauthenticated);
        CHECK(says(error, "of another authority"));
        CHECK(says(error, "cluster.authority_file"));
    }
    SECTION("that ran out") {
        const auto brief = certificate_of(authority, PeerRole::gateway, 10).certificate_pem;
        REQUIRE(certificates->verify(brief, brief, PeerSide::client));
        *ours.now = kCertified + 10 * kDay + 1;
        const auto error = refused(brief);
        CHECK(error.code == ErrorCode::unauthenticated);
        CHECK(says(error, "has run out at 2030-03-27"));
        CHECK(says(error, "renew"));
    }
    SECTION("that is not valid yet") {
        *ours.now = kCertified - 1;
        CHECK(says(refused(shown), "is valid from 2030-03-17"));
    }
    SECTION("of another cluster of the same authority") {
        const auto error = refused(certificate_of(authority, PeerRole::gateway, 100, "other").certificate_pem);
        CHECK(error.code == ErrorCode::permission_denied);
        CHECK(says(error, "sluice://other/gateway/one is of another cluster than sluice://test/scheduler/one"));
    }
    SECTION("of the authority itself, which is for signing alone") {
        CHECK(says(refused(authority.certificate_pem), "it needs serverAuth and clientAuth"));
    }
    SECTION("junk") {
        CHECK(says(refused("-----BEGIN CERTIFICATE-----\nAAAA\n"), "no certificate is shown"));
    }
}

TEST_CASE("what cannot be used at a start says why", "[base]") {
    const auto authority = new_authority();
    const auto certificate = certificate_of(authority, PeerRole::decode);
    const CertificateFolder ours(certificate, authority.certificate_pem);
    const auto error = [&] { return ours.try_open().error(); };
    SECTION("a key that others can read") {
        REQUIRE(chmod(ours.files().key.c_str(), 0644) == 0);
        CHECK(error().code == ErrorCode::permission_denied);
        CHECK(says(error(), "chmod 600"));
    }
    SECTION("a key of another certificate") {
        ours.write("tls.key", certificate_of(authority, PeerRole::decode).private_key_pem);
        CHECK(says(error(), "is the key of another certificate"));
    }
    SECTION("no file") {
        std::filesystem::remove(ours.files().certificate);
        CHECK(says(error(), "cannot be read"));
    }
    SECTION("texts that are none") {
        const char* const name = GENERATE("tls.crt", "tls.key", "ca.crt");
        CAPTURE(name);
        ours.write(name, "nothing of this kind\n");
        CHECK(error().code == ErrorCode::invalid_argument);
        CHECK(says(error(), name));
    }
    SECTION("run out") {
        *ours.now = kCertified + 101 * kDay;
        CHECK(says(error(), "has run out"));
    }
    SECTION("another authority") {
        ours.write("ca.crt", new_authority("somebody").certificate_pem);
        CHECK(says(error(), "of another authority"));
    }
}

TEST_CASE("files that change are taken when they are right, and else what was there stays", "[base]") {
    const auto authority = new_authority();
    const CertificateFolder ours(certificate_of(authority, PeerRole::prefill, 10), authority.certificate_pem);
    const auto certificates = ours.open();
    const auto first = text_of(certificates->identity_path());
    REQUIRE(first == certificates->current()->identity_pem());
    REQUIRE(certificates->generation() == 1);
    REQUIRE_FALSE(certificates->look().value());

    // A certificate whose key is not there yet.
    const auto next = certificate_of(authority, PeerRole::prefill, 50);
    ours.write("tls.crt", next.certificate_pem);
    REQUIRE(says(certificates->look().error(), "key of another certificate"));
    REQUIRE(text_of(certificates->identity_path()) == first);
    REQUIRE(certificates->generation() == 1);
    REQUIRE_FALSE(certificates->look().value());  // said once
    ours.write("tls.key", next.private_key_pem);
    REQUIRE(certificates->look().value());
    REQUIRE(certificates->generation() == 2);
    REQUIRE(certificates->current()->expires_unix_s() == kCertified + 50 * kDay);
    REQUIRE(text_of(certificates->identity_path()) == certificates->current()->identity_pem());
    REQUIRE(text_of(certificates->identity_path()) != first);

    // Another role: the process is what it was started as.
    ours.put(certificate_of(authority, PeerRole::decode), authority.certificate_pem);
    REQUIRE(says(certificates->look().error(), "this process is sluice://test/prefill/one"));
    REQUIRE(certificates->current()->self().role == PeerRole::prefill);

    // A new authority: first both are trusted, then certificates change, then the old one goes.
    const auto successor = new_authority("its successor");
    const auto both = authority.certificate_pem + successor.certificate_pem;
    ours.put(next, both);
    REQUIRE(certificates->look().value());
    ours.put(certificate_of(successor, PeerRole::prefill), both);
    REQUIRE(certificates->look().value());
    const auto old = certificate_of(authority, PeerRole::gateway).certificate_pem;
    REQUIRE(certificates->verify(old, old, PeerSide::client));
    ours.write("ca.crt", successor.certificate_pem);
    REQUIRE(certificates->look().value());
    REQUIRE(says(certificates->verify(old, old, PeerSide::client).error(), "of another authority"));
}

TEST_CASE("an authority signs only what it can vouch for", "[base]") {
    const auto authority = new_authority();
    const auto leaf = certificate_of(authority, PeerRole::gateway);
    const base::CertificateRequest request{{"test", PeerRole::gateway, "one"}, {}, {kCertified, kCertified + kDay}};
    REQUIRE(base::issue_certificate(leaf, request).error().code == ErrorCode::invalid_argument);
    REQUIRE(base::issue_certificate({authority.certificate_pem, leaf.private_key_pem}, request).error().code ==
            ErrorCode::invalid_argument);
    base::CertificateRequest named = request;
    named.other_names = {"DNS:gateway.example.org", "IP:10.0.0.7"};
    REQUIRE(base::issue_certificate(authority, named));
    for (const char* bad : {"gateway.example.org", "URI:sluice://test/scheduler/x",
                            "DNS:a,URI:sluice://test/scheduler/x", "IP:no.address"}) {
        CAPTURE(bad);
        named.other_names = {bad};
        REQUIRE(base::issue_certificate(authority, named).error().code == ErrorCode::invalid_argument);
    }
    // A leaf that signs makes nobody a member.
    const base::IssuedCertificate forged = [&] {
        const auto other = new_authority("somebody");
        return certificate_of(other, PeerRole::scheduler);
    }();
    const CertificateFolder ours(leaf, authority.certificate_pem);
    REQUIRE_FALSE(
        ours.open()->verify(forged.certificate_pem, forged.certificate_pem + leaf.certificate_pem, PeerSide::server));
}
