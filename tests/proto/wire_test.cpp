// What every process does with messages: headers, errors, hashes, roles.
#include <limits>
#include <string>
#include <vector>

#include "proto/block_hashes.h"
#include "proto/errors.h"
#include "proto/header.h"
#include "proto/roles.h"

#include "tests/support/catch.h"

using base::ErrorCode;

TEST_CASE("a header says the versions, and what its sender is", "[proto]") {
    const proto::Header header = proto::make_header("m", 5);
    REQUIRE(header.protocol_version() == proto::kProtocolVersion);
    REQUIRE(header.protocol_minor() == proto::kProtocolMinor);
    REQUIRE(header.model() == "m");
    REQUIRE(header.numerics_id() == 5);
    REQUIRE(proto::check_header(header, {.model = "m", .numerics_id = 5}).has_value());
}

TEST_CASE("any minor version is read, another major one is refused with both numbers", "[proto]") {
    proto::Header header = proto::make_header("m", 5);
    for (const std::uint32_t minor : {0u, 1u, 2u, std::numeric_limits<std::uint32_t>::max()}) {
        header.set_protocol_minor(minor);
        REQUIRE(proto::check_header(header, {.model = "m", .numerics_id = 5}).has_value());
    }
    for (const std::uint32_t version : {proto::kProtocolVersion - 1, proto::kProtocolVersion + 1}) {
        header.set_protocol_version(version);
        header.set_protocol_minor(6);
        const auto checked = proto::check_header(header);
        REQUIRE(!checked);
        REQUIRE(checked.error().code == ErrorCode::failed_precondition);
        REQUIRE(checked.error().message == "protocol version " + std::to_string(version) + ".6, ours is " +
                                               std::to_string(proto::kProtocolVersion) + "." +
                                               std::to_string(proto::kProtocolMinor));
    }
    REQUIRE(!proto::check_header(proto::Header{}));  // nothing was said
}

TEST_CASE("model and numerics id are compared where they are expected, and named when they differ", "[proto]") {
    const proto::Header header = proto::make_header("mo\ndel", 5);
    REQUIRE(proto::check_header(header).has_value());
    REQUIRE(proto::check_header(header, {.model = "mo\ndel"}).has_value());
    REQUIRE(proto::check_header(header, {.numerics_id = 5}).has_value());
    const auto model = proto::check_header(header, {.model = "other"});
    REQUIRE(model.error().code == ErrorCode::failed_precondition);
    REQUIRE(model.error().message == "model \"mo\\x0adel\", here it is \"other\"");
    const auto numerics = proto::check_header(header, {.model = "mo\ndel", .numerics_id = 6});
    REQUIRE(numerics.error().code == ErrorCode::failed_precondition);
    REQUIRE(numerics.error().message.find("numerics id 5, here it is 6") == 0);
    REQUIRE(!proto::check_header(proto::make_header("", 0), {.model = "m"}));
}

TEST_CASE("errors travel with their code; their text is printable, bounded and stays what it became", "[proto]") {
    proto::Error wire;
    for (const ErrorCode code :
         {ErrorCode::invalid_argument, ErrorCode::unauthenticated, ErrorCode::permission_denied, ErrorCode::not_found,
          ErrorCode::failed_precondition, ErrorCode::aborted, ErrorCode::resource_exhausted,
          ErrorCode::deadline_exceeded, ErrorCode::unavailable, ErrorCode::cancelled, ErrorCode::data_loss,
          ErrorCode::unimplemented, ErrorCode::internal}) {
        proto::set_error(wire, {code, "why \\ 3 of 4"});
        REQUIRE(wire.message() == "why \\ 3 of 4");
        REQUIRE(proto::error_of(wire).code == code);
        REQUIRE(proto::error_of(wire).message == "why \\ 3 of 4");
    }
    proto::set_error(wire, {ErrorCode::data_loss, "caf\xc3\xa9\n"});
    REQUIRE(wire.message() == "caf\\xc3\\xa9\\x0a");
    REQUIRE(proto::error_of(wire).message == wire.message());
    proto::set_error(wire, {ErrorCode::data_loss, std::string(5000, '\n')});
    REQUIRE(wire.message().size() == proto::kErrorMessageBytesMax);
    proto::set_error(wire, {ErrorCode::data_loss, std::string(5000, 'a')}, 10);
    REQUIRE(wire.message() == "aaaaaaaaaa");
}

TEST_CASE("what a peer says of an error is not believed to be sane", "[proto]") {
    proto::Error wire;
    for (const std::uint32_t code : {0u, 17u, 0x7fffffffu, 0xffffffffu}) {
        wire.set_code(code);
        REQUIRE(proto::error_of(wire).code == ErrorCode::internal);
    }
    wire.set_message(std::string(100'000, 'a') + "\n");
    REQUIRE(proto::error_of(wire).message.size() <= proto::kErrorMessageBytesMax);
    wire.set_message("a\nb");
    REQUIRE(proto::error_of(wire).message == "a\\x0ab");
}

TEST_CASE("block hashes travel as sixteen little-endian bytes", "[proto]") {
    const std::vector<base::BlockHash> hashes = {{.high = 0x0102030405060708, .low = 0x1112131415161718},
                                                 {.high = ~0ull, .low = 0}};
    const std::string bytes = proto::write_block_hashes(hashes);
    REQUIRE(bytes.substr(0, 16) == "\x08\x07\x06\x05\x04\x03\x02\x01\x18\x17\x16\x15\x14\x13\x12\x11");
    REQUIRE(bytes.size() == 2 * proto::kBlockHashBytes);
    REQUIRE(proto::read_block_hashes(bytes).value() == hashes);
    REQUIRE(proto::block_hash_at(bytes, 1) == hashes[1]);
    REQUIRE(proto::read_block_hashes(bytes.substr(1)).error().code == ErrorCode::invalid_argument);
    REQUIRE(proto::read_block_hashes("").value().empty());
}

TEST_CASE("every role has a message and a name; what is no role is none", "[proto]") {
    for (const proto::Role role :
         {proto::Role::prefill, proto::Role::decode, proto::Role::mixed, proto::Role::encode}) {
        CAPTURE(proto::role_name(role));
        REQUIRE(proto::role_of(proto::role_message(role)) == role);
    }
    REQUIRE(proto::role_name(proto::Role::encode) == "encode");
    REQUIRE(proto::role_message(proto::Role::decode) == proto::WORKER_ROLE_DECODE);
    REQUIRE(!proto::role_of(proto::WORKER_ROLE_UNSPECIFIED).has_value());
    REQUIRE(!proto::role_of(static_cast<proto::WorkerRole>(99)).has_value());
    REQUIRE(proto::can_prefill(proto::Role::mixed));
    REQUIRE(proto::can_decode(proto::Role::mixed));
    REQUIRE_FALSE(proto::can_prefill(proto::Role::decode));
    REQUIRE_FALSE(proto::can_decode(proto::Role::prefill));
    REQUIRE_FALSE(proto::can_prefill(proto::Role::encode));
    REQUIRE_FALSE(proto::can_decode(proto::Role::encode));
}
