// Certificates of roles between processes, over real sockets: who is served, what each end is told, and what happens to
// connections while certificates are replaced.
#include "proto/peers.h"

#include <array>
#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "proto/channel.h"
#include "proto/scheduler.grpc.pb.h"
#include "proto/worker.grpc.pb.h"
#include "tests/support/certificates.h"

#include "tests/support/catch.h"

namespace {

using namespace std::chrono_literals;
using base::PeerCall;
using base::PeerKind;
using base::PeerRole;
using grpc::StatusCode;
using proto::ClusterKey;
using test_support::certificate_of;
using test_support::CertificateFolder;
using test_support::kCertified;
using test_support::kDay;
using test_support::new_authority;

const base::HashKey kKey = base::parse_hash_key("00112233445566778899aabbccddeeff").value();

struct Scheduler final : proto::Scheduler::CallbackService {
    explicit Scheduler(ClusterKey given) : key(std::move(given)) {}
    grpc::ServerUnaryReactor* answer(grpc::CallbackServerContext* context, PeerCall call) {
        auto* const reactor = context->DefaultReactor();
        const grpc::Status status = key.check(*context, call);
        if (status.ok()) { ++served; }
        reactor->Finish(status);
        return reactor;
    }
    grpc::ServerUnaryReactor* Place(grpc::CallbackServerContext* context, const proto::PlaceRequest*,
                                    proto::PlaceReply*) override {
        return answer(context, PeerCall::place);
    }
    grpc::ServerUnaryReactor* Describe(grpc::CallbackServerContext* context, const proto::DescribeRequest*,
                                       proto::DescribeReply*) override {
        return answer(context, PeerCall::describe);
    }
    grpc::ServerUnaryReactor* Drain(grpc::CallbackServerContext* context, const proto::DrainRequest*,
                                    proto::DrainReply*) override {
        return answer(context, PeerCall::drain);
    }
    /// Answers each report with a sign of life.
    grpc::ServerBidiReactor<proto::WorkerReport, proto::WorkerDirective>* Attach(
        grpc::CallbackServerContext* context) override {
        struct Echo final : grpc::ServerBidiReactor<proto::WorkerReport, proto::WorkerDirective> {
            explicit Echo(const grpc::Status& status) {
                if (status.ok()) {
                    StartRead(&report);
                } else {
                    Finish(status);
                }
            }
            void OnReadDone(bool ok) override {
                directive.set_alive(true);
                if (ok) {
                    StartWrite(&directive);
                } else {
                    Finish(grpc::Status::OK);
                }
            }
            void OnWriteDone(bool ok) override {
                if (ok) { StartRead(&report); }
            }
            void OnDone() override { delete this; }
            proto::WorkerReport report;
            proto::WorkerDirective directive;
        };
        return new Echo(key.check(*context, PeerCall::attach));
    }
    ClusterKey key;
    std::atomic<int> served = 0;
};

/// A process with a certificate.
struct Member {
    Member(const base::IssuedCertificate& certificate, const std::string& authority_pem)
        : folder(certificate, authority_pem), certificates(folder.open()) {
        key = ClusterKey(kKey).with(proto::Peers::make(certificates));
    }
    CertificateFolder folder;
    std::shared_ptr<base::Certificates> certificates;
    ClusterKey key;
};

struct Running {
    explicit Running(const ClusterKey& key, std::chrono::milliseconds age = 60s) : service(key) {
        auto started = proto::start_server({.listen_address = "127.0.0.1:0", .key = key, .connection_age = age},
                                           std::array<grpc::Service*, 1>{&service});
        REQUIRE(started.has_value());
        server = std::move(started->server);
        address = "127.0.0.1:" + std::to_string(started->port);
    }
    ~Running() {
        server->Shutdown(std::chrono::system_clock::now());
        server->Wait();
    }
    Scheduler service;
    std::unique_ptr<grpc::Server> server;
    std::string address;
};

using Stub = proto::Scheduler::Stub;
std::unique_ptr<Stub> stub_of(const std::string& address, const ClusterKey& key,
                              PeerKind callee = PeerKind::scheduler) {
    return proto::Scheduler::NewStub(proto::make_channel({.address = address, .key = key, .callee = callee}));
}

grpc::Status call(Stub& stub, PeerCall what) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + 60s);  // a hang is a failure
    if (what == PeerCall::place) {
        proto::PlaceReply reply;
        return stub.Place(&context, {}, &reply);
    }
    if (what == PeerCall::drain) {
        proto::DrainReply reply;
        return stub.Drain(&context, {}, &reply);
    }
    proto::DescribeReply reply;
    return stub.Describe(&context, {}, &reply);
}

