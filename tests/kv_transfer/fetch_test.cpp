// A hand-off that decode begins: it asks another worker for blocks by their hashes.
#include <algorithm>

#include "tests/kv_transfer/test_codec.h"
#include "tests/kv_transfer/world.h"
#include "tests/support/seeds.h"
// Last, see there.
#include "tests/support/catch.h"

using base::ErrorCode;
using kv_test::HandoffKey;
using kv_test::make_fetch_key;
using kv_test::make_key;
using kv_test::milliseconds;
using kv_test::ReceiverEvent;
using kv_test::seconds;
using kv_test::SenderEvent;
using kv_test::World;
using S = SenderEvent::Kind;
using R = ReceiverEvent::Kind;

namespace {

template <class Event>
std::vector<typename Event::Kind> kinds(const std::vector<Event>& events) {
    std::vector<typename Event::Kind> all;
    for (const Event& event : events) {
        all.push_back(event.kind);
    }
    return all;
}

/// The fetch has failed on decode for this reason, and nothing of it is left on either side.
void check_failed(World& world, ErrorCode code) {
    REQUIRE(kinds(world.received) == std::vector{R::failed, R::released});
    CHECK(world.received[0].error->code == code);
    CHECK(world.receiver->handoffs_open() == 0);
    CHECK(world.sender->handoffs_open() == 0);
}

}  // namespace

TEST_CASE("blocks are asked for by hash and arrive bit for bit in the blocks that wait for them", "[kv_transfer]") {
    World world;
    const HandoffKey key = make_fetch_key(1);
    const auto behind = world.received_kv(48, 32);
    REQUIRE(world.fetch(key, 2));
    world.settle();
    REQUIRE(kinds(world.sent) == std::vector{S::fetch_requested});
    CHECK(world.sent[0].key == key);
    CHECK(world.sent[0].hashes == kv_test::make_hashes(2));
    CHECK(world.received.empty());
    REQUIRE(world.lend(32));
    world.settle();
    CHECK(kinds(world.sent) == std::vector{S::fetch_requested, S::granted, S::completed, S::released});
    REQUIRE(kinds(world.received) == std::vector{R::completed, R::released});
    CHECK(world.received[0].kv_tokens == 32);
    CHECK_FALSE(world.received[0].is_lossy);
    CHECK(world.received_kv(32) == world.sent_kv(32));
    CHECK(world.received_kv(48, 32) == behind);
    CHECK(world.receiver->staging_buffers_free() == 8);
}

TEST_CASE("who has only the first blocks lends those, and the others stay as they are", "[kv_transfer]") {
    World world;
    const auto behind = world.received_kv(64, 16);
    REQUIRE(world.fetch(make_fetch_key(1), 4));
    world.settle();
    REQUIRE(world.lend(16));
    world.settle();
    REQUIRE(kinds(world.received) == std::vector{R::completed, R::released});
    CHECK(world.received[0].kv_tokens == 16);
    CHECK(world.received_kv(16) == world.sent_kv(16));
    CHECK(world.received_kv(64, 16) == behind);
}

TEST_CASE("who has nothing of it says so at once", "[kv_transfer]") {
    World world;
    REQUIRE(world.fetch(make_fetch_key(1), 2));
    world.settle();
    world.sender->refuse_fetch(world.sent[0].key, {ErrorCode::not_found, "not here"}, std::move(world.sent[0].slot));
    world.settle();
    check_failed(world, ErrorCode::not_found);
    CHECK(kinds(world.sent) == std::vector{S::fetch_requested});
}

TEST_CASE("a fetch from a worker with other numerics, another model or life, or without fetches is refused at once",
          "[kv_transfer]") {
    World::Options options;
    ErrorCode expected = ErrorCode::failed_precondition;
    HandoffKey key = make_fetch_key(1);
    SECTION("numerics") {
        options.prefill.numerics_id = kv_test::kNumerics + 1;
    }
    SECTION("model") {
        options.prefill.model = "another";
    }
    SECTION("life") {
        key.prefill = base::Incarnation{12};
    }
    SECTION("off") {
        options.sender.fetches_max = 0;
        expected = ErrorCode::resource_exhausted;
    }
    World world(options);
    REQUIRE(world.fetch(key, 2));
    world.settle();
    check_failed(world, expected);
    CHECK(world.sent.empty());
}

