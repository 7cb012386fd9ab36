#include "tests/kv_transfer/world.h"
// Last, see there.
#include "tests/support/catch.h"

using base::ErrorCode;
using kv_test::HandoffKey;
using kv_test::make_key;
using kv_test::milliseconds;
using kv_test::ReceiverEvent;
using kv_test::seconds;
using kv_test::SenderEvent;
using kv_test::World;

namespace {

constexpr std::uint32_t kTokens = 40;  // two blocks and a half

std::vector<SenderEvent::Kind> kinds(const std::vector<SenderEvent>& events) {
    std::vector<SenderEvent::Kind> all;
    for (const SenderEvent& event : events) {
        all.push_back(event.kind);
    }
    return all;
}
std::vector<ReceiverEvent::Kind> kinds(const std::vector<ReceiverEvent>& events) {
    std::vector<ReceiverEvent::Kind> all;
    for (const ReceiverEvent& event : events) {
        all.push_back(event.kind);
    }
    return all;
}
using S = SenderEvent::Kind;
using R = ReceiverEvent::Kind;

}  // namespace

TEST_CASE("KV that is ready before the grant arrives bit for bit in the granted blocks", "[kv_transfer]") {
    World world;
    const HandoffKey key = make_key(1);
    REQUIRE(world.open(key, kTokens));
    world.ready_all(key, kTokens);
    world.settle();
    REQUIRE(kinds(world.received) == std::vector{R::room_requested});
    CHECK(world.received[0].kv_tokens == kTokens);
    world.grant(key, kTokens);
    world.settle();
    CHECK(kinds(world.sent) == std::vector{S::granted, S::completed, S::released});
    CHECK(kinds(world.received) == std::vector{R::room_requested, R::completed, R::released});
    CHECK(world.received_kv(kTokens) == world.sent_kv(kTokens));
    CHECK(world.sent[1].payload_bytes == world.prefill_layout.bytes_per_token() * kTokens);
    CHECK(world.sender->handoffs_open() == 0);
    CHECK(world.sender->inflight_bytes() == 0);
    CHECK(world.receiver->handoffs_open() == 0);
    CHECK(world.receiver->staging_buffers_free() == 8);
}

TEST_CASE("a prefill worker of another minor version hands its KV over", "[kv_transfer]") {
    const auto minor = GENERATE(std::uint32_t{0}, proto::kProtocolMinor + 1);
    World world({.prefill_speaks = {.minor = minor}});
    const HandoffKey key = make_key(1);
    REQUIRE(world.open(key, kTokens));
    world.ready_all(key, kTokens);
    world.settle();
    world.grant(key, kTokens);
    world.settle();
    CHECK(kinds(world.sent) == std::vector{S::granted, S::completed, S::released});
    CHECK(kinds(world.received) == std::vector{R::room_requested, R::completed, R::released});
    CHECK(world.received_kv(kTokens) == world.sent_kv(kTokens));
}

TEST_CASE("a prefill worker of another major version is refused, and is told both versions", "[kv_transfer]") {
    World world({.prefill_speaks = {.version = proto::kProtocolVersion + 1, .minor = 3}});
    const HandoffKey key = make_key(1);
    REQUIRE(world.open(key, kTokens));
    world.settle();
    CHECK(world.received.empty());
    REQUIRE(kinds(world.sent) == std::vector{S::failed, S::released});
    CHECK(world.sent[0].error->code == ErrorCode::failed_precondition);
    CHECK(world.sent[0].error->message == "protocol version " + std::to_string(proto::kProtocolVersion + 1) +
                                              ".3, ours is " + std::to_string(proto::kProtocolVersion) + "." +
                                              std::to_string(proto::kProtocolMinor));
}