bool says(const grpc::Status& status, const std::string& words) {
    INFO(status.error_message());
    CHECK(status.error_message().find(words) != std::string::npos);
    return status.error_message().find(words) != std::string::npos;
}

}  // namespace

TEST_CASE("callers are served as the matrix says for their role", "[proto]") {
    const auto authority = new_authority();
    Member scheduler(certificate_of(authority, PeerRole::scheduler), authority.certificate_pem);
    Running running(scheduler.key);
    int served = 0;
    for (const PeerRole role : {PeerRole::gateway, PeerRole::scheduler, PeerRole::decode, PeerRole::operate}) {
        Member caller(certificate_of(authority, role), authority.certificate_pem);
        const auto stub = stub_of(running.address, caller.key);
        for (const PeerCall what : {PeerCall::place, PeerCall::describe, PeerCall::drain}) {
            CAPTURE(base::peer_role_name(role), base::peer_call_name(what));
            const grpc::Status status = call(*stub, what);
            if (base::may_call(role, what)) {
                INFO(status.error_message());
                CHECK(status.ok());
                ++served;
            } else {
                CHECK(status.error_code() == StatusCode::PERMISSION_DENIED);
                says(status,
                     "sluice://test/" + std::string(base::peer_role_name(role)) + "/one may not call Scheduler.");
            }
        }
    }
    REQUIRE(served == 4);
    REQUIRE(running.service.served == served);
}

TEST_CASE("a caller whose certificate does not do is told why, and not served", "[proto]") {
    const auto authority = new_authority();
    Member scheduler(certificate_of(authority, PeerRole::scheduler), authority.certificate_pem);
    Running running(scheduler.key);

    SECTION("it shows none") {
        // Somebody with the key, and TLS of his own making.
        grpc::SslCredentialsOptions options;
        options.pem_root_certs = authority.certificate_pem;
        const auto plain = grpc::CreateChannel(running.address, grpc::SslCredentials(options));
        // Its name is not that of a host, so a library that looks for one does not even finish the handshake.
        const auto nameless = proto::Scheduler::NewStub(plain);
        CHECK(call(*nameless, PeerCall::describe).error_code() == StatusCode::UNAVAILABLE);
        grpc::experimental::TlsChannelCredentialsOptions anonymous;
        anonymous.set_verify_server_certs(false);
        anonymous.set_check_call_host(false);
        anonymous.set_certificate_verifier(std::make_shared<grpc::experimental::NoOpCertificateVerifier>());
        const auto stub = proto::Scheduler::NewStub(
            grpc::CreateChannel(running.address, grpc::experimental::TlsCredentials(anonymous)));
        grpc::ClientContext context;
        context.AddMetadata(ClusterKey::kMetadata, scheduler.key.token());
        proto::DescribeReply reply;
        const grpc::Status status = stub->Describe(&context, {}, &reply);
        CHECK(status.error_code() == StatusCode::UNAUTHENTICATED);
        says(status, "no certificate is shown: give the process one of its role (cluster.certificate_file");
    }
    SECTION("it has no certificates and the key alone") {
        const auto stub = stub_of(running.address, ClusterKey(kKey));
        CHECK(call(*stub, PeerCall::describe).error_code() == StatusCode::UNAVAILABLE);
        const auto tls = stub_of(running.address, ClusterKey(kKey, false, proto::Encryption::always));
        CHECK(call(*tls, PeerCall::describe).error_code() == StatusCode::UNAVAILABLE);
    }
    SECTION("it is of another authority") {
        const auto other = new_authority("somebody");
        // It trusts ours, so that it does call.
        Member caller(certificate_of(other, PeerRole::gateway), other.certificate_pem + authority.certificate_pem);
        const grpc::Status status = call(*stub_of(running.address, caller.key), PeerCall::describe);
        CHECK(status.error_code() == StatusCode::UNAUTHENTICATED);
        says(status, "is of another authority (CN = somebody)");
    }
    SECTION("it has run out") {
        Member caller(certificate_of(authority, PeerRole::gateway, 10), authority.certificate_pem);
        *scheduler.folder.now = kCertified + 11 * kDay;  // the caller's clock is slow
        const grpc::Status status = call(*stub_of(running.address, caller.key), PeerCall::describe);
        CHECK(status.error_code() == StatusCode::UNAUTHENTICATED);
        says(status, "has run out at 2030-03-27");
    }
    SECTION("it has a certificate, and another cluster's key") {
        Member caller(certificate_of(authority, PeerRole::gateway), authority.certificate_pem);
        const auto stranger =
            ClusterKey(base::parse_hash_key("ffeeddccbbaa99887766554433221100").value()).with(caller.key.peers());
        const grpc::Status status = call(*stub_of(running.address, stranger), PeerCall::describe);
        CHECK(status.error_code() == StatusCode::UNAUTHENTICATED);
        says(status, "another cluster key");
    }
    REQUIRE(running.service.served == 0);
}

