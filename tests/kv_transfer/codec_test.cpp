#include "base/crc32c.h"
#include "kv_transfer/frames.h"
#include "tests/kv_transfer/test_codec.h"
#include "tests/kv_transfer/world.h"
// Last, see there.
#include "tests/support/catch.h"

using base::ErrorCode;
using kv_test::HandoffKey;
using kv_test::kTestCodecs;
using kv_test::make_key;
using kv_test::ReceiverEvent;
using kv_test::SenderEvent;
using kv_test::test_mode;
using kv_test::World;
using kv_transfer::Codecs;

namespace {

constexpr std::uint32_t kTokens = 40;
using S = SenderEvent::Kind;
using R = ReceiverEvent::Kind;

World::Options options_with(const Codecs& prefill, const Codecs& decode) {
    World::Options options;
    options.sender.codecs = prefill;
    options.receiver.codecs = decode;
    return options;
}

/// Blocks [0, blocks) of the table hold one byte throughout: what the exact level makes short.
void fill_blocks(World& world, std::size_t blocks) {
    for (std::size_t i = 0; i < blocks; ++i) {
        const auto bytes = world.prefill_store.run({world.prefill_blocks[i], 1});
        std::fill(bytes.begin(), bytes.end(), std::byte{0x3c});
    }
}

/// The whole hand-off; the completed events of both sides.
std::pair<SenderEvent, ReceiverEvent> hand_over(World& world, const proto::KvMode& mode, bool allow_lossy = false) {
    const HandoffKey key = make_key(1);
    world.kv_mode = mode;
    REQUIRE(world.open(key, kTokens));
    world.ready_all(key, kTokens);
    world.settle();
    world.allow_lossy = allow_lossy;
    world.grant(key, kTokens);
    world.settle();
    REQUIRE(world.sent.size() == 3);
    REQUIRE(world.received.size() == 3);
    REQUIRE(world.sent[1].kind == S::completed);
    REQUIRE(world.received[1].kind == R::completed);
    CHECK(world.sender->inflight_bytes() == 0);
    CHECK(world.receiver->staging_buffers_free() == 8);
    return {world.sent[1], world.received[1]};
}

std::uint64_t raw_bytes(const World& world) {
    return world.prefill_layout.bytes_per_token() * kTokens;
}

/// Messages to the receiver that no sender of ours would send.
struct Forger final : net::Handler {
    base::Result<net::Target> on_header(net::PeerId, net::MessageKind kind, std::span<const std::byte> header,
                                        std::size_t) override {
        if (kind == kv_transfer::kAck) {
            REQUIRE(kv_transfer::unseal(kind, header, ack));
            ++acks;
        }
        return net::Target{};
    }
    void on_payload(net::ReceiveToken, base::Result<void>) override {}
    void on_peer_lost(net::PeerId, const base::Error&) override {}
    proto::KvAck ack;
    int acks = 0;
};

}  // namespace

TEST_CASE("frames that a codec makes shorter go coded, the others raw, and the KV is equal bit for bit",
          "[kv_transfer]") {
    World::Options options = options_with(kTestCodecs, kTestCodecs);
    options.sender.frame_bytes_max = 2048;  // 32 tokens of a layer
    World world(options);
    const std::size_t blocks_filled = GENERATE(0u, 2u, 3u);  // none, the first frames of a layer, all
    fill_blocks(world, blocks_filled);
    const auto [sent, received] = hand_over(world, test_mode(0));
    CHECK(world.received_kv(kTokens) == world.sent_kv(kTokens));
    CHECK_FALSE(received.is_lossy);
    CHECK(sent.payload_bytes == received.payload_bytes);
    if (blocks_filled == 0) {
        CHECK(sent.payload_bytes == raw_bytes(world));
    } else if (blocks_filled == 2) {
        CHECK(sent.payload_bytes > raw_bytes(world) / 8);
        CHECK(sent.payload_bytes < raw_bytes(world) / 2);
    } else {
        CHECK(sent.payload_bytes < raw_bytes(world) / 8);
    }
}

TEST_CASE("a lossy hand-off says so, and decode gets what the codec makes of the KV", "[kv_transfer]") {
    World world(options_with(kTestCodecs, kTestCodecs));
    const auto [sent, received] = hand_over(world, test_mode(1), true);
    CHECK(received.is_lossy);
    CHECK(sent.payload_bytes == raw_bytes(world) / 2);
    auto expected = world.sent_kv(kTokens);
    for (std::size_t i = 1; i < expected.size(); i += 2) {
        expected[i] = std::byte{0};
    }
    CHECK(world.received_kv(kTokens) == expected);
}

