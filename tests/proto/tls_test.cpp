// Connections between the processes inside TLS, over real sockets: what a wiretap sees, and who is not let in.
#include <arpa/inet.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <utility>

#include "base/loopback.h"
#include "base/tls_identity.h"
#include "proto/channel.h"
#include "proto/scheduler.grpc.pb.h"

#include "tests/support/catch.h"

namespace {

using namespace std::chrono_literals;
using proto::ClusterKey;
using proto::Encryption;

const base::HashKey kKey = base::parse_hash_key("00112233445566778899aabbccddeeff").value();
const base::HashKey kOtherKey = base::parse_hash_key("ffeeddccbbaa99887766554433221100").value();
constexpr const char* kPrompt = "a prompt that nobody on the way may read";

struct Echo final : proto::Scheduler::CallbackService {
    explicit Echo(ClusterKey given) : key(std::move(given)) {}
    grpc::ServerUnaryReactor* Describe(grpc::CallbackServerContext* context, const proto::DescribeRequest* request,
                                       proto::DescribeReply* reply) override {
        ++calls;
        auto* const reactor = context->DefaultReactor();
        reply->mutable_header()->set_model(request->header().model());
        reactor->Finish(key.check(*context, base::PeerCall::describe));
        return reactor;
    }
    ClusterKey key;
    std::atomic<int> calls = 0;
};

struct Running {
    explicit Running(const ClusterKey& key) : service(key) {
        auto started =
            proto::start_server({.listen_address = "127.0.0.1:0", .key = key}, std::array<grpc::Service*, 1>{&service});
        REQUIRE(started.has_value());
        server = std::move(started->server);
        port = started->port;
    }
    ~Running() {
        server->Shutdown(std::chrono::system_clock::now());
        server->Wait();
    }
    Echo service;
    std::unique_ptr<grpc::Server> server;
    int port = 0;
};

grpc::Status call(int port, const ClusterKey& key, std::string* answer = nullptr) {
    const auto stub =
        proto::Scheduler::NewStub(proto::make_channel({.address = "127.0.0.1:" + std::to_string(port), .key = key}));
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + 30s);  // a hang is a failure, not a wait for ever
    proto::DescribeRequest request;
    request.mutable_header()->set_model(kPrompt);
    proto::DescribeReply reply;
    const grpc::Status status = stub->Describe(&context, request, &reply);
    if (answer != nullptr) { *answer = reply.header().model(); }
    return status;
}