TEST_CASE("a server whose certificate does not do is shown nothing, and the caller knows why", "[proto]") {
    const auto authority = new_authority();
    Member gateway(certificate_of(authority, PeerRole::gateway), authority.certificate_pem);
    const auto call_to = [&](const ClusterKey& server, PeerKind callee = PeerKind::scheduler) {
        Running running(server);
        const grpc::Status status = call(*stub_of(running.address, gateway.key, callee), PeerCall::describe);
        CHECK(status.error_code() == StatusCode::UNAVAILABLE);
        CHECK(running.service.served == 0);
        return status;
    };
    SECTION("of another role") {
        Member decode(certificate_of(authority, PeerRole::decode), authority.certificate_pem);
        says(call_to(decode.key), "a scheduler was called, and sluice://test/decode/one answers");
        Member scheduler(certificate_of(authority, PeerRole::scheduler), authority.certificate_pem);
        says(call_to(scheduler.key, PeerKind::worker), "a worker was called, and sluice://test/scheduler/one answers");
    }
    SECTION("of another authority") {
        const auto other = new_authority("somebody");
        Member scheduler(certificate_of(other, PeerRole::scheduler), other.certificate_pem);
        says(call_to(scheduler.key), "is of another authority (CN = somebody)");
    }
    SECTION("that has run out") {
        Member scheduler(certificate_of(authority, PeerRole::scheduler, 10), authority.certificate_pem);
        *gateway.folder.now = kCertified + 11 * kDay;
        says(call_to(scheduler.key), "has run out at 2030-03-27");
    }
    SECTION("that has the key alone") {
        call_to(ClusterKey(kKey, false, proto::Encryption::always));
    }
    SECTION("in the clear") {
        call_to(ClusterKey(kKey));
    }
}

TEST_CASE("connections go on while certificates are replaced, and new ones show the new", "[proto]") {
    const auto authority = new_authority();
    Member scheduler(certificate_of(authority, PeerRole::scheduler, 10), authority.certificate_pem);
    Member gateway(certificate_of(authority, PeerRole::gateway, 10), authority.certificate_pem);
    Running running(scheduler.key);
    const auto stub = stub_of(running.address, gateway.key);
    REQUIRE(call(*stub, PeerCall::place).ok());

    // Both get new ones, and then the old ones run out: the connection stands.
    for (Member* member : {&scheduler, &gateway}) {
        const PeerRole role = member->certificates->current()->self().role;
        member->folder.put(certificate_of(authority, role, 50), authority.certificate_pem);
        REQUIRE(member->certificates->look().value());
        *member->folder.now = kCertified + 20 * kDay;
    }
    REQUIRE(call(*stub, PeerCall::place).ok());

    // A new connection shows the new certificates as soon as gRPC has looked at them.
    const auto deadline = std::chrono::steady_clock::now() + 60s;
    grpc::Status status;
    do {
        status = call(*stub_of(running.address, gateway.key), PeerCall::place);
    } while (!status.ok() && std::chrono::steady_clock::now() < deadline);
    INFO(status.error_message());
    REQUIRE(status.ok());
}