TEST_CASE("layers go as they get ready, in chunks of tokens, and the rest of the blocks stays", "[kv_transfer]") {
    World world;
    const HandoffKey key = make_key(1);
    const auto before = world.received_kv(48, kTokens);
    REQUIRE(world.open(key, kTokens));
    world.settle();
    world.grant(key, kTokens);
    world.settle();
    CHECK(kinds(world.sent) == std::vector{S::granted});
    for (const auto& [begin, end] : {std::pair{0u, 17u}, std::pair{17u, kTokens}}) {
        for (std::uint32_t layer = 0; layer < 4; layer += 2) {
            CHECK(world.count(S::completed, key) == 0);
            world.sender->ready(key, layer, layer + 2, begin, end);
            world.settle();
            CHECK(world.sender->inflight_bytes() == 0);  // each was acknowledged
        }
    }
    CHECK(world.count(S::completed, key) == 1);
    CHECK(world.received_kv(kTokens) == world.sent_kv(kTokens));
    CHECK(world.received_kv(48, kTokens) == before);
}

TEST_CASE("tokens that decode holds are neither sent nor written", "[kv_transfer]") {
    World world;
    const HandoffKey key = make_key(1);
    const auto before = world.received_kv(32);
    REQUIRE(world.open(key, kTokens));
    world.ready_all(key, kTokens);
    world.settle();
    world.grant(key, kTokens, 32);
    world.settle();
    REQUIRE(world.count(S::completed, key) == 1);
    CHECK(world.sent[0].have_tokens == 32);
    CHECK(world.sent[1].payload_bytes == world.prefill_layout.bytes_per_token() * (kTokens - 32));
    CHECK(world.received_kv(32) == before);
    CHECK(world.received_kv(kTokens, 32) == world.sent_kv(kTokens, 32));
}

TEST_CASE("nothing is sent when decode holds all", "[kv_transfer]") {
    World world;
    const HandoffKey key = make_key(1);
    REQUIRE(world.open(key, 32));
    world.settle();
    world.grant(key, 32, 32);
    world.settle();
    CHECK(world.count(S::completed, key) == 1);
    CHECK(world.count(S::released, key) == 1);
    CHECK(world.count(R::completed, key) == 1);
    CHECK(world.count(R::released, key) == 1);
}

TEST_CASE("later: the KV stays on prefill for as long as its lease is renewed, and goes in one piece",
          "[kv_transfer]") {
    World world;
    const HandoffKey key = make_key(1);
    REQUIRE(world.open(key, kTokens, seconds(60)));
    world.settle();
    world.receiver->later(key);
    world.ready_all(key, kTokens);
    world.pass(seconds(20), milliseconds(50));
    CHECK(kinds(world.sent) == std::vector{S::later});
    world.grant(key, kTokens);
    world.settle();
    CHECK(kinds(world.sent) == std::vector{S::later, S::granted, S::completed, S::released});
    CHECK(world.received_kv(kTokens) == world.sent_kv(kTokens));
}

TEST_CASE("a request for room that nobody answers is kept, and the sender learns that decode lives", "[kv_transfer]") {
    World world;
    const HandoffKey key = make_key(1);
    REQUIRE(world.open(key, kTokens));
    world.pass(seconds(10), milliseconds(50));
    CHECK(kinds(world.received) == std::vector{R::room_requested});
    CHECK(world.count(S::failed, key) == 0);
}

TEST_CASE("a refusal fails the hand-off on both sides", "[kv_transfer]") {
    World world;
    const HandoffKey key = make_key(1);
    REQUIRE(world.open(key, kTokens));
    world.settle();
    world.receiver->refuse(key, {ErrorCode::not_found, "no such request"});
    world.settle();
    CHECK(kinds(world.sent) == std::vector{S::failed, S::released});
    CHECK(world.sender_error() == ErrorCode::not_found);
    CHECK(kinds(world.received) == std::vector{R::room_requested, R::failed, R::released});
}