int listen_on_loopback(int& port) {
    const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    REQUIRE(listener >= 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t bytes = sizeof(address);
    REQUIRE(bind(listener, reinterpret_cast<sockaddr*>(&address), bytes) == 0);
    REQUIRE(listen(listener, 8) == 0);
    REQUIRE(getsockname(listener, reinterpret_cast<sockaddr*>(&address), &bytes) == 0);
    port = ntohs(address.sin_port);
    return listener;
}

/// Somebody on the way: passes one connection on to `to`, `delay` later, and keeps what went either way.
class Wiretap {
public:
    explicit Wiretap(int to, std::chrono::milliseconds delay = 0ms)
        : listener_(listen_on_loopback(port_)), thread_([this, to, delay] { pass(to, delay); }) {}
    ~Wiretap() { end(); }
    int port() const { return port_; }
    /// What was seen. Ends the tap.
    const std::string& end() {
        is_ended_ = true;
        if (thread_.joinable()) { thread_.join(); }
        return seen_;
    }

private:
    void pass(int to, std::chrono::milliseconds delay) {
        std::array<pollfd, 2> ends{{{listener_, POLLIN, 0}, {-1, POLLIN, 0}}};
        while (!is_ended_) {
            if (poll(ends.data(), ends.size(), 20) <= 0) { continue; }
            if (ends[1].fd < 0) {
                ends[0].fd = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
                ends[1].fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
                sockaddr_in address{};
                address.sin_family = AF_INET;
                address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
                address.sin_port = htons(static_cast<std::uint16_t>(to));
                if (connect(ends[1].fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) { break; }
                continue;
            }
            bool is_open = true;
            for (std::size_t i = 0; i < 2; ++i) {
                if (ends[i].revents == 0) { continue; }
                std::array<char, 4096> bytes;
                const ssize_t count = recv(ends[i].fd, bytes.data(), bytes.size(), 0);
                is_open = is_open && count > 0;
                if (count <= 0) { continue; }
                seen_.append(bytes.data(), static_cast<std::size_t>(count));
                std::this_thread::sleep_for(delay);
                is_open = is_open &&
                          send(ends[1 - i].fd, bytes.data(), static_cast<std::size_t>(count), MSG_NOSIGNAL) == count;
            }
            if (!is_open) { break; }
        }
        for (const pollfd& end : ends) {
            if (end.fd >= 0 && end.fd != listener_) { close(end.fd); }
        }
        close(listener_);
    }

    int port_ = 0;
    int listener_;
    std::atomic<bool> is_ended_ = false;
    std::string seen_;  // the thread's until it is joined
    std::thread thread_;
};

}  // namespace

TEST_CASE("a wiretap reads the key's token and the prompt in the clear, and neither of them inside TLS", "[proto]") {
    for (const Encryption encryption : {Encryption::never, Encryption::always}) {
        const ClusterKey key(kKey, false, encryption);
        Running running(key);
        Wiretap tap(running.port);
        std::string answer;
        const grpc::Status status = call(tap.port(), key, &answer);
        INFO(status.error_message());
        REQUIRE(status.ok());
        REQUIRE(answer == kPrompt);
        const std::string& seen = tap.end();
        REQUIRE(seen.size() > 100);
        const bool is_read = encryption == Encryption::never;
        CHECK((seen.find(kPrompt) != std::string::npos) == is_read);
        CHECK((seen.find(key.token().substr(0, 16)) != std::string::npos) == is_read);
    }
}

TEST_CASE("a handshake over a long way takes its time, longer than the pause between two tries", "[proto]") {
    const ClusterKey key(kKey, false, Encryption::always);
    Running running(key);
    Wiretap tap(running.port, 200ms);
    const grpc::Status status = call(tap.port(), key);
    INFO(status.error_message());
    REQUIRE(status.ok());
}

TEST_CASE("TLS is with whoever has the cluster's key and nobody else", "[proto]") {
    const ClusterKey key(kKey, false, Encryption::always);
    Running running(key);
    REQUIRE(call(running.port, key).ok());
    REQUIRE(running.service.calls == 1);

    SECTION("a server that has another key is shown nothing") {
        Running stranger(ClusterKey(kOtherKey, false, Encryption::always));
        Wiretap tap(stranger.port);
        REQUIRE(call(tap.port(), key).error_code() == grpc::StatusCode::UNAVAILABLE);
        REQUIRE(stranger.service.calls == 0);
    }
    SECTION("a server in the clear is shown nothing") {
        Running plain(ClusterKey(kKey, false, Encryption::never));
        Wiretap tap(plain.port);
        REQUIRE(call(tap.port(), key).error_code() == grpc::StatusCode::UNAVAILABLE);
        REQUIRE(plain.service.calls == 0);
        REQUIRE(tap.end().find(key.token().substr(0, 16)) == std::string::npos);
    }
    SECTION("a caller with another key does not get to the service") {
        REQUIRE(call(running.port, ClusterKey(kOtherKey, false, Encryption::always)).error_code() ==
                grpc::StatusCode::UNAVAILABLE);
        REQUIRE(running.service.calls == 1);
    }
    SECTION("a caller in the clear does not get to the service") {
        REQUIRE_FALSE(call(running.port, ClusterKey(kKey, false, Encryption::never)).ok());
        REQUIRE(running.service.calls == 1);
    }
}

TEST_CASE("connections beyond loopback are TLS, others not, unless told otherwise", "[proto]") {
    const ClusterKey by_itself(kKey);
    for (const char* const address : {"127.0.0.1:7000", "127.3.2.1:7000", "localhost:7000", "[::1]:7000"}) {
        INFO(address);
        CHECK_FALSE(by_itself.identity_at(address).value().has_value());
        CHECK(ClusterKey(kKey, false, Encryption::always).identity_at(address).value().has_value());
    }
    for (const char* const address :
         {"10.0.0.1:7000", "0.0.0.0:7000", "[::]:7000", "[fe80::1]:7000", "127.0.0.1.evil.example:7000",
          "127.evil.example:7000", "scheduler:7000", "localhost.example:7000"}) {
        INFO(address);
        CHECK(by_itself.identity_at(address).value().has_value());
        CHECK_FALSE(ClusterKey(kKey, false, Encryption::never).identity_at(address).value().has_value());
    }
}

TEST_CASE("one key makes one identity, byte for byte, and another key another", "[proto]") {
    const auto one = base::derive_tls_identity(kKey).value();
    const auto again = base::derive_tls_identity(kKey).value();
    const auto other = base::derive_tls_identity(kOtherKey).value();
    REQUIRE(one.certificate_pem == again.certificate_pem);
    REQUIRE(one.private_key_pem == again.private_key_pem);
    REQUIRE(one.certificate_pem != other.certificate_pem);
    REQUIRE(one.private_key_pem != other.private_key_pem);
}
