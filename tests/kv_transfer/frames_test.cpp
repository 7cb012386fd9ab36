#include "kv_transfer/frames.h"

#include <functional>

#include "kv_transfer/staging.h"
#include "tests/kv_transfer/test_codec.h"
#include "tests/kv_transfer/world.h"
// Last, see there.
#include "tests/support/catch.h"

using base::ErrorCode;
using kv_transfer::check_frame;
using kv_transfer::FrameInfo;
using kv_transfer::kFrame;
using sluice::proto::KvFrame;

namespace {

FrameInfo make_info(const kv_cache::KvLayout& layout) {
    FrameInfo info;
    info.key = kv_test::make_key(5, 2);
    info.number = 9;
    info.range = {1, 3, 16, 40};
    info.raw_bytes = layout.wire_bytes(info.range);
    info.payload_bytes = info.raw_bytes;
    info.payload_crc32c = 0x12345678;
    info.kv_rate = 5'000'000'000;
    info.kv_rate_low = 7;
    info.more = true;
    return info;
}

}  // namespace

TEST_CASE("a sealed header opens as the same message, and no flipped bit passes", "[kv_transfer]") {
    const auto layout = kv_test::make_layout();
    const KvFrame frame = kv_transfer::make_frame(kv_test::kPrefill, layout, make_info(layout));
    std::string header = kv_transfer::seal(kFrame, frame);
    KvFrame opened;
    REQUIRE(kv_transfer::unseal(kFrame, std::as_bytes(std::span(header)), opened));
    CHECK(opened.SerializeAsString() == frame.SerializeAsString());
    for (std::size_t bit = 0; bit < header.size() * 8; ++bit) {
        const auto mask = static_cast<char>(1u << (bit % 8));
        header[bit / 8] = static_cast<char>(header[bit / 8] ^ mask);
        const auto result = kv_transfer::unseal(kFrame, std::as_bytes(std::span(header)), opened);
        header[bit / 8] = static_cast<char>(header[bit / 8] ^ mask);
        REQUIRE(!result);
        REQUIRE(result.error().code == ErrorCode::data_loss);
    }
    // The kind is under the checksum too.
    CHECK(!kv_transfer::unseal(kv_transfer::kAck, std::as_bytes(std::span(header)), opened));
    CHECK(!kv_transfer::unseal(kFrame, std::as_bytes(std::span(header).first(3)), opened));
    CHECK(!kv_transfer::unseal(kFrame, {}, opened));
}

TEST_CASE("nothing of a hand-off is read without its capability", "[kv_transfer]") {
    const auto layout = kv_test::make_layout();
    const auto opens = [](const KvFrame& frame, const kv_transfer::Identity& reader) {
        KvFrame opened;
        const std::string header = kv_transfer::seal(kFrame, frame);
        return kv_transfer::open_message(kFrame, std::as_bytes(std::span(header)), reader, opened);
    };
    const KvFrame frame = kv_transfer::make_frame(kv_test::kPrefill, layout, make_info(layout));
    CHECK(opens(frame, kv_test::kDecode));
    kv_transfer::Identity other_cluster = kv_test::kDecode;
    other_cluster.key = *base::parse_hash_key(std::string(32, '7'));
    CHECK(opens(frame, other_cluster).error().code == ErrorCode::permission_denied);
    // The capability of one hand-off is none for another.
    KvFrame changed = frame;
    SECTION("without") {
        changed.mutable_handoff()->clear_capability();
    }
    SECTION("cut") {
        changed.mutable_handoff()->mutable_capability()->pop_back();
    }
    SECTION("another request") {
        changed.mutable_handoff()->set_request_id(frame.handoff().request_id() + 1);
    }
    SECTION("another epoch") {
        changed.mutable_handoff()->set_epoch(frame.handoff().epoch() + 1);
    }
    SECTION("another run") {
        changed.mutable_handoff()->set_run(frame.handoff().run() + 1);
    }
    SECTION("another prefill worker") {
        changed.mutable_handoff()->set_prefill_incarnation(5);
    }
    SECTION("another decode worker") {
        changed.mutable_handoff()->set_decode_incarnation(5);
    }
    CHECK(opens(changed, kv_test::kDecode).error().code == ErrorCode::permission_denied);
}