TEST_CASE("other lengths on the two sides fail the hand-off", "[kv_transfer]") {
    World world;
    const HandoffKey key = make_key(1);
    REQUIRE(world.open(key, kTokens));
    world.settle();
    world.grant(key, kTokens + 1);
    world.settle();
    CHECK(world.sender_error() == ErrorCode::failed_precondition);
    CHECK(world.receiver_error() == ErrorCode::failed_precondition);
}

TEST_CASE("abort on either side at any point ends both, each released once", "[kv_transfer]") {
    const bool on_prefill = GENERATE(true, false);
    const int point = GENERATE(range(0, 4));
    CAPTURE(on_prefill, point);
    World world;
    const HandoffKey key = make_key(1);
    REQUIRE(world.open(key, kTokens));
    if (point >= 1) { world.settle(); }
    if (point >= 2) { world.grant(key, kTokens); }
    if (point >= 3) {
        world.sender->ready(key, 0, 2, 0, kTokens);
        world.settle();
    }
    if (on_prefill) {
        world.sender->abort(key, {ErrorCode::cancelled, "client gone"});
    } else {
        world.settle();
        world.receiver->abort(key, {ErrorCode::cancelled, "client gone"});
    }
    world.settle();
    world.ready_all(key, kTokens);
    world.pass(seconds(1), milliseconds(50));
    CHECK(world.count(S::failed, key) == 1);
    CHECK(world.count(S::released, key) == 1);
    CHECK(world.count(S::completed, key) == 0);
    CHECK(world.count(R::failed, key) == world.count(R::room_requested, key));
    CHECK(world.count(R::released, key) == world.count(R::room_requested, key));
    CHECK(world.sender_error() == ErrorCode::cancelled);
    CHECK(world.sender->handoffs_open() == 0);
    CHECK(world.receiver->handoffs_open() == 0);
}

TEST_CASE("a grant for a hand-off that ended meanwhile has no effect", "[kv_transfer]") {
    World world;
    const HandoffKey key = make_key(1);
    REQUIRE(world.open(key, kTokens));
    world.settle();
    world.sender->abort(key, {ErrorCode::cancelled, "client gone"});
    world.settle();
    const auto before = world.received_kv(kTokens);
    world.grant(key, kTokens);
    world.pass(seconds(1), milliseconds(50));
    CHECK(world.count(R::released, key) == 1);
    CHECK(world.count(R::completed, key) == 0);
    CHECK(world.received_kv(kTokens) == before);
}

TEST_CASE("the deadline fails a hand-off whose KV does not get ready", "[kv_transfer]") {
    World world;
    const HandoffKey key = make_key(1);
    REQUIRE(world.open(key, kTokens, seconds(3)));
    world.settle();
    world.grant(key, kTokens);
    world.pass(seconds(4), milliseconds(50));
    CHECK(world.count(S::failed, key) == 1);
    CHECK(world.sender_error() == ErrorCode::deadline_exceeded);
    CHECK(world.count(R::failed, key) == 1);
    CHECK(world.count(S::released, key) == 1);
    CHECK(world.count(R::released, key) == 1);
}

TEST_CASE("a silent decode worker fails the hand-off, and the next one begins a new connection", "[kv_transfer]") {
    World world;
    const HandoffKey key = make_key(1);
    REQUIRE(world.open(key, kTokens));
    world.tick_prefill();
    for (int i = 0; i < 120; ++i) {  // decode does not run
        world.clock.advance(milliseconds(50));
        world.tick_prefill();
    }
    CHECK(world.sender_error() == ErrorCode::unavailable);
    CHECK(world.count(S::released, key) == 1);
    world.settle();
    const HandoffKey next = make_key(2);
    REQUIRE(world.open(next, kTokens));
    world.ready_all(next, kTokens);
    world.settle();
    world.grant(next, kTokens);
    world.settle();
    CHECK(world.count(S::completed, next) == 1);
}

