// Coded frames that are damaged, or were made by somebody who means harm, with checksums of the frame that fit: refused
// before a block is touched, and what is good afterwards is taken.
#include <random>

#include "base/crc32c.h"
#include "kv_transfer/codec/chunk.h"
#include "kv_transfer/codec/codecs.h"
#include "kv_transfer/frames.h"
#include "tests/kv_transfer/chunk_test.h"
#include "tests/kv_transfer/world.h"
// Last, see there.
#include "tests/support/catch.h"

using base::ErrorCode;
using kv_test::HandoffKey;
using kv_test::make_key;
using kv_test::ReceiverEvent;
using kv_test::World;
using kv_transfer::Codec;
using kv_transfer::Codecs;

namespace {

constexpr std::uint32_t kTokens = 120;
constexpr kv_cache::KvRange kRange{0, 4, 0, kTokens};
using Bytes = std::vector<std::byte>;

struct Answers final : net::Handler {
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

World::Options options_with(const Codecs& codecs) {
    World::Options options;
    options.receiver.codecs = codecs;
    return options;
}

/// Prefill's place is taken by whoever forges.
struct Forgery {
    Forgery(const std::string& codec_name, std::uint32_t epoch)
        : codec(kv_transfer::make_codec(codec_name, kv_test::kNumerics, nullptr, nullptr).value()),
          level(codec->has_level(0) ? 0 : 2),
          world(options_with(Codecs({codec.get()}))),
          key(make_key(1, epoch)),
          raw(world.decode_layout.wire_bytes(kRange)) {
        transport = world.network->add("forger", {.own_thread = false}, world.clock).value();
        REQUIRE(transport->start(answers));
        peer = transport->connect(world.decode_transport->address()).value();
        std::mt19937 random{5};
        std::normal_distribution<float> normal;
        for (std::size_t i = 0; i < raw.size() / 2; ++i) {
            kv_test::put_value(raw, true, i, normal(random));
        }
        ask(key);
        world.allow_lossy = true;
        world.grant(key, kTokens);
        world.settle();
        before = world.received_kv(kTokens);
    }
    ~Forgery() { transport->stop(); }

    void ask(const HandoffKey& of) {
        proto::RoomRequest request;
        kv_transfer::set_header(*request.mutable_header(), kv_test::kPrefill);
        kv_transfer::set_key(*request.mutable_handoff(), of, kv_test::kPrefill);
        request.set_kv_tokens(kTokens);
        request.set_deadline_in_us(60'000'000);
        kv_transfer::set_mode(*request.mutable_kv_mode(), {codec.get(), level});
        send(kv_transfer::kRoomRequest, request, {});
    }
    Bytes chunk(const Codec& by) const {
        Bytes out(by.bound(raw.size()));
        const std::size_t size = by.encode(world.decode_layout, kRange, level, raw, out).value();
        REQUIRE(size < raw.size());
        out.resize(size);
        return out;
    }
    /// The frame with checksums that fit; what is wrong with it.
    std::optional<ErrorCode> frame(const Bytes& payload, const HandoffKey& of) {
        const int acks = answers.acks;
        kv_transfer::FrameInfo info{.key = of, .number = number++, .range = kRange, .mode = {codec.get(), level}};
        info.payload_bytes = payload.size();
        info.raw_bytes = raw.size();
        info.payload_crc32c = base::crc32c(payload);
        send(kv_transfer::kFrame, kv_transfer::make_frame(kv_test::kPrefill, world.decode_layout, info), payload);
        REQUIRE(answers.acks == acks + 1);
        if (answers.ack.error().code() == 0) { return std::nullopt; }
        return proto::error_of(answers.ack.error()).code;
    }
    void check_refused(const Bytes& payload) {
        CHECK(frame(payload, key) == ErrorCode::data_loss);
        CHECK(world.count(ReceiverEvent::Kind::completed, key) == 0);
        CHECK(world.received_kv(kTokens) == before);  // no block was touched
    }
    template <class Message>
    void send(net::MessageKind kind, const Message& message, Bytes payload) {
        const auto owner = std::make_shared<Bytes>(std::move(payload));
        REQUIRE(transport->send(peer, {kind, kv_transfer::seal(kind, message), {*owner, owner}},
                                world.clock.now() + kv_test::seconds(5), [](const base::Result<void>&) {}));
        bool did = true;
        while (did) {
            did = transport->tick();
            world.settle();
            did = transport->tick() || did;
        }
    }