TEST_CASE("a frame that fits passes with all its fields", "[kv_transfer]") {
    const auto layout = kv_test::make_layout();
    const FrameInfo info = make_info(layout);
    const auto checked = check_frame(kv_transfer::make_frame(kv_test::kPrefill, layout, info), kv_test::kDecode, layout,
                                     {}, info.payload_bytes, 1 << 20);
    REQUIRE(checked);
    CHECK(checked->key == info.key);
    CHECK(checked->number == info.number);
    CHECK(checked->range == info.range);
    CHECK(checked->payload_bytes == info.payload_bytes);
    CHECK(checked->payload_crc32c == info.payload_crc32c);
    CHECK(checked->kv_rate == info.kv_rate);
    CHECK(checked->kv_rate_low == info.kv_rate_low);
    CHECK(checked->more);
    KvFrame odd = kv_transfer::make_frame(kv_test::kPrefill, layout, info);
    odd.set_kv_rate_low(info.kv_rate + 1);
    CHECK(check_frame(odd, kv_test::kDecode, layout, {}, info.payload_bytes, 1 << 20)->kv_rate_low == info.kv_rate);
}

TEST_CASE("the last tokens of a frame's KV are what packing them alone gives", "[kv_transfer]") {
    const auto layout = kv_test::make_layout();
    const auto store = kv_test::make_store(layout, 8, 3);
    const auto blocks = kv_test::block_table({5, 2, 7, 1});
    const kv_cache::KvRange range{1, 3, 16, 49};
    for (std::uint32_t token = range.token_begin; token <= range.token_end; ++token) {
        CAPTURE(token);
        std::vector<std::byte> kv(layout.wire_bytes(range));
        kv_cache::pack(store, blocks, range, kv);
        const kv_cache::KvRange last{1, 3, token, range.token_end};
        std::vector<std::byte> alone(layout.wire_bytes(last));
        if (token < range.token_end) { kv_cache::pack(store, blocks, last, alone); }
        const auto kept = kv_transfer::last_tokens(layout, range, token, kv);
        REQUIRE(std::vector<std::byte>(kept.begin(), kept.end()) == alone);
    }
}

TEST_CASE("a frame is refused for each field that does not fit our own layout", "[kv_transfer]") {
    const auto layout = kv_test::make_layout();
    const FrameInfo info = make_info(layout);
    struct Case {
        const char* what;
        std::function<void(KvFrame&)> change;
        ErrorCode code;
    };
    const std::vector<Case> cases{
        {"protocol", [](KvFrame& f) { f.mutable_header()->set_protocol_version(99); }, ErrorCode::failed_precondition},
        {"model", [](KvFrame& f) { f.mutable_header()->set_model("other"); }, ErrorCode::failed_precondition},
        {"numerics", [](KvFrame& f) { f.mutable_header()->set_numerics_id(1); }, ErrorCode::failed_precondition},
        {"no header", [](KvFrame& f) { f.clear_header(); }, ErrorCode::failed_precondition},
        {"format", [](KvFrame& f) { f.set_kv_format(f.kv_format() + 1); }, ErrorCode::failed_precondition},
        {"group", [](KvFrame& f) { f.set_group(1); }, ErrorCode::invalid_argument},
        {"layers behind", [](KvFrame& f) { f.set_layer_end(5); }, ErrorCode::invalid_argument},
        {"no layers", [](KvFrame& f) { f.set_layer_end(1); }, ErrorCode::invalid_argument},
        {"layers backwards", [](KvFrame& f) { f.set_layer_end(0); }, ErrorCode::invalid_argument},
        {"no tokens", [](KvFrame& f) { f.set_token_end(16); }, ErrorCode::invalid_argument},
        {"tokens backwards", [](KvFrame& f) { f.set_token_begin(41); }, ErrorCode::invalid_argument},
        {"more tokens", [](KvFrame& f) { f.set_token_end(41); }, ErrorCode::invalid_argument},
        {"tokens without end", [](KvFrame& f) { f.set_token_end(0xffffffff); }, ErrorCode::invalid_argument},
        {"payload", [](KvFrame& f) { f.set_payload_bytes(f.payload_bytes() - 1); }, ErrorCode::invalid_argument},
        {"raw", [](KvFrame& f) { f.set_raw_bytes(f.raw_bytes() + 1); }, ErrorCode::invalid_argument},
        {"codec", [](KvFrame& f) { f.mutable_kv_mode()->set_codec("zip"); }, ErrorCode::unimplemented},
        {"loss", [](KvFrame& f) { f.mutable_kv_mode()->set_lossy(true); }, ErrorCode::unimplemented},
        {"half of the heads", [](KvFrame& f) { f.set_head_end(1); }, ErrorCode::unimplemented},
        {"the other half", [](KvFrame& f) { f.set_head_begin(1); }, ErrorCode::unimplemented},
        {"more heads", [](KvFrame& f) { f.set_head_end(3); }, ErrorCode::unimplemented},
    };
    for (const Case& c : cases) {
        CAPTURE(c.what);
        KvFrame frame = kv_transfer::make_frame(kv_test::kPrefill, layout, info);
        c.change(frame);
        const auto checked = check_frame(frame, kv_test::kDecode, layout, {}, info.payload_bytes, 1 << 20);
        REQUIRE(!checked);
        CHECK(checked.error().code == c.code);
    }
    const KvFrame frame = kv_transfer::make_frame(kv_test::kPrefill, layout, info);
    CHECK(!check_frame(frame, kv_test::kDecode, layout, {}, info.payload_bytes - 1, 1 << 20));
    CHECK(!check_frame(frame, kv_test::kDecode, layout, {}, info.payload_bytes, info.payload_bytes - 1));
}

