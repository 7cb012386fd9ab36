#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/stubs/logging.h>
#include <google/protobuf/util/message_differencer.h>

#include <random>
#include <string>

#include "base/result.h"
#include "proto/kv_transfer.pb.h"
#include "proto/scheduler.pb.h"
#include "proto/version.h"
#include "proto/worker.pb.h"

#include "tests/support/catch.h"

namespace {

using namespace sluice::proto;

void fill(Header& header) {
    header.set_protocol_version(proto::kProtocolVersion);
    header.set_model("stories260k");
    header.set_numerics_id(0xfedcba9876543210u);
}

void fill(Handoff& handoff) {
    handoff.set_request_id(~0ull);
    handoff.set_epoch(3);
    handoff.set_prefill_incarnation(11);
    handoff.set_decode_incarnation(12);
}

KvFrame make_frame() {
    KvFrame frame;
    fill(*frame.mutable_header());
    fill(*frame.mutable_handoff());
    frame.set_number(5);
    frame.set_kv_format(258);
    frame.set_layer_begin(2);
    frame.set_layer_end(4);
    frame.set_token_begin(0);
    frame.set_token_end(512);
    frame.mutable_kv_mode()->set_codec("raw");
    frame.set_payload_bytes(1ull << 33);
    frame.set_raw_bytes(1ull << 33);
    frame.set_payload_crc32c(0xe3069283u);
    return frame;
}

WorkerCommand make_start() {
    WorkerCommand command;
    Start& start = *command.mutable_start();
    start.set_request_id(7);
    start.set_epoch(1);
    start.set_part(Start::PART_PREFILL);
    for (const int token : {1, 0, -1, 2147483647}) {
        start.add_prompt(token);
    }
    start.add_generated(9);
    start.mutable_sampling()->set_temperature(0.7f);
    start.mutable_sampling()->set_seed(~0ull);
    (*start.mutable_sampling()->mutable_logit_bias())[42] = -100.0f;
    start.mutable_stop()->add_stop_token_ids(2);
    start.mutable_stop()->set_new_tokens_max(128);
    start.set_cache_scope(std::string("tenant\0salt", 11));
    start.set_deadline_in_us(12'000'000);
    start.mutable_peer()->set_worker_id(1);
    start.mutable_peer()->set_kv_address(std::string("\x00\xff\x80", 3));
    return command;
}

WorkerReport make_heartbeat() {
    WorkerReport report;
    Heartbeat& heartbeat = *report.mutable_heartbeat();
    fill(*heartbeat.mutable_header());
    heartbeat.set_number(1ull << 40);
    heartbeat.mutable_load()->set_blocks_free(100);
    heartbeat.add_steps()->set_duration_us(1500);
    BlockEvents& events = *heartbeat.add_blocks();
    events.set_number(8);
    events.set_stored(std::string(32, '\xab'));
    events.set_removed(std::string(16, '\0'));
    return report;
}

template <class Message>
void require_round_trip(const Message& message) {
    std::string bytes;
    REQUIRE(message.SerializeToString(&bytes));
    Message read;
    REQUIRE(read.ParseFromString(bytes));
    REQUIRE(google::protobuf::util::MessageDifferencer::Equals(message, read));
}

/// `bytes` with a field behind them that this version does not know: number 1000, a text.
std::string with_unknown_field(const std::string& bytes) {
    std::string field;
    {
        google::protobuf::io::StringOutputStream stream(&field);
        google::protobuf::io::CodedOutputStream out(&stream);
        out.WriteTag(1000u << 3 | 2);
        out.WriteVarint32(6);
        out.WriteString("future");
    }
    return bytes + field;
}

}  // namespace

TEST_CASE("messages come back as they were sent", "[proto]") {
    require_round_trip(make_frame());
    require_round_trip(make_start());
    require_round_trip(make_heartbeat());

    RoomReply reply;
    fill(*reply.mutable_header());
    fill(*reply.mutable_handoff());
    reply.set_answer(RoomReply::ANSWER_LATER);
    reply.mutable_error()->set_code(
        static_cast<std::uint32_t>(base::grpc_status_number(base::ErrorCode::resource_exhausted)));
    require_round_trip(reply);

    PlaceReply placed;
    placed.mutable_placement()->mutable_prefill()->set_worker_id(1);
    require_round_trip(placed);
    REQUIRE(placed.outcome_case() == PlaceReply::kPlacement);
    placed.mutable_refusal()->set_retry_after_ms(250);
    require_round_trip(placed);
    REQUIRE(placed.outcome_case() == PlaceReply::kRefusal);
}

TEST_CASE("fields of a newer version are carried on, not an error", "[proto]") {
    const KvFrame frame = make_frame();
    const std::string newer = with_unknown_field(frame.SerializeAsString());
    KvFrame read;
    REQUIRE(read.ParseFromString(newer));
    REQUIRE(read.number() == frame.number());
    REQUIRE(read.payload_crc32c() == frame.payload_crc32c());
    REQUIRE(read.SerializeAsString() == newer);
}

TEST_CASE("an empty message has the defaults that mean nothing was said", "[proto]") {
    WorkerCommand command;
    REQUIRE(command.ParseFromString(""));
    REQUIRE(command.command_case() == WorkerCommand::COMMAND_NOT_SET);
    KvFrame frame;
    REQUIRE(frame.ParseFromString(""));
    REQUIRE_FALSE(frame.has_header());
    REQUIRE(frame.header().protocol_version() == 0);  // never a valid version
    REQUIRE(proto::kProtocolVersion > 0);
    Start start;
    REQUIRE(start.part() == Start::PART_UNSPECIFIED);
}

TEST_CASE("an unknown command or a value outside an enum is seen as such", "[proto]") {
    WorkerCommand command;
    REQUIRE(command.ParseFromString(with_unknown_field("")));
    REQUIRE(command.command_case() == WorkerCommand::COMMAND_NOT_SET);
    Start start;
    start.set_part(static_cast<Start::Part>(77));
    Start read;
    REQUIRE(read.ParseFromString(start.SerializeAsString()));
    REQUIRE_FALSE(Start::Part_IsValid(read.part()));
}

TEST_CASE("a message cut short or damaged never takes the process down", "[proto]") {
    const google::protobuf::LogSilencer silent;  // it logs text that is not UTF-8
    const std::string bytes = make_start().SerializeAsString();
    WorkerCommand whole;
    for (std::size_t length = 1; length < bytes.size(); ++length) {
        CAPTURE(length);
        REQUIRE_FALSE(whole.ParseFromString(bytes.substr(0, length)));  // one field: nothing ends inside it
    }
    const auto seed = GENERATE(range(0u, 20u));
    CAPTURE(seed);
    std::mt19937 random{seed};
    for (int round = 0; round < 200; ++round) {
        std::string damaged = bytes;
        for (int i = 0; i < 3; ++i) {
            damaged[random() % damaged.size()] = static_cast<char>(random());
        }
        WorkerCommand read;
        if (read.ParseFromString(damaged)) { REQUIRE(read.ByteSizeLong() < 100 * bytes.size()); }
    }
}

TEST_CASE("the bytes of the header on the wire are fixed", "[proto]") {
    Header header;
    header.set_protocol_version(1);
    header.set_model("m");
    header.set_numerics_id(2);
    // field 1 varint 1, field 2 text "m", field 3 fixed64 2
    REQUIRE(header.SerializeAsString() == std::string("\x08\x01\x12\x01m\x19\x02\0\0\0\0\0\0\0", 14));
}