TEST_CASE("decode takes raw where it lacks the codec or may not take loss, prefill offers raw where it lacks it",
          "[kv_transfer]") {
    const Codecs none;
    const auto [prefill, decode, mode, allow_lossy] =
        GENERATE_COPY(table<Codecs, Codecs, proto::KvMode, bool>({{kTestCodecs, none, test_mode(1), true},
                                                                  {none, kTestCodecs, test_mode(1), true},
                                                                  {kTestCodecs, kTestCodecs, test_mode(1), false},
                                                                  {kTestCodecs, kTestCodecs, test_mode(7), true},
                                                                  {kTestCodecs, kTestCodecs, proto::KvMode{}, true}}));
    World world(options_with(prefill, decode));
    const auto [sent, received] = hand_over(world, mode, allow_lossy);
    CHECK(sent.payload_bytes == raw_bytes(world));
    CHECK_FALSE(received.is_lossy);
    CHECK(world.received_kv(kTokens) == world.sent_kv(kTokens));
}

TEST_CASE("a coded frame of a hand-off whose mode is another is refused; one that does not decode is asked for again",
          "[kv_transfer]") {
    World world(options_with({}, kTestCodecs));
    const bool is_granted = GENERATE(true, false);
    Forger forger;
    auto transport = world.network->add("forger", {.own_thread = false}, world.clock).value();
    REQUIRE(transport->start(forger));
    const auto peer = transport->connect(world.decode_transport->address()).value();
    const auto send = [&](net::MessageKind kind, const auto& message, std::vector<std::byte> payload) {
        const auto owner = std::make_shared<std::vector<std::byte>>(std::move(payload));
        REQUIRE(transport->send(peer, {kind, kv_transfer::seal(kind, message), {*owner, owner}},
                                world.clock.now() + kv_test::seconds(5), [](const base::Result<void>&) {}));
        bool did = true;
        while (did) {
            did = transport->tick();
            world.settle();
            did = transport->tick() || did;
        }
    };
    const HandoffKey key = make_key(1);
    proto::RoomRequest ask;
    kv_transfer::set_header(*ask.mutable_header(), kv_test::kPrefill);
    kv_transfer::set_key(*ask.mutable_handoff(), key, kv_test::kPrefill);
    ask.set_kv_tokens(kTokens);
    ask.set_deadline_in_us(10'000'000);
    *ask.mutable_kv_mode() = is_granted ? test_mode(0) : proto::KvMode{};
    send(kv_transfer::kRoomRequest, ask, {});
    world.grant(key, kTokens);
    world.settle();

    const std::vector<std::byte> nonsense(64, std::byte{0xff});
    kv_transfer::FrameInfo info{
        .key = key, .number = 0, .range = {0, 4, 0, kTokens}, .mode = {&kv_test::kTestCodec, 0}};
    info.payload_bytes = nonsense.size();
    info.raw_bytes = world.decode_layout.wire_bytes(info.range);
    info.payload_crc32c = base::crc32c(nonsense);
    send(kv_transfer::kFrame, kv_transfer::make_frame(kv_test::kPrefill, world.decode_layout, info), nonsense);
    REQUIRE(forger.acks == 1);
    CHECK(proto::error_of(forger.ack.error()).code ==
          (is_granted ? ErrorCode::data_loss : ErrorCode::failed_precondition));
    CHECK(world.count(R::completed, key) == 0);
    transport->stop();
}

TEST_CASE("modes are found by name, level and loss", "[kv_transfer]") {
    CHECK(kTestCodecs.find({})->is_raw());
    proto::KvMode mode;
    mode.set_codec("raw");
    CHECK(kTestCodecs.find(mode)->is_raw());
    mode.set_level(1);
    CHECK(kTestCodecs.find(mode).error().code == ErrorCode::unimplemented);
    CHECK(kTestCodecs.find(test_mode(1))->is_lossy());
    CHECK_FALSE(kTestCodecs.find(test_mode(0))->is_lossy());
    mode = test_mode(0);
    mode.set_lossy(true);  // our level 0 is exact: another codec of the same name
    CHECK(kTestCodecs.find(mode).error().message == "no KV mode here for codec \"test\", level 0, lossy");
    CHECK(Codecs{}.find(test_mode(1)).error().code == ErrorCode::unimplemented);
    CHECK(kTestCodecs.names() == std::vector<std::string>{"test"});
    CHECK(Codecs{}.bound(100) == 100);
    CHECK(kTestCodecs.bound(100) == 200);
    proto::KvMode written;
    set_mode(written, *kTestCodecs.find(test_mode(1)));
    CHECK(written.SerializeAsString() == test_mode(1).SerializeAsString());
}
