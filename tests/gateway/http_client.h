#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

namespace gateway_test {

/// Fails the running test.
inline void demand(bool condition, const char* what) {
    if (!condition) { throw std::runtime_error(what); }
}

/// A client socket with nothing between the test and the bytes. Waits at most 30 s for anything.
class Client {
public:
    /// `from`: the last number of its own address, 127.0.0.FROM.
    explicit Client(std::uint16_t port, int receive_bytes = 0, std::uint32_t from = 1)
        : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
        if (from != 1) {
            sockaddr_in own{};
            own.sin_family = AF_INET;
            own.sin_addr.s_addr = htonl((127u << 24) | from);
            demand(::bind(socket_, reinterpret_cast<sockaddr*>(&own), sizeof own) == 0, "bind");
        }
        if (receive_bytes > 0) { ::setsockopt(socket_, SOL_SOCKET, SO_RCVBUF, &receive_bytes, sizeof receive_bytes); }
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_port = htons(port);
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        demand(::connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0, "connect");
    }
    ~Client() { close(); }
    Client(const Client&) = delete;
    Client& operator=(const Client&) = delete;

    bool send(std::string_view data) const {
        while (!data.empty()) {
            const auto sent = ::send(socket_, data.data(), data.size(), MSG_NOSIGNAL);
            if (sent <= 0) { return false; }
            data.remove_prefix(static_cast<std::size_t>(sent));
        }
        return true;
    }
    /// Everything up to `end`, or to the end of the connection.
    std::string read_until(std::string_view end) {
        while (end.empty() || received_.find(end) == std::string::npos) {
            pollfd wait{.fd = socket_, .events = POLLIN, .revents = 0};
            demand(::poll(&wait, 1, 30'000) == 1, "nothing was received for 30 s");
            char buffer[16384];
            const auto count = ::recv(socket_, buffer, sizeof buffer, 0);
            if (count <= 0) { return std::exchange(received_, {}); }
            received_.append(buffer, static_cast<std::size_t>(count));
        }
        const auto at = received_.find(end) + end.size();
        std::string result = received_.substr(0, at);
        received_.erase(0, at);
        return result;
    }
    std::string read_all() { return read_until(""); }
    void close_sending() const { ::shutdown(socket_, SHUT_WR); }
    void close() {
        if (socket_ >= 0) { ::close(std::exchange(socket_, -1)); }
    }
    /// Ends with a reset instead of a FIN.
    void reset() {
        const linger hard{.l_onoff = 1, .l_linger = 0};
        ::setsockopt(socket_, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
        close();
    }

private:
    int socket_;
    std::string received_;
};

inline std::string exchange(std::uint16_t port, const std::string& bytes, std::uint32_t from = 1) {
    Client client(port, 0, from);
    client.send(bytes);
    return client.read_all();
}

inline int status_of(const std::string& answer) {
    return answer.size() < 12 ? 0 : std::stoi(answer.substr(9, 3));
}

inline std::size_t count(const std::string& text, std::string_view what) {
    std::size_t found = 0;
    for (auto at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) {
        ++found;
    }
    return found;
}

inline std::string post(const std::string& body, const std::string& fields = "") {
    return "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" + fields +
           "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
}

template <class Condition>
void wait_until(Condition condition) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (!condition()) {
        demand(std::chrono::steady_clock::now() < end, "the condition did not come true in 30 s");
        std::this_thread::yield();
    }
}

inline const std::string kHealthClose = "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

}  // namespace gateway_test