TEST_CASE("who was refused is served once its certificate does, on the same channel", "[proto]") {
    const auto authority = new_authority();
    const auto other = new_authority("somebody");
    Member scheduler(certificate_of(authority, PeerRole::scheduler), authority.certificate_pem);
    Member gateway(certificate_of(other, PeerRole::gateway), other.certificate_pem + authority.certificate_pem);
    Running running(scheduler.key, 200ms);  // callers make new connections so often
    const auto stub = stub_of(running.address, gateway.key);
    REQUIRE(call(*stub, PeerCall::place).error_code() == StatusCode::UNAUTHENTICATED);
    gateway.folder.put(certificate_of(authority, PeerRole::gateway), authority.certificate_pem);
    REQUIRE(gateway.certificates->look().value());
    const auto deadline = std::chrono::steady_clock::now() + 60s;
    grpc::Status status;
    do {
        status = call(*stub, PeerCall::place);
        std::this_thread::sleep_for(20ms);
    } while (!status.ok() && std::chrono::steady_clock::now() < deadline);
    INFO(status.error_message());
    REQUIRE(status.ok());
}

TEST_CASE("a process whose last connection goes while it makes another shows its certificate all the same", "[proto]") {
    const auto authority = new_authority();
    Member scheduler(certificate_of(authority, PeerRole::scheduler), authority.certificate_pem);
    Member gateway(certificate_of(authority, PeerRole::gateway), authority.certificate_pem);
    Running running(scheduler.key);
    std::atomic<int> served = 0;
    std::mutex mutex;
    std::string problem;
    {
        std::vector<std::jthread> callers;
        for (int caller = 0; caller < 4; ++caller) {
            callers.emplace_back([&] {
                for (int i = 0; i < 50; ++i) {
                    // A channel of its own for each call: there is one connection, or none.
                    const grpc::Status status = call(*stub_of(running.address, gateway.key), PeerCall::place);
                    if (status.ok()) {
                        ++served;
                        continue;
                    }
                    const std::scoped_lock lock(mutex);
                    problem = status.error_message();
                }
            });
        }
    }
    INFO(problem);
    REQUIRE(served == 200);
}

TEST_CASE("a stream goes on while its connection is replaced by others again and again", "[proto]") {
    const auto authority = new_authority();
    Member scheduler(certificate_of(authority, PeerRole::scheduler), authority.certificate_pem);
    Member decode(certificate_of(authority, PeerRole::decode), authority.certificate_pem);
    Member gateway(certificate_of(authority, PeerRole::gateway), authority.certificate_pem);
    Running running(scheduler.key, 100ms);
    const auto worker = stub_of(running.address, decode.key);
    grpc::ClientContext context;
    const auto stream = worker->Attach(&context);
    const auto echo = [&] {
        proto::WorkerDirective directive;
        return stream->Write({}) && stream->Read(&directive);
    };
    REQUIRE(echo());
    // 100 ms and the tenth that gRPC adds or takes are over many times; each call below may be the first of a
    // connection.
    const auto stub = stub_of(running.address, gateway.key);
    const auto until = std::chrono::steady_clock::now() + 1500ms;
    int calls = 0;
    while (std::chrono::steady_clock::now() < until || calls < 100) {
        const grpc::Status status = call(*stub, PeerCall::place);
        INFO(status.error_message());
        REQUIRE(status.ok());
        ++calls;
        if (calls % 10 == 0) { REQUIRE(echo()); }
    }
    REQUIRE(echo());
    REQUIRE(stream->WritesDone());
    proto::WorkerDirective nothing;
    REQUIRE_FALSE(stream->Read(&nothing));
    REQUIRE(stream->Finish().ok());
}
