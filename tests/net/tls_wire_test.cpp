#include "net/tls_wire.h"

#include <random>
#include <string>

#include "net/by_host.h"
#include "tests/support/catch.h"

using net::MessageKind;
using net::TlsFrame;
using Type = net::TlsFrame::Type;

namespace {

constexpr net::Limits kLimits{.header_bytes_max = 1024, .payload_bytes_max = std::size_t{8} << 20};

bool passes(const TlsFrame& frame) {
    const auto read = net::read_frame(net::write_frame(frame), kLimits);
    if (!read) { return false; }
    CHECK(read->type == frame.type);
    CHECK(read->kind == frame.kind);
    CHECK(read->number == frame.number);
    CHECK(read->header_bytes == frame.header_bytes);
    CHECK(read->payload_bytes == frame.payload_bytes);
    return true;
}

}  // namespace

TEST_CASE("frames of every type are read as they were written", "[net]") {
    CHECK(passes({.type = Type::hello, .header_bytes = 100}));
    CHECK(passes({.type = Type::hello_ack}));
    CHECK(passes({.type = Type::message, .kind = MessageKind{7}, .header_bytes = 1024, .payload_bytes = 16384}));
    CHECK(passes({.type = Type::bulk, .kind = MessageKind{255}, .number = 9, .payload_bytes = 8u << 20}));
    CHECK(passes({.type = Type::data, .payload_bytes = 65536}));
    CHECK(passes({.type = Type::refuse, .number = 0xffffffff}));
    for (const Type type : {Type::abort, Type::bye, Type::ping, Type::pong}) {
        CHECK(passes({.type = type}));
    }
}

TEST_CASE("a frame that promises more than its type may carry is refused", "[net]") {
    CHECK_FALSE(passes({.type = Type::hello, .header_bytes = 1025}));
    CHECK_FALSE(passes({.type = Type::hello, .header_bytes = 10, .payload_bytes = 1}));
    CHECK_FALSE(passes({.type = Type::hello_ack, .payload_bytes = 1}));
    CHECK_FALSE(passes({.type = Type::message, .header_bytes = 1025}));
    CHECK_FALSE(passes({.type = Type::message, .payload_bytes = 16385}));
    CHECK_FALSE(passes({.type = Type::message, .number = 1}));
    CHECK_FALSE(passes({.type = Type::bulk, .number = 1, .payload_bytes = (8u << 20) + 1}));
    CHECK_FALSE(passes({.type = Type::bulk, .number = 1, .payload_bytes = 0}));
    CHECK_FALSE(passes({.type = Type::data, .payload_bytes = 65537}));
    CHECK_FALSE(passes({.type = Type::data, .payload_bytes = 0}));
    CHECK_FALSE(passes({.type = Type::data, .header_bytes = 1, .payload_bytes = 5}));
    CHECK_FALSE(passes({.type = Type::ping, .kind = MessageKind{1}}));
    CHECK_FALSE(passes({.type = Type{0}}));
    CHECK_FALSE(passes({.type = Type{11}}));
    auto bytes = net::write_frame({.type = Type::ping});
    bytes[1] = std::byte{1};
    CHECK_FALSE(net::read_frame(bytes, kLimits));
}

TEST_CASE("whatever bytes come, a frame that is read stays within the limits", "[net]") {
    std::mt19937_64 random{12};
    int taken = 0;
    for (int round = 0; round < 200'000; ++round) {
        std::array<std::byte, net::kFrameBytes> bytes{};
        bytes[0] = static_cast<std::byte>(random() % 13);
        for (std::size_t i = 2; i < bytes.size(); ++i) {
            if (random() % 3 == 0) { bytes[i] = static_cast<std::byte>(random()); }
        }
        const auto frame = net::read_frame(bytes, kLimits);
        if (!frame) { continue; }
        ++taken;
        REQUIRE(frame->header_bytes <= 1024);
        REQUIRE(frame->payload_bytes <= kLimits.payload_bytes_max);
        REQUIRE(net::payload_bytes_with(*frame) <= net::kDataPayloadMax);
        REQUIRE(net::write_frame(*frame) == bytes);
    }
    CHECK(taken > 100);
}

TEST_CASE("a hello says whom it wants and who says it", "[net]") {
    const std::string bytes = net::write_hello({0x1122334455667788, 42, "sealed"});
    const auto hello = net::read_hello(bytes);
    REQUIRE(hello);
    CHECK(hello->wanted_life == 0x1122334455667788);
    CHECK(hello->connection == 42);
    CHECK(hello->address == "sealed");
    for (std::size_t cut = 0; cut < 16; ++cut) {
        CHECK_FALSE(net::read_hello(std::string_view(bytes).substr(0, cut)));
    }
}

TEST_CASE("an endpoint is an address in numbers and a port", "[net]") {
    CHECK(net::write_endpoint({"192.0.2.1", 7000}) == "192.0.2.1:7000");
    CHECK(net::write_endpoint({"2001:db8::1", 1}) == "[2001:db8::1]:1");
    for (const std::string text : {"192.0.2.1:7000", "[2001:db8::1]:1", "[fe80::1%eth0]:65535"}) {
        const auto endpoint = net::read_endpoint(text);
        REQUIRE(endpoint);
        CHECK(net::write_endpoint(*endpoint) == text);
    }
    for (const std::string text : {"", ":", "1.2.3.4", "1.2.3.4:", "1.2.3.4:0", "1.2.3.4:65536", "1.2.3.4:7x", ":7000",
                                   "::1:7000", "[]:7000", "1.2.3.4:-1"}) {
        CAPTURE(text);
        CHECK_FALSE(net::read_endpoint(text));
    }
    CHECK_FALSE(net::read_endpoint(std::string(65, '1') + ":7000"));
}

TEST_CASE("a book of addresses is read as it was written, and never when it is cut", "[net]") {
    net::AddressBook book;
    book.host.fill(std::byte{7});
    book.local = std::string(300, 'u');
    book.remote = "t";
    const std::string bytes = net::write_address_book(book);
    const auto read = net::read_address_book(bytes);
    REQUIRE(read);
    CHECK(read->host == book.host);
    CHECK(read->local == book.local);
    CHECK(read->remote == book.remote);
    for (std::size_t cut = 0; cut < bytes.size(); ++cut) {
        REQUIRE_FALSE(net::read_address_book(std::string_view(bytes).substr(0, cut)));
    }
    CHECK_FALSE(net::read_address_book(bytes + "x"));
    CHECK_FALSE(net::read_address_book("\x02" + bytes.substr(1)));
}