TEST_CASE("a silent prefill worker loses its lease, and its late frames change nothing", "[kv_transfer]") {
    World world;
    const HandoffKey key = make_key(1);
    REQUIRE(world.open(key, kTokens));
    world.settle();
    world.grant(key, kTokens, 0, seconds(2));
    world.settle();
    world.ready_all(key, kTokens);
    for (int i = 0; i < 60; ++i) {  // prefill does not run
        world.clock.advance(milliseconds(50));
        world.tick_decode();
    }
    CHECK(world.count(R::failed, key) == 1);
    CHECK(world.receiver_error() == ErrorCode::deadline_exceeded);
    CHECK(world.count(R::released, key) == 1);
    const auto before = world.received_kv(kTokens);
    world.pass(seconds(1), milliseconds(50));
    CHECK(world.received_kv(kTokens) == before);
    CHECK(world.count(S::failed, key) == 1);
    CHECK(world.count(S::released, key) == 1);
}

TEST_CASE("a lost connection fails both sides", "[kv_transfer]") {
    const bool prefill_dies = GENERATE(true, false);
    CAPTURE(prefill_dies);
    World world;
    const HandoffKey key = make_key(1);
    REQUIRE(world.open(key, kTokens));
    world.settle();
    world.grant(key, kTokens);
    world.settle();
    if (prefill_dies) {
        world.prefill_transport->stop();
    } else {
        world.decode_transport->stop();
    }
    world.settle();
    CHECK(world.count(S::failed, key) == 1);
    CHECK(world.count(S::released, key) == 1);
    CHECK(world.count(R::failed, key) == 1);
    CHECK(world.count(R::released, key) == 1);
    CHECK(world.sender_error() == ErrorCode::unavailable);
    CHECK(world.receiver_error() == ErrorCode::unavailable);
}

TEST_CASE("a newer attempt ends the older one, and an older one is refused", "[kv_transfer]") {
    World world;
    const HandoffKey old_key = make_key(1, 3);
    const HandoffKey new_key = make_key(1, 4);
    REQUIRE(world.open(old_key, kTokens));
    world.settle();
    world.grant(old_key, kTokens);
    world.settle();
    REQUIRE(world.open(new_key, kTokens));
    world.settle();
    CHECK(world.count(R::released, old_key) == 1);
    CHECK(world.count(S::released, old_key) == 1);
    CHECK(world.receiver_error() == ErrorCode::aborted);
    CHECK(world.count(R::room_requested, new_key) == 1);
    const HandoffKey older = make_key(1, 2);
    REQUIRE(world.open(older, kTokens));
    world.settle();
    CHECK(world.count(R::room_requested, older) == 0);
    CHECK(world.count(S::failed, older) == 1);
    world.ready_all(new_key, kTokens);
    world.grant(new_key, kTokens);
    world.settle();
    CHECK(world.count(S::completed, new_key) == 1);
    CHECK(world.received_kv(kTokens) == world.sent_kv(kTokens));
    REQUIRE(world.open(old_key, kTokens));
    world.settle();
    CHECK(world.count(S::failed, old_key) == 2);
}

TEST_CASE("a hand-off meant for another life of the decode worker is refused", "[kv_transfer]") {
    World world;
    HandoffKey key = make_key(1);
    key.decode = base::Incarnation{999};
    REQUIRE(world.open(key, kTokens));
    world.settle();
    CHECK(world.received.empty());
    CHECK(world.count(S::failed, key) == 1);
    CHECK(world.sender_error() == ErrorCode::failed_precondition);
}

TEST_CASE("frames are cut to their largest size and sent through few staging buffers", "[kv_transfer]") {
    const std::size_t frame_bytes = GENERATE(64U, 100U, 1024U, 4096U);
    CAPTURE(frame_bytes);
    World::Options options;
    options.sender = {.frame_bytes_max = frame_bytes, .staging_buffers = 3, .inflight_bytes_max = 4096};
    options.receiver = {.frame_bytes_max = frame_bytes, .staging_buffers = 1};
    World world(options);
    const HandoffKey key = make_key(1);
    REQUIRE(world.open(key, 100));
    world.settle();
    world.grant(key, 100);
    world.ready_all(key, 100);
    world.pass(milliseconds(500), milliseconds(1));
    CHECK(world.count(S::completed, key) == 1);
    CHECK(world.received_kv(100) == world.sent_kv(100));
}

