#include <google/protobuf/stubs/logging.h>

#include "base/crc32c.h"
#include "kv_transfer/frames.h"
#include "tests/kv_transfer/random.h"
#include "tests/kv_transfer/test_codec.h"
#include "tests/kv_transfer/world.h"
#include "tests/support/seeds.h"
// Last, see there.
#include "tests/support/catch.h"

using kv_test::make_key;
using kv_test::World;

namespace {

/// Gives `body` the checksum that makes it look untouched, so that the mutation reaches the checks behind.
std::string sealed(net::MessageKind kind, std::string body) {
    const std::array kind_bytes{static_cast<std::byte>(net::raw(kind)), std::byte{0}};
    const std::uint32_t crc = base::crc32c(std::as_bytes(std::span(body)), base::crc32c(kind_bytes));
    for (unsigned shift = 0; shift < 32; shift += 8) {
        body.push_back(static_cast<char>((crc >> shift) & 0xff));
    }
    return body;
}

std::string mutate(std::string body, kv_test::Random& random) {
    for (std::uint32_t count = 1 + random() % 4; count > 0; --count) {
        const std::size_t at = body.empty() ? 0 : random() % body.size();
        switch (random() % 5) {
            case 0:
                if (!body.empty()) { body[at] = static_cast<char>(body[at] ^ static_cast<char>(1u << (random() % 8))); }
                break;
            case 1:
                if (!body.empty()) { body[at] = static_cast<char>(random()); }
                break;
            case 2:
                body.erase(at, random() % 4);
                break;
            case 3:
                body.insert(at, 1 + random() % 4, static_cast<char>(random()));
                break;
            default:
                body.resize(random() % (body.size() + 1));
                break;
        }
    }
    return body;
}

/// Field values at the edges, in a message that is well-formed.
void bend(sluice::proto::KvFrame& frame, kv_test::Random& random) {
    const std::uint32_t edges[] = {0,  1,  2,  3,  4,  5,          15,         16,         17,        39,
                                   40, 41, 48, 64, 65, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff};
    const auto edge = [&] { return edges[random() % std::size(edges)]; };
    for (std::uint32_t count = 1 + random() % 3; count > 0; --count) {
        switch (random() % 12) {
            case 0:
                frame.set_layer_begin(edge());
                break;
            case 1:
                frame.set_layer_end(edge());
                break;
            case 2:
                frame.set_token_begin(edge());
                break;
            case 3:
                frame.set_token_end(edge());
                break;
            case 4:
                frame.set_group(edge());
                break;
            case 5:
                frame.set_raw_bytes(edge());
                break;
            case 6:
                frame.set_payload_bytes(edge());
                break;
            case 7:
                frame.set_number(edge());
                break;
            case 8:
                frame.set_head_end(edge());
                break;
            case 9:
                frame.mutable_kv_mode()->set_level(edge());
                break;
            case 10:
                frame.mutable_kv_mode()->set_codec(random() % 2 == 0 ? "test" : "raw");
                break;
            default:
                frame.set_payload_crc32c(random());
                break;
        }
    }
}

}  // namespace

