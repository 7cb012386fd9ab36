#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "net/transport.h"

namespace net {

// What goes over a connection of the TLS transport, inside TLS. Pure. All numbers are little endian.
//
// A frame is 16 bytes, a header (only where the type says so) and a payload. Small messages are one frame. The payload
// of a large one, `bulk`, comes in `data` frames, between which small messages may pass; one `bulk` is open at a time
// in each direction, so what a receiver has to remember is bounded.

inline constexpr std::size_t kFrameBytes = 16;
/// Payloads up to here travel with their header in one frame.
inline constexpr std::size_t kInlinePayloadMax = std::size_t{16} << 10;
/// Payload of a data frame: what a small message waits for at most.
inline constexpr std::size_t kDataPayloadMax = std::size_t{64} << 10;
/// Header of a hello.
inline constexpr std::size_t kHelloBytesMax = 1024;

struct TlsFrame {
    enum class Type : std::uint8_t {
        hello = 1,  // first, of who began the connection; header: TlsHello
        hello_ack,  // first, of the other
        message,    // header, payload
        bulk,       // header; number: counts the bulks of this direction from 1; payload_bytes are still to come
        data,       // payload: the next part of the open bulk
        refuse,     // number: of a bulk that came; nobody wants the rest of it
        abort,      // the open bulk ends here, because it was refused
        bye,        // the connection is closed
        ping,       // who hears it says pong
        pong,
    };

    Type type{};
    MessageKind kind{};              // message, bulk
    std::uint32_t number = 0;        // bulk, refuse
    std::uint32_t header_bytes = 0;  // hello, message, bulk
    std::uint32_t payload_bytes = 0;
};

/// Bytes that follow this frame before the next one.
std::size_t payload_bytes_with(const TlsFrame& frame);

std::array<std::byte, kFrameBytes> write_frame(const TlsFrame& frame);
/// Error: invalid_argument: a type, a length or a field that no frame of ours has. `limits`: of messages.
base::Result<TlsFrame> read_frame(std::span<const std::byte, kFrameBytes> bytes, const Limits& limits);

/// How a connection begins.
struct TlsHello {
    std::uint64_t wanted_life = 0;  // whom the caller means to reach: ports are used again
    std::uint64_t connection = 0;   // numbered by the caller, ascending
    std::string_view address;       // of the caller, sealed (base/seal.h)
};
std::string write_hello(const TlsHello& hello);
/// `address` lies inside `bytes`. Error: invalid_argument.
base::Result<TlsHello> read_hello(std::string_view bytes);

/// "192.0.2.1:7000" or "[2001:db8::1]:7000": numbers, no names, nothing to resolve.
struct TlsEndpoint {
    std::string host;
    std::uint16_t port = 0;
};
std::string write_endpoint(const TlsEndpoint& endpoint);
/// Error: invalid_argument.
base::Result<TlsEndpoint> read_endpoint(std::string_view text);

}  // namespace net