    std::unique_ptr<Codec> codec;
    std::uint32_t level;
    World world;
    HandoffKey key;
    Bytes raw;
    Bytes before;
    Answers answers;
    std::unique_ptr<net::Transport> transport;
    net::PeerId peer{};
    std::uint32_t number = 0;
};

void put_u32(Bytes& chunk, std::size_t at, std::uint32_t value) {
    for (std::size_t i = 0; i < 4; ++i) {
        chunk[at + i] = static_cast<std::byte>(value >> (8 * i));
    }
}

/// Makes the chunk's own checksums fit again.
void seal_chunk(Bytes& chunk) {
    const std::span<const std::byte> bytes(chunk);
    put_u32(chunk, 64, base::crc32c(bytes.subspan(kv_transfer::kChunkHeaderBytes)));
    put_u32(chunk, 68, base::crc32c(bytes.first(68)));
}

}  // namespace

TEST_CASE("damage of a coded frame is found before a block is touched, and a good frame is taken afterwards",
          "[kv_transfer][property]") {
    Forgery forgery(GENERATE("exact", "int8", "cachegen", "sluice"), 0);
    CAPTURE(forgery.codec->name());
    const Bytes good = forgery.chunk(*forgery.codec);
    std::mt19937 random{11};
    for (int i = 0; i < 60; ++i) {  // header, table, payload
        Bytes flipped = good;
        const std::size_t size = i % 3 == 0   ? kv_transfer::kChunkHeaderBytes
                                 : i % 3 == 1 ? kv_transfer::kChunkHeaderBytes + 64
                                              : good.size();
        const std::size_t at = i % 3 == 1 ? kv_transfer::kChunkHeaderBytes + random() % 64 : random() % size;
        flipped[at] ^= static_cast<std::byte>(1u << random() % 8);
        forgery.check_refused(flipped);
    }
    for (const std::size_t size :
         {std::size_t{1}, std::size_t{71}, std::size_t{72}, good.size() / 2, good.size() - 1}) {
        Bytes cut(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(size));
        forgery.check_refused(cut);
        if (size >= kv_transfer::kChunkHeaderBytes) {
            seal_chunk(cut);  // by somebody who means it
            forgery.check_refused(cut);
        }
    }
    // Bombs: ranges and lengths beyond what there is, with checksums that fit.
    for (const std::size_t at : {16u, 20u, 24u, 28u, 32u, 36u, 40u, 44u, 48u, 52u}) {
        Bytes bomb = good;
        put_u32(bomb, at, 0xfffffff0u);
        seal_chunk(bomb);
        forgery.check_refused(bomb);
    }
    const auto other = kv_transfer::make_codec(forgery.codec->name(), kv_test::kNumerics + 1, nullptr, nullptr).value();
    forgery.check_refused(forgery.chunk(*other));  // of another model

    CHECK_FALSE(forgery.frame(good, forgery.key));
    CHECK(forgery.world.count(ReceiverEvent::Kind::completed, forgery.key) == 1);
    Bytes expected(forgery.raw.size());
    REQUIRE(forgery.codec->decode(forgery.world.decode_layout, kRange, forgery.level, good, expected));
    CHECK(forgery.world.received_kv(kTokens) == expected);
}

TEST_CASE("a coded frame of an older attempt is refused, whatever it holds", "[kv_transfer]") {
    Forgery forgery("exact", 0);
    const Bytes good = forgery.chunk(*forgery.codec);
    const HandoffKey newer = make_key(1, 1);
    forgery.ask(newer);  // the request was placed again: the first attempt ends
    forgery.world.grant(newer, kTokens);
    forgery.world.settle();
    CHECK(forgery.world.count(ReceiverEvent::Kind::failed, forgery.key) == 1);
    CHECK(forgery.frame(good, forgery.key) == ErrorCode::aborted);
    CHECK(forgery.world.received_kv(kTokens) == forgery.before);
    CHECK(forgery.world.count(ReceiverEvent::Kind::completed, newer) == 0);
    CHECK_FALSE(forgery.frame(good, newer));
    CHECK(forgery.world.count(ReceiverEvent::Kind::completed, newer) == 1);
}