TEST_CASE("several hand-offs at once do not mix", "[kv_transfer]") {
    World world;
    const HandoffKey first = make_key(1);
    const HandoffKey second = make_key(2);
    REQUIRE(world.open(first, 30));
    std::swap(world.prefill_blocks[0], world.prefill_blocks[6]);
    std::swap(world.prefill_blocks[1], world.prefill_blocks[7]);
    REQUIRE(world.open(second, 32));
    world.settle();
    std::vector<base::BlockId> second_blocks = kv_test::block_table({5, 6});
    world.grant(first, 30);
    world.receiver->grant({.key = second,
                           .kv_tokens = 32,
                           .have_tokens = 0,
                           .blocks = second_blocks,
                           .lease = seconds(5),
                           .deadline = world.clock.now() + seconds(5)});
    world.ready_all(second, 32);
    world.ready_all(first, 30);
    world.settle();
    CHECK(world.count(R::completed, first) == 1);
    CHECK(world.count(R::completed, second) == 1);
    CHECK(kv_test::kv_of(world.decode_store, second_blocks, 0, 32) == world.sent_kv(32));
    std::swap(world.prefill_blocks[0], world.prefill_blocks[6]);
    std::swap(world.prefill_blocks[1], world.prefill_blocks[7]);
    CHECK(world.received_kv(30) == world.sent_kv(30));
}

TEST_CASE("opening has limits and clear errors", "[kv_transfer]") {
    World::Options options;
    options.sender.handoffs_max = 2;
    World world(options);
    CHECK(world.open(make_key(1), 0).error().code == ErrorCode::invalid_argument);
    CHECK(world.open(make_key(1), 16 * 8 + 1).error().code == ErrorCode::invalid_argument);
    REQUIRE(world.open(make_key(1), 16));
    CHECK(world.open(make_key(1), 16).error().code == ErrorCode::failed_precondition);
    REQUIRE(world.open(make_key(2), 16));
    CHECK(world.open(make_key(3), 16).error().code == ErrorCode::resource_exhausted);
    world.stop();
    CHECK(world.count(S::released, make_key(1)) == 1);
    CHECK(world.open(make_key(4), 16).error().code == ErrorCode::unavailable);
}

TEST_CASE("a receiver with too many hand-offs lets the others wait", "[kv_transfer]") {
    World::Options options;
    options.receiver.handoffs_max = 1;
    World world(options);
    REQUIRE(world.open(make_key(1), kTokens));
    REQUIRE(world.open(make_key(2), kTokens));
    world.settle();
    CHECK(world.received.size() == 1);
    CHECK(world.count(S::later, make_key(2)) == 1);
    world.grant(make_key(1), kTokens);
    world.ready_all(make_key(1), kTokens);
    world.pass(seconds(1), milliseconds(50));
    CHECK(world.count(R::room_requested, make_key(2)) == 1);
}

TEST_CASE("a hand-off is open until its released is dealt with, so that a bounded number of events waits",
          "[kv_transfer]") {
    World::Options options;
    options.sender.handoffs_max = 6;
    options.receiver.handoffs_max = 4;
    World world(options);
    world.events_wait = true;
    // The step threads hang while hand-offs come and go.
    for (std::uint64_t request = 1; request <= 40; ++request) {
        if (world.open(make_key(request), kTokens)) {
            world.settle();
            world.sender->abort(make_key(request), {ErrorCode::cancelled, "gone"});
        }
        world.settle();
    }
    CHECK(world.sender->handoffs_open() == 0);
    CHECK(world.receiver->handoffs_open() == 0);
    CHECK(world.sent.size() <= 6 * SenderEvent::kPerHandoff);
    CHECK(world.received.size() == 4 * (ReceiverEvent::kPerHandoff - 1));  // no front was offered
    CHECK(world.sent.size() + world.received.size() <= kv_transfer::events_max(options.sender, options.receiver));
    CHECK(world.open(make_key(50), kTokens).error().code == ErrorCode::resource_exhausted);
    world.sent.clear();
    world.received.clear();
    REQUIRE(world.open(make_key(51), kTokens));
    world.settle();
    CHECK(world.count(R::room_requested, make_key(51)) == 1);
    world.sent.clear();
    world.received.clear();
}

