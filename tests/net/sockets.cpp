#include "tests/net/sockets.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <utility>

#include "base/check.h"
#include "base/seal.h"
#include "net/tls_wire.h"

namespace net_test {

namespace {

constexpr int kLimitMs = 60'000;
constexpr int kLookMs = 20;  // how often a thread looks whether it is to end

sockaddr_in loopback(std::uint16_t port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(port);
    return address;
}

}  // namespace

Socket::Socket(std::uint16_t port) : descriptor_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    CHECK(descriptor_ >= 0);
    const sockaddr_in address = loopback(port);
    CHECK(::connect(descriptor_, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
    const int yes = 1;
    setsockopt(descriptor_, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
}

Socket::~Socket() {
    close();
}

void Socket::close() {
    if (descriptor_ >= 0) { ::close(std::exchange(descriptor_, -1)); }
}

void Socket::end_writing() {
    ::shutdown(descriptor_, SHUT_WR);
}

bool Socket::write(const std::string& bytes) {
    std::size_t sent = 0;
    while (sent < bytes.size()) {
        const ssize_t count = ::send(descriptor_, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
        if (count <= 0) { return false; }
        sent += static_cast<std::size_t>(count);
    }
    return true;
}

std::string Socket::read() {
    pollfd wait{descriptor_, POLLIN, 0};
    CHECK(poll(&wait, 1, kLimitMs) == 1, "nothing comes, and it is not closed");
    std::string bytes(65536, '\0');
    const ssize_t count = ::recv(descriptor_, bytes.data(), bytes.size(), 0);
    bytes.resize(static_cast<std::size_t>(std::max<ssize_t>(count, 0)));
    return bytes;
}

bool Socket::wait_closed() {
    while (true) {
        pollfd wait{descriptor_, POLLIN, 0};
        if (poll(&wait, 1, kLimitMs) != 1) { return false; }
        if (read().empty()) { return true; }
    }
}

std::uint16_t port_of(const std::string& address, const base::HashKey& key) {
    const auto opened = base::open_address(key, address, base::AddressKind::tls);
    CHECK(opened.has_value());
    return net::read_endpoint(opened->address)->port;
}

std::string with_port(const std::string& address, std::uint16_t port, const base::HashKey& key) {
    const auto opened = base::open_address(key, address, base::AddressKind::tls);
    CHECK(opened.has_value());
    return base::seal_address(key, opened->life, net::write_endpoint({"127.0.0.1", port}), base::AddressKind::tls);
}

struct Proxy::State {
    Harm harm;
    std::uint16_t server_port = 0;
    int listener = -1;
    mutable std::mutex mutex;
    std::string said;
    bool is_released = false;

    bool stalls() {
        const std::scoped_lock lock(mutex);
        return said.size() >= harm.stall_after && !is_released;
    }

    /// Some bytes of the client, harmed. False: cut.
    bool pass_on(std::string bytes, Socket& server) {
        const std::scoped_lock lock(mutex);
        bool goes_on = true;
        const std::size_t begin = said.size();
        if (begin + bytes.size() >= harm.cut_after) {
            bytes.resize(harm.cut_after - std::min(harm.cut_after, begin));
            goes_on = false;
        }
        if (harm.flip_at >= begin && harm.flip_at < begin + bytes.size()) {
            char& byte = bytes[harm.flip_at - begin];
            byte = static_cast<char>(byte ^ 1);
        }
        said += bytes;
        return server.write(bytes) && goes_on;
    }

    void run(std::stop_token stop) {
        pollfd waiting{listener, POLLIN, 0};
        while (poll(&waiting, 1, kLookMs) == 0) {
            if (stop.stop_requested()) { return; }
        }
        Socket client(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
        Socket server(server_port);
        while (!stop.stop_requested()) {
            std::array<pollfd, 2> waits{{{client.descriptor(), POLLIN, 0}, {server.descriptor(), POLLIN, 0}}};
            if (stalls()) {
                std::this_thread::sleep_for(std::chrono::milliseconds(kLookMs));
                continue;
            }
            if (poll(waits.data(), waits.size(), kLookMs) <= 0) { continue; }
            if (waits[0].revents != 0) {
                std::string bytes(harm.piece, '\0');
                const ssize_t count = ::recv(client.descriptor(), bytes.data(), bytes.size(), 0);
                if (count <= 0) { return; }
                bytes.resize(static_cast<std::size_t>(count));
                if (!pass_on(std::move(bytes), server)) { return; }
            }
            if (waits[1].revents != 0) {
                const std::string bytes = server.read();
                if (bytes.empty() || !client.write(bytes)) { return; }
            }
        }
    }
};

Proxy::Proxy(std::uint16_t server_port, Harm harm) : state_(std::make_shared<State>()) {
    state_->harm = harm;
    state_->server_port = server_port;
    state_->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address = loopback(0);
    socklen_t bytes = sizeof address;
    CHECK(bind(state_->listener, reinterpret_cast<const sockaddr*>(&address), bytes) == 0);
    CHECK(listen(state_->listener, 8) == 0);
    CHECK(getsockname(state_->listener, reinterpret_cast<sockaddr*>(&address), &bytes) == 0);
    port_ = ntohs(address.sin_port);
    thread_ = std::jthread([state = state_](std::stop_token stop) { state->run(stop); });
}

Proxy::~Proxy() {
    release();
    thread_ = {};
    ::close(state_->listener);
}

void Proxy::release() {
    const std::scoped_lock lock(state_->mutex);
    state_->is_released = true;
}

std::string Proxy::said() const {
    const std::scoped_lock lock(state_->mutex);
    return state_->said;
}

}  // namespace net_test