TEST_CASE("a worker of protocol 1.1, which knows no fetches, counts as not having the blocks", "[kv_transfer]") {
    /// Refuses the kinds that came later, as its router did.
    struct OldWorker final : net::Handler {
        base::Result<net::Target> on_header(net::PeerId, net::MessageKind kind, std::span<const std::byte>,
                                            std::size_t) override {
            ++asked;
            return base::fail(ErrorCode::unimplemented, "no part for kind " + std::to_string(net::raw(kind)));
        }
        void on_payload(net::ReceiveToken, base::Result<void>) override {}
        void on_peer_lost(net::PeerId, const base::Error&) override {}
        int asked = 0;
    };
    World world;
    OldWorker old;
    const auto transport = *world.network->add("old", {.own_thread = false}, world.clock);
    REQUIRE(transport->start(old));
    const auto hashes = kv_test::make_hashes(2);
    REQUIRE(world.receiver->fetch({.key = make_fetch_key(1),
                                   .kv_address = transport->address(),
                                   .hashes = hashes,
                                   .blocks = std::span(world.decode_blocks).first(2),
                                   .answer_timeout = kv_test::kAnswerTimeout,
                                   .lease = seconds(2),
                                   .deadline = world.clock.now() + seconds(30)}));
    for (int step = 0; step < 150 && world.received.empty(); ++step) {
        world.settle();
        while (transport->tick()) {}
        world.clock.advance(milliseconds(5));
    }
    check_failed(world, ErrorCode::unavailable);
    CHECK(old.asked > 1);
    transport->stop();
}

TEST_CASE("workers of other minor versions fetch from one another", "[kv_transfer]") {
    World world({.prefill_speaks = {.minor = proto::kProtocolMinor + 1}});
    REQUIRE(world.fetch(make_fetch_key(1), 2));
    world.settle();
    REQUIRE(world.lend(32));
    world.settle();
    REQUIRE(kinds(world.received) == std::vector{R::completed, R::released});
    CHECK(world.received_kv(32) == world.sent_kv(32));
}

TEST_CASE("a lender that offers what was not asked for is not believed", "[kv_transfer]") {
    const std::uint32_t offered = GENERATE(15u, 33u, 48u);
    World world;
    const auto before = world.received_kv(64);
    REQUIRE(world.fetch(make_fetch_key(1), 2));
    world.settle();
    REQUIRE(world.lend(offered));
    world.settle();
    check_failed(world, ErrorCode::internal);
    CHECK(world.received_kv(64) == before);
    CHECK(kinds(world.sent) == std::vector{S::fetch_requested, S::failed, S::released});
}

TEST_CASE("KV of a fetch never comes with loss: a lossy mode is answered by raw, an exact codec is taken",
          "[kv_transfer]") {
    const auto level = GENERATE(0u, 1u);
    World::Options options;
    options.sender.codecs = options.receiver.codecs = kv_test::kTestCodecs;
    World world(options);
    world.allow_lossy = true;
    REQUIRE(kv_test::test_mode(level).lossy() == (level == 1));
    for (std::uint32_t block = 0; block < 16; ++block) {  // what the codec makes short
        const auto bytes = world.prefill_store.run({base::BlockId{block}, 1});
        std::fill(bytes.begin(), bytes.end(), std::byte{0x3c});
    }
    REQUIRE(world.fetch(make_fetch_key(1), 2));
    world.settle();
    REQUIRE(world.lend(32, kv_test::test_mode(level)));
    world.settle();
    REQUIRE(kinds(world.received) == std::vector{R::completed, R::released});
    CHECK_FALSE(world.received[0].is_lossy);
    CHECK(world.received_kv(32) == world.sent_kv(32));
    const auto raw_bytes = world.prefill_layout.bytes_per_token() * 32;
    CHECK((world.received[0].payload_bytes < raw_bytes) == (level == 0));
}

TEST_CASE("a fetch that is lost on its way is repeated, and asked for once", "[kv_transfer]") {
    World world({.decode_faults = "drop:kind=7,nth=1"});
    REQUIRE(world.fetch(make_fetch_key(1), 2));
    world.settle();
    REQUIRE(world.sent.empty());
    world.pass(milliseconds(350));
    REQUIRE(kinds(world.sent) == std::vector{S::fetch_requested});
    REQUIRE(world.lend(32));
    world.settle();
    CHECK(world.received_kv(32) == world.sent_kv(32));
    CHECK(kinds(world.received) == std::vector{R::completed, R::released});
    CHECK(kinds(world.sent) == std::vector{S::fetch_requested, S::granted, S::completed, S::released});
}