TEST_CASE("errors travel with their code, cut and escaped", "[kv_transfer]") {
    sluice::proto::Error wire;
    proto::set_error(wire, {ErrorCode::data_loss, std::string(1000, '\n')}, kv_transfer::kErrorBytesMax);
    CHECK(wire.message().size() <= 400);
    const base::Error error = proto::error_of(wire);
    CHECK(error.code == ErrorCode::data_loss);
    wire.set_code(0xffffffff);
    CHECK(proto::error_of(wire).code == ErrorCode::internal);
}

TEST_CASE("frames name the kv heads; one of a peer that does not know them has all", "[kv_transfer]") {
    const auto layout = kv_test::make_layout();
    const FrameInfo info = make_info(layout);
    KvFrame frame = kv_transfer::make_frame(kv_test::kPrefill, layout, info);
    CHECK(frame.head_begin() == 0);
    CHECK(frame.head_end() == 2);
    frame.clear_head_end();
    CHECK(check_frame(frame, kv_test::kDecode, layout, {}, info.payload_bytes, 1 << 20).has_value());
    frame.set_head_begin(1);
    frame.set_head_end(2);
    CHECK(check_frame(frame, kv_test::kDecode, layout, {}, info.payload_bytes, 1 << 20).error().message ==
          "frame 9: kv heads 1..2 of 2: only all of them are taken");
}

TEST_CASE("a coded frame is shorter than its range, a raw one as long", "[kv_transfer]") {
    const auto layout = kv_test::make_layout();
    FrameInfo info = make_info(layout);
    const auto check = [&](std::size_t payload_bytes) {
        info.payload_bytes = payload_bytes;
        return check_frame(kv_transfer::make_frame(kv_test::kPrefill, layout, info), kv_test::kDecode, layout,
                           kv_test::kTestCodecs, payload_bytes, 1 << 20);
    };
    CHECK(check(info.raw_bytes).has_value());
    CHECK(check(info.raw_bytes - 1).error().code == ErrorCode::invalid_argument);
    info.mode = {&kv_test::kTestCodec, 1};
    CHECK(check(info.raw_bytes).error().code == ErrorCode::invalid_argument);
    CHECK(check(info.raw_bytes + 1).error().code == ErrorCode::invalid_argument);
    const auto coded = check(info.raw_bytes - 1);
    REQUIRE(coded.has_value());
    CHECK(coded->mode == info.mode);
}

TEST_CASE("staging buffers come back with their last reference, also after the pool is gone", "[kv_transfer]") {
    int returned = 0;
    auto pool = std::make_unique<kv_transfer::StagingPool>(device::host_device(), 2, 100, [&] { ++returned; });
    auto first = pool->take();
    auto second = pool->take();
    REQUIRE(first);
    REQUIRE(second);
    CHECK(first->size() == 100);
    CHECK(first->data() != second->data());
    CHECK(!pool->take());
    auto copy = first;
    first.reset();
    CHECK(pool->buffers_free() == 0);
    copy.reset();
    CHECK(returned == 1);
    CHECK(pool->buffers_free() == 1);
    pool.reset();
    (*second)[99] = std::byte{1};
    second.reset();
    CHECK(returned == 1);
}
