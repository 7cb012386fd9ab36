#include "net/tls_wire.h"

#include <algorithm>
#include <charconv>

namespace net {

using base::ErrorCode;
using base::fail;
using base::Result;

namespace {

constexpr std::size_t kHelloNumbersBytes = 16;

template <class Number>
void put(std::byte* to, Number value) {
    for (std::size_t i = 0; i < sizeof(Number); ++i) {
        to[i] = static_cast<std::byte>((value >> (8 * i)) & 0xff);
    }
}

template <class Number>
Number get(const std::byte* from) {
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < sizeof(Number); ++i) {
        value |= std::to_integer<std::uint64_t>(from[i]) << (8 * i);
    }
    return static_cast<Number>(value);
}

/// What a type may carry.
struct Shape {
    bool kind = false;
    bool number = false;
    std::size_t header_bytes_max = 0;
    std::size_t payload_bytes_min = 0;
    std::size_t payload_bytes_max = 0;
};

bool has_shape(const TlsFrame& frame, const Shape& shape) {
    return (shape.kind || raw(frame.kind) == 0) && (shape.number || frame.number == 0) &&
           frame.header_bytes <= shape.header_bytes_max && frame.payload_bytes >= shape.payload_bytes_min &&
           frame.payload_bytes <= shape.payload_bytes_max;
}

bool is_well_formed(const TlsFrame& frame, const Limits& limits) {
    switch (frame.type) {
        case TlsFrame::Type::hello:
            return has_shape(frame, {.header_bytes_max = kHelloBytesMax});
        case TlsFrame::Type::message:
            return has_shape(frame, {.kind = true,
                                     .header_bytes_max = limits.header_bytes_max,
                                     .payload_bytes_max = std::min(limits.payload_bytes_max, kInlinePayloadMax)});
        case TlsFrame::Type::bulk:
            return has_shape(frame, {.kind = true,
                                     .number = true,
                                     .header_bytes_max = limits.header_bytes_max,
                                     .payload_bytes_min = 1,
                                     .payload_bytes_max = limits.payload_bytes_max});
        case TlsFrame::Type::data:
            return has_shape(frame, {.payload_bytes_min = 1, .payload_bytes_max = kDataPayloadMax});
        case TlsFrame::Type::refuse:
            return has_shape(frame, {.number = true});
        case TlsFrame::Type::hello_ack:
        case TlsFrame::Type::abort:
        case TlsFrame::Type::bye:
        case TlsFrame::Type::ping:
        case TlsFrame::Type::pong:
            return has_shape(frame, {});
    }
    return false;
}

}  // namespace

std::size_t payload_bytes_with(const TlsFrame& frame) {
    return frame.type == TlsFrame::Type::bulk ? 0 : frame.payload_bytes;
}

std::array<std::byte, kFrameBytes> write_frame(const TlsFrame& frame) {
    std::array<std::byte, kFrameBytes> bytes{};
    bytes[0] = static_cast<std::byte>(frame.type);
    put(&bytes[2], static_cast<std::uint16_t>(raw(frame.kind)));
    put(&bytes[4], frame.number);
    put(&bytes[8], frame.header_bytes);
    put(&bytes[12], frame.payload_bytes);
    return bytes;
}

Result<TlsFrame> read_frame(std::span<const std::byte, kFrameBytes> bytes, const Limits& limits) {
    TlsFrame frame;
    frame.type = static_cast<TlsFrame::Type>(std::to_integer<std::uint8_t>(bytes[0]));
    frame.kind = MessageKind{get<std::uint16_t>(&bytes[2])};
    frame.number = get<std::uint32_t>(&bytes[4]);
    frame.header_bytes = get<std::uint32_t>(&bytes[8]);
    frame.payload_bytes = get<std::uint32_t>(&bytes[12]);
    if (bytes[1] != std::byte{0} || !is_well_formed(frame, limits)) {
        return fail(ErrorCode::invalid_argument,
                    "a frame of type " + std::to_string(std::to_integer<unsigned>(bytes[0])) + ", " +
                        std::to_string(frame.header_bytes) + " and " + std::to_string(frame.payload_bytes) +
                        " bytes is none of this protocol");
    }
    return frame;
}

std::string write_hello(const TlsHello& hello) {
    std::array<std::byte, kHelloNumbersBytes> numbers;
    put(&numbers[0], hello.wanted_life);
    put(&numbers[8], hello.connection);
    return std::string(reinterpret_cast<const char*>(numbers.data()), numbers.size()).append(hello.address);
}

Result<TlsHello> read_hello(std::string_view bytes) {
    if (bytes.size() < kHelloNumbersBytes) {
        return fail(ErrorCode::invalid_argument, "a hello of " + std::to_string(bytes.size()) + " bytes");
    }
    const auto* const begin = reinterpret_cast<const std::byte*>(bytes.data());
    return TlsHello{get<std::uint64_t>(begin), get<std::uint64_t>(begin + 8), bytes.substr(kHelloNumbersBytes)};
}

std::string write_endpoint(const TlsEndpoint& endpoint) {
    const bool is_v6 = endpoint.host.find(':') != std::string::npos;
    return (is_v6 ? "[" + endpoint.host + "]" : endpoint.host) + ":" + std::to_string(endpoint.port);
}

Result<TlsEndpoint> read_endpoint(std::string_view text) {
    const auto refuse = [&] {
        return fail(ErrorCode::invalid_argument,
                    "an endpoint of " + std::to_string(text.size()) + " bytes is no address and port");
    };
    const std::size_t colon = text.rfind(':');
    if (colon == std::string_view::npos) { return refuse(); }
    std::string_view host = text.substr(0, colon);
    const std::string_view digits = text.substr(colon + 1);
    TlsEndpoint endpoint;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), endpoint.port);
    if (error != std::errc() || end != digits.data() + digits.size() || endpoint.port == 0) { return refuse(); }
    if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
        host = host.substr(1, host.size() - 2);
    } else if (host.find(':') != std::string_view::npos) {
        return refuse();
    }
    constexpr std::size_t kHostBytesMax = 64;  // the longest number of IPv6 with its zone
    if (host.empty() || host.size() > kHostBytesMax || host.find_first_of("[]") != std::string_view::npos) {
        return refuse();
    }
    endpoint.host = host;
    return endpoint;
}

}  // namespace net
