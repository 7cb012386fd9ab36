// What a hand-off asks of the wire: few messages, and memory that is used again (what is registered with a network card
// is registered once).
#include <set>

#include "tests/kv_transfer/test_codec.h"
#include "tests/kv_transfer/world.h"
// Last, see there.
#include "tests/support/catch.h"

using kv_test::make_key;
using kv_test::milliseconds;
using kv_test::ReceiverEvent;
using kv_test::seconds;
using kv_test::World;

namespace {

constexpr std::uint32_t kTokens = 40;  // blocks 3, 4 and half of 5

}  // namespace

TEST_CASE("layers that got ready before the grant go in one frame, whatever blocks they lie in", "[kv_transfer]") {
    const bool fits = GENERATE(true, false);
    CAPTURE(fits);
    World::Options options;
    const std::size_t layer_bytes = std::size_t{64} * kTokens;
    if (!fits) { options.sender.frame_bytes_max = 2 * layer_bytes; }
    World world(options);
    const auto key = make_key(1);
    REQUIRE(world.open(key, kTokens));
    world.settle();
    for (std::uint32_t layer = 0; layer < 4; ++layer) {
        world.sender->ready(key, layer, layer + 1, 0, kTokens);
        world.settle();
    }
    REQUIRE(world.prefill_transport->payloads.empty());
    world.grant(key, kTokens);
    world.settle();
    REQUIRE(world.count(ReceiverEvent::Kind::completed, key) == 1);
    REQUIRE(world.received_kv(kTokens) == world.sent_kv(kTokens));
    std::vector<std::size_t> sizes;
    for (const auto& payload : world.prefill_transport->payloads) {
        sizes.push_back(payload.size());
    }
    CHECK(sizes == (fits ? std::vector{4 * layer_bytes} : std::vector{2 * layer_bytes, 2 * layer_bytes}));
}

TEST_CASE("frames lie in a few buffers that are used again and again, coded or not", "[kv_transfer]") {
    const bool is_coded = GENERATE(false, true);
    CAPTURE(is_coded);
    World::Options options;
    options.sender.frame_bytes_max = 1024;
    options.sender.staging_buffers = 3;
    if (is_coded) { options.sender.codecs = options.receiver.codecs = kv_test::kTestCodecs; }
    World world(options);
    if (is_coded) {
        world.kv_mode.set_codec("test");
        world.kv_mode.set_level(1);
        world.kv_mode.set_lossy(true);
        world.allow_lossy = true;
    }
    for (std::uint64_t request = 1; request <= 5; ++request) {
        const auto key = make_key(request);
        REQUIRE(world.open(key, kTokens));
        world.settle();
        world.grant(key, kTokens);
        world.ready_all(key, kTokens);
        world.pass(milliseconds(500));
        REQUIRE(world.count(ReceiverEvent::Kind::completed, key) == 1);
    }
    std::set<const std::byte*> places;
    for (const auto& payload : world.prefill_transport->payloads) {
        places.insert(payload.data());
    }
    CHECK(world.prefill_transport->payloads.size() >= 50);
    CHECK(places.size() <= options.sender.staging_buffers + (is_coded ? 1u : 0u));  // and the coder's own
}