TEST_CASE("a lender that goes silent, before its answer or after, or is too slow ends the fetch by a timer",
          "[kv_transfer]") {
    World world;
    const HandoffKey key = make_fetch_key(1);
    SECTION("no answer") {
        REQUIRE(world.fetch(key, 2));
        world.pass(kv_test::kAnswerTimeout);
        REQUIRE(kinds(world.received) == std::vector{R::failed, R::released});
        CHECK(world.received[0].error->code == ErrorCode::unavailable);
        // The step thread of the lender answers too late: it hears that at once.
        REQUIRE(world.lend(32));
        world.settle();
        CHECK(kinds(world.sent) == std::vector{S::fetch_requested, S::failed, S::released});
        CHECK(world.sent[1].error->code == ErrorCode::cancelled);
    }
    SECTION("silent after the grant") {
        REQUIRE(world.fetch(key, 2));
        world.settle();
        auto& asked = world.sent.back();
        REQUIRE(world.sender->open({.key = key,
                                    .kv_address = {},
                                    .kv_tokens = 32,
                                    .blocks = world.prefill_blocks,
                                    .deadline = asked.deadline,
                                    .fetch_slot = std::move(asked.slot)}));
        world.settle();
        REQUIRE(world.count(S::granted, key) == 1);
        for (int step = 0; step < 500 && world.received.empty(); ++step) {
            world.clock.advance(milliseconds(5));
            while (world.tick_decode()) {}
        }
        world.settle();
        check_failed(world, ErrorCode::deadline_exceeded);
    }
    SECTION("deadline") {
        REQUIRE(world.fetch(key, 2, milliseconds(300)));
        world.settle();
        auto& asked = world.sent.back();
        CHECK(asked.deadline == world.clock.now() + milliseconds(300));
        REQUIRE(world.sender->open({.key = key,
                                    .kv_address = {},
                                    .kv_tokens = 32,
                                    .blocks = world.prefill_blocks,
                                    .deadline = world.clock.now() + seconds(60),
                                    .fetch_slot = std::move(asked.slot)}));
        world.pass(milliseconds(300));
        REQUIRE(kinds(world.received) == std::vector{R::failed, R::released});
        CHECK(world.received[0].error->code == ErrorCode::deadline_exceeded);
        CHECK(world.count(S::failed, key) == 1);
    }
    CHECK(world.receiver->handoffs_open() == 0);
}

TEST_CASE("the worker that fetches takes it back: the lender lets go", "[kv_transfer]") {
    World world;
    const HandoffKey key = make_fetch_key(1);
    const bool has_lent = GENERATE(false, true);
    REQUIRE(world.fetch(key, 2));
    world.settle();
    if (has_lent) {
        auto& asked = world.sent.back();
        REQUIRE(world.sender->open({.key = key,
                                    .kv_address = {},
                                    .kv_tokens = 32,
                                    .blocks = world.prefill_blocks,
                                    .deadline = asked.deadline,
                                    .fetch_slot = std::move(asked.slot)}));
        world.settle();
    }
    world.receiver->abort(key, {ErrorCode::cancelled, "client_gone"});
    world.settle();
    CHECK(kinds(world.received) == std::vector{R::failed, R::released});
    if (has_lent) {
        CHECK(world.count(S::failed, key) == 1);
        CHECK(world.count(S::released, key) == 1);
    } else {
        world.sender->refuse_fetch(key, {ErrorCode::not_found, ""}, std::move(world.sent[0].slot));
        world.settle();
        CHECK(kinds(world.sent) == std::vector{S::fetch_requested});
    }
    CHECK(world.sender->handoffs_open() == 0);
}

TEST_CASE("fetches under way are bounded on either side, and leave hand-offs their room", "[kv_transfer]") {
    World::Options options;
    const bool at_sender = GENERATE(false, true);
    (at_sender ? options.sender.fetches_max : options.receiver.fetches_max) = 2;
    World world(options);
    world.events_wait = true;
    REQUIRE(world.fetch(make_fetch_key(1, 1), 1));
    REQUIRE(world.fetch(make_fetch_key(1, 2), 1));
    const auto third = world.fetch(make_fetch_key(1, 3), 1);
    world.settle();
    CHECK(world.sent.size() == 2);
    if (at_sender) {
        REQUIRE(kinds(world.received) == std::vector{R::failed, R::released});
        CHECK(world.received[0].key == make_fetch_key(1, 3));
        CHECK(world.received[0].error->code == ErrorCode::resource_exhausted);
    } else {
        REQUIRE_FALSE(third);
        CHECK(third.error().code == ErrorCode::resource_exhausted);
    }
    REQUIRE(world.open(make_key(9), 40));
    world.settle();
    CHECK(world.count(R::room_requested, make_key(9)) == 1);
    // One ends, and its last event is dealt with: there is room for the next one.
    REQUIRE(world.lend(16));
    world.settle();
    world.sent.clear();
    world.received.clear();
    REQUIRE(world.fetch(make_fetch_key(1, 4), 1));
    world.settle();
    CHECK(world.count(S::fetch_requested, make_fetch_key(1, 4)) == 1);
}