TEST_CASE("a damaged payload is sent again, and given up after the retries", "[kv_transfer]") {
    World::Options options;
    // Of a frame the corrupter hits the payload or the header: either way it must go again.
    options.prefill_faults =
        GENERATE(as<std::string>{}, "seed=1;corrupt:kind=3,nth=1", "seed=5;corrupt:kind=3,probability=1");
    CAPTURE(options.prefill_faults);
    const bool always = options.prefill_faults.find("probability") != std::string::npos;
    World world(options);
    const HandoffKey key = make_key(1);
    REQUIRE(world.open(key, kTokens));
    world.ready_all(key, kTokens);
    world.settle();
    world.grant(key, kTokens);
    world.pass(seconds(20), milliseconds(50));
    CHECK(world.count(S::completed, key) == (always ? 0u : 1u));
    CHECK(world.count(S::failed, key) == (always ? 1u : 0u));
    if (always) {
        CHECK(world.sender_error() == ErrorCode::data_loss);
        CHECK(world.metrics.text().find(
                  "sluice_kv_transfers_total{direction=\"receive\",outcome=\"checksum_mismatch\"") !=
              std::string::npos);
    } else {
        CHECK(world.received_kv(kTokens) == world.sent_kv(kTokens));
    }
    CHECK(world.count(S::released, key) == 1);
    CHECK(world.count(R::released, key) == 1);
}

TEST_CASE("lost acknowledgements, grants and requests are made good", "[kv_transfer]") {
    const auto [prefill_faults, decode_faults] =
        GENERATE(table<std::string, std::string>({{"drop:kind=1,nth=1", ""},
                                                  {"drop:kind=3,nth=1", ""},
                                                  {"", "drop:kind=2,nth=1"},
                                                  {"", "drop:kind=4,nth=1"},
                                                  {"duplicate:probability=1", "duplicate:probability=1"},
                                                  {"delay:probability=1,ms=300", "delay:probability=1,ms=300"}}));
    CAPTURE(prefill_faults, decode_faults);
    World::Options options;
    options.prefill_faults = prefill_faults;
    options.decode_faults = decode_faults;
    World world(options);
    const HandoffKey key = make_key(1);
    REQUIRE(world.open(key, kTokens));
    world.ready_all(key, kTokens);
    for (int i = 0; i < 200 && world.received.empty(); ++i) {
        world.pass(milliseconds(10));
    }
    REQUIRE(!world.received.empty());
    world.grant(key, kTokens);
    world.pass(seconds(10), milliseconds(10));
    CHECK(world.count(S::completed, key) == 1);
    CHECK(world.count(R::completed, key) == 1);
    CHECK(world.received_kv(kTokens) == world.sent_kv(kTokens));
}

TEST_CASE("stopping fails what is open on both sides", "[kv_transfer]") {
    World world;
    const HandoffKey key = make_key(1);
    REQUIRE(world.open(key, kTokens));
    world.settle();
    world.grant(key, kTokens);
    world.sender->stop();
    CHECK(world.count(S::failed, key) == 1);
    CHECK(world.count(S::released, key) == 1);
    world.receiver->stop();
    CHECK(world.count(R::failed, key) == 1);
    CHECK(world.count(R::released, key) == 1);
}
