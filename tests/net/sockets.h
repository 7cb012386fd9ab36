#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "base/block_hash.h"

namespace net_test {

/// One TCP connection to a port of loopback, or the end of one that was accepted. No call takes longer than kLimit.
class Socket {
public:
    explicit Socket(std::uint16_t port);
    explicit Socket(int descriptor) : descriptor_(descriptor) {}
    ~Socket();
    Socket(const Socket&) = delete;
    Socket& operator=(const Socket&) = delete;

    int descriptor() const { return descriptor_; }
    /// False when the other side has closed it.
    bool write(const std::string& bytes);
    /// Up to 64 KiB; empty when the other side has closed it.
    std::string read();
    /// Everything until the other side closes; false when it does not.
    bool wait_closed();
    /// Says that nothing more comes.
    void end_writing();
    void close();

private:
    int descriptor_;
};

/// The port of a TLS transport's address, and another address of the same life with another port.
std::uint16_t port_of(const std::string& address, const base::HashKey& key = {});
std::string with_port(const std::string& address, std::uint16_t port, const base::HashKey& key = {});

/// Between a client and a server of loopback: passes on what the first connection of the client says and hears, and
/// may do harm to it.
class Proxy {
public:
    struct Harm {
        std::size_t cut_after = SIZE_MAX;    // bytes of the client; then both connections are closed
        std::size_t flip_at = SIZE_MAX;      // this byte of the client is changed
        std::size_t stall_after = SIZE_MAX;  // then nothing is passed on, and nothing closed, until release()
        std::size_t piece = 65536;           // bytes passed on at once
    };
    Proxy(std::uint16_t server_port, Harm harm);
    ~Proxy();

    std::uint16_t port() const { return port_; }
    void release();
    /// What the client has said.
    std::string said() const;

private:
    struct State;
    std::uint16_t port_ = 0;
    std::shared_ptr<State> state_;
    std::jthread thread_;
};

}  // namespace net_test
