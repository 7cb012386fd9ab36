// A peer that is no Valkey and no Redis: every call ends, with an error that says what was wrong.
#include "caching/store/shared_server.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>
#include <thread>

#include "tests/support/catch.h"

using namespace std::chrono_literals;
using caching::SharedServer;

namespace {

/// Listens on a socket of this machine; to each connection it says `words` once, then one of `more` every few
/// milliseconds until the other side has left.
class Peer {
public:
    Peer(std::string words, std::string_view more) : words_(std::move(words)), more_(more) {
        ::signal(SIGPIPE, SIG_IGN);
        char name[] = "/tmp/sluice-peer-XXXXXX";
        REQUIRE(mkdtemp(name) != nullptr);
        folder_ = name;
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        path().copy(address.sun_path, sizeof address.sun_path - 1);
        listener_ = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        REQUIRE(::bind(listener_, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
        REQUIRE(::listen(listener_, 4) == 0);
        thread_ = std::jthread([this](const std::stop_token& stop) { work(stop); });
    }
    ~Peer() {
        thread_.request_stop();
        ::shutdown(listener_, SHUT_RDWR);  // ends accept()
        thread_.join();
        ::close(listener_);
        std::filesystem::remove_all(folder_);
    }
    Peer(const Peer&) = delete;
    Peer& operator=(const Peer&) = delete;

    std::string path() const { return (folder_ / "socket").string(); }

private:
    void work(const std::stop_token& stop) {
        while (!stop.stop_requested()) {
            const int connection = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
            if (connection < 0) { return; }
            bool is_there = ::send(connection, words_.data(), words_.size(), MSG_NOSIGNAL) >= 0;
            for (std::size_t at = 0; is_there && !stop.stop_requested(); ++at) {
                char seen[256];
                const auto heard = ::recv(connection, seen, sizeof seen, MSG_DONTWAIT);
                is_there = heard != 0;
                if (is_there && !more_.empty()) {
                    is_there = ::send(connection, &more_[at % more_.size()], 1, MSG_NOSIGNAL) == 1;
                }
                std::this_thread::sleep_for(2ms);
            }
            ::close(connection);
        }
    }

    const std::string words_;
    const std::string_view more_;
    std::filesystem::path folder_;
    int listener_ = -1;
    std::jthread thread_;
};

base::Error error_of(const Peer& peer) {
    SharedServer::Options options;
    options.address.path = peer.path();
    options.answer_timeout = 100ms;
    const auto server = SharedServer::connect(options);
    REQUIRE_FALSE(server);
    return server.error();
}

}  // namespace

TEST_CASE("a peer that is no key-value server is an error, whatever it says", "[caching][shared]") {
    const auto error = [](std::string words, std::string_view more) {
        const base::Error told = error_of(Peer(std::move(words), more));
        CHECK(told.code == base::ErrorCode::unavailable);
        CHECK(told.message.find("the cache's shared server unix:/tmp/sluice-peer-") == 0);
        return told.message;
    };
    CHECK(error("HTTP/1.1 400 Bad Request\r\n\r\n", "").find("rotocol error") != std::string::npos);
    CHECK(error("+OK\r\n", "").find("INFO does not tell its run_id") != std::string::npos);
    CHECK(error("-NOAUTH Authentication required.\r\n", "").find("NOAUTH") != std::string::npos);
    CHECK_FALSE(error("", "").empty());  // silent
    CHECK_FALSE(error("$1000000\r\n", "").empty());
    // A byte now and then keeps the socket busy for ever, and the call not.
    CHECK(error("$1000000\r\n", "x").find("takes too long to answer") != std::string::npos);
}

TEST_CASE("where nobody listens, or no password is, the error says so", "[caching][shared]") {
    SharedServer::Options options;
    options.address.path = "/tmp/sluice-nobody/socket";
    CHECK(SharedServer::connect(options).error().code == base::ErrorCode::unavailable);
    const Peer peer("", "");
    options.address.path = peer.path();
    options.password_file = "/tmp/sluice-nobody/password";
    const auto server = SharedServer::connect(options);
    REQUIRE_FALSE(server);
    CHECK(server.error().code == base::ErrorCode::invalid_argument);
    CHECK(server.error().message.find("/tmp/sluice-nobody/password cannot be read") != std::string::npos);
}