TEST_CASE("mutated headers crash nothing and write nothing outside the grant", "[kv_transfer][fuzz]") {
    const auto seed = GENERATE(range(0u, test_support::seeds_of(60)));
    CAPTURE(seed);
    google::protobuf::SetLogHandler(nullptr);  // it would complain about every mutated string
    kv_test::Random random{seed};
    World::Options options;
    options.sender.codecs = kv_test::kTestCodecs;
    options.receiver.codecs = kv_test::kTestCodecs;
    World world(options);
    world.kv_mode = kv_test::test_mode(0);
    const auto key = make_key(1);
    constexpr std::uint32_t kTokens = 40;
    constexpr std::uint32_t kHave = 16;
    REQUIRE(world.open(key, kTokens));
    world.settle();
    world.grant(key, kTokens, kHave);
    world.settle();

    // What no frame may touch: every block but the granted ones, and the tokens that decode has.
    std::vector<base::BlockId> others;
    for (std::uint32_t id = 0; id < 16; ++id) {
        const auto granted = std::span(world.decode_blocks).first(3);
        if (std::find(granted.begin(), granted.end(), base::BlockId{id}) == granted.end()) {
            others.push_back(base::BlockId{id});
        }
    }
    const auto outside = [&] {
        auto bytes = kv_test::kv_of(world.decode_store, others, 0, static_cast<std::uint32_t>(others.size()) * 16);
        const auto have = world.received_kv(kHave);
        const auto behind = world.received_kv(48, kTokens);
        bytes.insert(bytes.end(), have.begin(), have.end());
        bytes.insert(bytes.end(), behind.begin(), behind.end());
        return bytes;
    };
    const auto before = outside();

    const net::PeerId peer{1};
    sluice::proto::RoomRequest request;
    kv_transfer::set_header(*request.mutable_header(), kv_test::kPrefill);
    kv_transfer::set_key(*request.mutable_handoff(), make_key(2), kv_test::kPrefill);
    request.set_kv_tokens(8);
    request.set_deadline_in_us(9'000'000);
    sluice::proto::RoomReply reply;
    kv_transfer::set_header(*reply.mutable_header(), kv_test::kDecode);
    kv_transfer::set_key(*reply.mutable_handoff(), key, kv_test::kPrefill);
    reply.set_answer(sluice::proto::RoomReply::ANSWER_GRANTED);
    sluice::proto::KvFetch fetch;
    kv_transfer::set_header(*fetch.mutable_header(), kv_test::kDecode);
    kv_transfer::set_key(*fetch.mutable_handoff(), kv_test::make_fetch_key(3), kv_test::kPrefill);
    fetch.set_block_hashes(std::string(48, 'h'));
    fetch.set_deadline_in_us(9'000'000);
    sluice::proto::KvAck ack;
    kv_transfer::set_header(*ack.mutable_header(), kv_test::kDecode);
    kv_transfer::set_key(*ack.mutable_handoff(), key, kv_test::kPrefill);

    for (int i = 0; i < 300; ++i) {
        kv_transfer::FrameInfo info;
        info.key = key;
        info.number = 1000u + random() % 8;
        info.range.layer_begin = random() % 4;
        info.range.layer_end = info.range.layer_begin + 1 + random() % (4 - info.range.layer_begin);
        info.range.token_begin = kHave + random() % (kTokens - kHave);
        info.range.token_end = info.range.token_begin + 1 + random() % (kTokens - info.range.token_begin);
        info.raw_bytes = world.decode_layout.wire_bytes(info.range);
        info.payload_bytes = info.raw_bytes;
        if (random() % 2 == 0) {  // coded: nothing that decodes to the range's length, but for a few
            info.mode = {&kv_test::kTestCodec, 0};
            info.payload_bytes = 1 + random() % (info.raw_bytes - 1);
        }
        std::vector<std::byte> payload(random() % 8 == 0 ? 1 + random() % 5000 : info.payload_bytes, std::byte{0x5a});
        info.payload_crc32c = base::crc32c(payload);
        auto frame = kv_transfer::make_frame(kv_test::kPrefill, world.decode_layout, info);
        if (random() % 2 == 0) { bend(frame, random); }
        std::string body = frame.SerializeAsString();
        if (random() % 2 == 0) { body = mutate(std::move(body), random); }
        const std::string header = random() % 16 == 0 ? body : sealed(kv_transfer::kFrame, body);
        const auto target =
            world.receiver->on_header(peer, kv_transfer::kFrame, std::as_bytes(std::span(header)), payload.size());
        if (target && !payload.empty()) {
            REQUIRE(target->bytes.size() == payload.size());
            std::copy(payload.begin(), payload.end(), target->bytes.begin());
            world.receiver->on_payload(target->token, {});
        }
        const net::MessageKind kind{static_cast<std::uint16_t>(random() % 9)};
        const google::protobuf::MessageLite* other = nullptr;
        switch (random() % 4) {
            case 0:
                other = &request;
                break;
            case 1:
                other = &reply;
                break;
            case 2:
                other = &fetch;
                break;
            default:
                other = &ack;
                break;
        }
        const std::string noise = sealed(kind, mutate(other->SerializeAsString(), random));
        const std::size_t noise_payload = random() % 8 == 0 ? 100 : 0;
        if (kind != kv_transfer::kFrame) {
            static_cast<void>(
                world.decode_router->on_header(peer, kind, std::as_bytes(std::span(noise)), noise_payload));
            static_cast<void>(
                world.prefill_router->on_header(peer, kind, std::as_bytes(std::span(noise)), noise_payload));
        }
        world.settle();
    }
    CHECK(outside() == before);
    CHECK(world.receiver->staging_buffers_free() == 8);
    world.pass(kv_test::seconds(61), kv_test::milliseconds(500));
    CHECK(world.receiver->handoffs_open() == 0);
    CHECK(world.sender->handoffs_open() == 0);
    CHECK(outside() == before);
}