TEST_CASE("whoever fetches and gives up without end fills neither the lender's events nor its memory",
          "[kv_transfer]") {
    World::Options options;
    options.sender.fetches_max = 4;
    World world(options);
    world.events_wait = true;  // the lender's step thread does nothing
    for (std::uint32_t run = 1; run <= 100; ++run) {
        REQUIRE(world.fetch(make_fetch_key(1, run), 1));
        world.settle();
        world.receiver->abort(make_fetch_key(1, run), {ErrorCode::cancelled, "client_gone"});
        world.settle();
        world.received.clear();
    }
    CHECK(world.sent.size() == 4);
    for (SenderEvent& asked : world.sent) {
        world.sender->refuse_fetch(asked.key, {ErrorCode::not_found, ""}, std::move(asked.slot));
    }
    world.sent.clear();
    world.settle();
    REQUIRE(world.fetch(make_fetch_key(2), 1));
    world.settle();
    CHECK(world.count(S::fetch_requested, make_fetch_key(2)) == 1);
}

TEST_CASE("a fetch and hand-offs of the same request do not end one another", "[kv_transfer]") {
    World world;
    const HandoffKey pushed = make_key(1, 3);
    HandoffKey fetched = pushed;
    fetched.run = 1;
    REQUIRE(world.fetch(fetched, 1));
    world.settle();
    REQUIRE(world.open(pushed, 32));
    world.settle();
    REQUIRE(world.count(R::room_requested, pushed) == 1);
    CHECK(world.count(R::failed, fetched) == 0);
    // And one that nobody asked for is not taken.
    HandoffKey unasked = pushed;
    unasked.run = 2;
    const auto events = world.received.size();
    proto::RoomRequest request;
    kv_transfer::set_header(*request.mutable_header(), kv_test::kPrefill);
    kv_transfer::set_key(*request.mutable_handoff(), unasked, kv_test::kPrefill);
    request.set_kv_tokens(16);
    request.set_deadline_in_us(1'000'000);
    const std::string header = kv_transfer::seal(kv_transfer::kRoomRequest, request);
    REQUIRE(world.receiver->on_header(net::PeerId{1}, kv_transfer::kRoomRequest, std::as_bytes(std::span(header)), 0));
    world.settle();
    CHECK(world.received.size() == events);
}

TEST_CASE("the longest fetch fits a header beside the longest model name", "[kv_transfer]") {
    proto::KvFetch fetch;
    kv_transfer::Identity identity{std::string(256, 'm'), ~0ull, base::Incarnation{~0ull}};
    kv_transfer::set_header(*fetch.mutable_header(), identity);
    kv_transfer::set_key(
        *fetch.mutable_handoff(),
        {base::RequestId{~0ull}, base::Epoch{~0u}, base::Incarnation{~0ull}, base::Incarnation{~0ull}, ~0u}, identity);
    fetch.set_block_hashes(std::string(16 * kv_transfer::kFetchBlocksMax, 'h'));
    fetch.set_deadline_in_us(-1);
    CHECK(kv_transfer::seal(kv_transfer::kFetch, fetch).size() <= kv_transfer::kHeaderBytesMax);
}

TEST_CASE("a fetch that is malformed is answered, and asks nobody", "[kv_transfer]") {
    World world;
    proto::KvFetch fetch;
    kv_transfer::set_header(*fetch.mutable_header(), kv_test::kDecode);
    kv_transfer::set_key(*fetch.mutable_handoff(), make_fetch_key(1), kv_test::kDecode);
    fetch.set_deadline_in_us(1'000'000);
    fetch.set_block_hashes(std::string(16, 'h'));
    SECTION("no blocks") {
        fetch.clear_block_hashes();
    }
    SECTION("too many") {
        fetch.set_block_hashes(std::string(16 * (kv_transfer::kFetchBlocksMax + 1), 'h'));
    }
    SECTION("half a hash") {
        fetch.set_block_hashes(std::string(24, 'h'));
    }
    SECTION("no run") {
        HandoffKey key = make_fetch_key(1);
        key.run = 0;
        kv_transfer::set_key(*fetch.mutable_handoff(), key, kv_test::kDecode);
    }
    const std::string header = kv_transfer::seal(kv_transfer::kFetch, fetch);
    const auto answer =
        world.sender->on_header(net::PeerId{1}, kv_transfer::kFetch, std::as_bytes(std::span(header)), 0);
    REQUIRE_FALSE(answer);
    CHECK(answer.error().code == ErrorCode::invalid_argument);
    world.settle();
    CHECK(world.sent.empty());
}

TEST_CASE("both sides stop in the middle of fetches: each is told, and nothing is left", "[kv_transfer]") {
    World world;
    REQUIRE(world.fetch(make_fetch_key(1), 2));
    world.settle();
    const bool lender_stops = GENERATE(true, false);
    if (lender_stops) {
        world.sender->stop();
        world.settle();
        check_failed(world, ErrorCode::unavailable);
        CHECK_FALSE(world.lend(32));
    } else {
        world.receiver->stop();
        check_failed(world, ErrorCode::unavailable);
        CHECK_FALSE(world.fetch(make_fetch_key(2), 1));
    }
}
