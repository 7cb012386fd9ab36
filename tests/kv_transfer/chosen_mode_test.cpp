// Coded hand-offs as a whole: chunks at fixed places, modes that are agreed on and chosen frame by frame.
#include <random>

#include "kv_transfer/chunk_grid.h"
#include "kv_transfer/codec/codecs.h"
#include "tests/kv_transfer/chunk_test.h"
#include "tests/kv_transfer/test_codec.h"
#include "tests/kv_transfer/world.h"
// Last, see there.
#include "tests/support/catch.h"

using kv_cache::KvRange;
using kv_test::HandoffKey;
using kv_test::kTestCodecs;
using kv_test::make_key;
using kv_test::milliseconds;
using kv_test::ReceiverEvent;
using kv_test::seconds;
using kv_test::SenderEvent;
using kv_test::World;
using kv_transfer::ChunkGrid;
using kv_transfer::Codecs;

namespace {

constexpr std::uint32_t kTokens = 120;
using S = SenderEvent::Kind;
using R = ReceiverEvent::Kind;

World::Options options_with(const Codecs& prefill, const Codecs& decode) {
    World::Options options;
    options.sender.codecs = prefill;
    options.receiver.codecs = decode;
    return options;
}

/// The blocks of prefill hold normal values, which lossy codecs can make something of.
void fill_normal(World& world, unsigned seed) {
    std::mt19937 random{seed};
    std::normal_distribution<float> normal;
    const auto bytes = world.prefill_store.run({base::BlockId{0}, 16});
    std::vector<std::byte> values(bytes.size());
    for (std::size_t i = 0; i < values.size() / 2; ++i) {
        kv_test::put_value(values, true, i, normal(random));
    }
    std::copy(values.begin(), values.end(), bytes.begin());
}

struct Chosen {
    bool allow_lossy_prefill = true;
    bool allow_lossy_decode = true;
    std::optional<base::Duration> due_in = std::nullopt;
};

/// The whole hand-off with its modes chosen frame by frame; the completed event of decode.
ReceiverEvent hand_over(World& world, const Chosen& chosen, std::uint64_t request = 1) {
    const HandoffKey key = make_key(request);
    kv_transfer::OpenHandoff handoff;
    handoff.key = key;
    handoff.kv_address = world.decode_transport->address();
    handoff.kv_tokens = kTokens;
    handoff.blocks = world.prefill_blocks;
    handoff.deadline = world.clock.now() + seconds(60);
    handoff.choose_mode = true;
    handoff.allow_lossy = chosen.allow_lossy_prefill;
    if (chosen.due_in) { handoff.due = world.clock.now() + *chosen.due_in; }
    REQUIRE(world.sender->open(handoff));
    world.settle();
    world.allow_lossy = chosen.allow_lossy_decode;
    world.grant(key, kTokens);
    for (std::uint32_t token = 0; token < kTokens; token += 40) {
        world.ready_all(key, token + 40);
        world.pass(milliseconds(400));
    }
    world.pass(seconds(5));
    REQUIRE(world.count(R::completed, key) == 1);
    REQUIRE(world.count(S::completed, key) == 1);
    CHECK(world.sender->inflight_bytes() == 0);
    for (const ReceiverEvent& event : world.received) {
        if (event.kind == R::completed && event.key == key) { return event; }
    }
    return {};
}

constexpr const char* kSlow = "seed=1;delay:kind=3,ms=100,probability=1";

}  // namespace

TEST_CASE("chunks of a grid are the same whatever order their KV is computed in, and each comes once",
          "[kv_transfer][property]") {
    const auto seed = GENERATE(range(0u, 60u));
    CAPTURE(seed);
    std::mt19937 random{seed};
    const auto layout = kv_test::chunk_layout(1 + kv_test::below(random, 20), 1, 8, true);
    const std::uint32_t end = 1 + kv_test::below(random, 700);
    const std::uint32_t begin = kv_test::below(random, end / 16 + 1) * 16 % end;
    const std::size_t bytes_max = layout.wire_bytes({0, 1, 0, 1}) * (1 + kv_test::below(random, 3000));
    const KvRange whole{0, layout.layers(), begin, end};
    ChunkGrid at_once(layout, begin, end, bytes_max);
    std::deque<KvRange> expected;
    at_once.add(whole, expected);
    kv_transfer::Coverage all(layout.layers(), begin, end);
    std::uint64_t cells = 0;
    for (const KvRange& chunk : expected) {
        REQUIRE(layout.wire_bytes(chunk) <= bytes_max);
        cells += all.add(chunk);
    }
    REQUIRE(all.is_complete());
    REQUIRE(cells == std::uint64_t{whole.layers()} * whole.tokens());

    ChunkGrid piecewise(layout, begin, end, bytes_max);
    std::deque<KvRange> chunks;
    kv_transfer::Coverage computed(layout.layers(), begin, end);
    for (int step = 0; !computed.is_complete(); ++step) {
        KvRange piece = whole;
        if (step < 200) {
            piece.layer_begin = kv_test::below(random, layout.layers());
            piece.layer_end = piece.layer_begin + 1 + kv_test::below(random, layout.layers() - piece.layer_begin);
            piece.token_begin = begin + kv_test::below(random, end - begin);
            piece.token_end = piece.token_begin + 1 + kv_test::below(random, end - piece.token_begin);
        }
        computed.add(piece);
        const std::size_t before = chunks.size();
        piecewise.add(piece, chunks);
        for (std::size_t i = before; i < chunks.size(); ++i) {
            REQUIRE(computed.covers(chunks[i]));
        }
    }
    const auto is_before = [](const KvRange& a, const KvRange& b) {
        return std::tie(a.token_begin, a.layer_begin) < std::tie(b.token_begin, b.layer_begin);
    };
    std::sort(expected.begin(), expected.end(), is_before);
    std::sort(chunks.begin(), chunks.end(), is_before);
    REQUIRE(chunks == expected);
}

TEST_CASE("what a lossy codec makes of KV does not depend on when it was computed or granted", "[kv_transfer]") {
    const char* name = GENERATE("int8", "cachegen", "sluice");
    const auto codec = kv_transfer::make_codec(name, kv_test::kNumerics, nullptr, nullptr).value();
    const Codecs codecs({codec.get()});
    proto::KvMode mode;
    mode.set_codec(name);
    mode.set_level(name == std::string("int8") ? 0 : 2);
    mode.set_lossy(true);
    std::vector<std::byte> first;
    for (unsigned seed = 0; seed < 12; ++seed) {
        CAPTURE(name, seed);
        std::mt19937 random{seed};
        World world(options_with(codecs, codecs));
        fill_normal(world, 7);
        world.kv_mode = mode;
        world.allow_lossy = true;
        const HandoffKey key = make_key(1);
        REQUIRE(world.open(key, kTokens));
        world.settle();
        bool is_granted = false;
        for (std::uint32_t token = 0; token < kTokens;) {  // steps of any size, layers in any groups
            if (!is_granted && random() % 3 == 0) {
                world.grant(key, kTokens);
                is_granted = true;
            }
            const std::uint32_t end = std::min(kTokens, token + 1 + kv_test::below(random, 50));
            for (std::uint32_t layer = 0; layer < 4;) {
                const std::uint32_t layer_end = std::min(4u, layer + 1 + kv_test::below(random, 3));
                world.sender->ready(key, layer, layer_end, token, end);
                layer = layer_end;
                if (random() % 2 == 0) { world.settle(); }
            }
            token = end;
        }
        if (!is_granted) { world.grant(key, kTokens); }
        world.pass(seconds(1));
        REQUIRE(world.count(R::completed, key) == 1);
        CHECK(world.received[1].is_lossy);
        CHECK(world.received[1].mode.label() == std::string(name) + "/" + std::to_string(mode.level()));
        if (first.empty()) { first = world.received_kv(kTokens); }
        CHECK(world.received_kv(kTokens) == first);
        CHECK(world.received_kv(kTokens) != world.sent_kv(kTokens));
    }
}

TEST_CASE("where modes are chosen nothing is lost that both sides do not allow", "[kv_transfer]") {
    World::Options options = options_with(kTestCodecs, kTestCodecs);
    options.prefill_faults = kSlow;
    World world(options);
    const bool prefill_allows = GENERATE(true, false);
    const bool decode_allows = GENERATE(true, false);
    CAPTURE(prefill_allows, decode_allows);
    // Late from the beginning: loss is what would be quickest.
    const ReceiverEvent event = hand_over(world, {prefill_allows, decode_allows, milliseconds(1)});
    CHECK(event.is_lossy == (prefill_allows && decode_allows));
    if (event.is_lossy) {
        CHECK(event.mode.label() == "test/1");
    } else {
        CHECK(world.received_kv(kTokens) == world.sent_kv(kTokens));
        CHECK((event.mode.label() == "raw" || event.mode.label() == "test"));
    }
}

TEST_CASE("where modes are chosen a hand-off that has time loses nothing", "[kv_transfer]") {
    World::Options options = options_with(kTestCodecs, kTestCodecs);
    options.prefill_faults = kSlow;
    World world(options);
    const ReceiverEvent event = hand_over(world, {true, true, seconds(600)});
    CHECK_FALSE(event.is_lossy);
    CHECK(world.received_kv(kTokens) == world.sent_kv(kTokens));
}

TEST_CASE("modes are chosen among what both sides have, else all goes raw", "[kv_transfer]") {
    static const auto exact = kv_transfer::make_exact_codec(kv_test::kNumerics);  // the table below outlives a run
    const Codecs only_exact({exact.get()});
    const Codecs both({exact.get(), &kv_test::kTestCodec});
    const Codecs none;
    const auto [prefill, decode, label] = GENERATE_COPY(table<Codecs, Codecs, std::string>(
        {{both, none, "raw"}, {none, both, "raw"}, {both, only_exact, "exact"}, {only_exact, both, "exact"}}));
    World::Options options = options_with(prefill, decode);
    options.prefill_faults = kSlow;
    World world(options);
    fill_normal(world, 3);
    const ReceiverEvent event = hand_over(world, {true, true, milliseconds(1)});
    CHECK(event.mode.label() == label);
    CHECK(world.received_kv(kTokens) == world.sent_kv(kTokens));
}

TEST_CASE("decode hears what the wire is expected to take for all of it, where nothing is lost", "[kv_transfer]") {
    const auto exact = kv_transfer::make_exact_codec(kv_test::kNumerics);
    const Codecs codecs({exact.get(), &kv_test::kTestCodec});
    World::Options options = options_with(codecs, codecs);
    options.prefill_faults = kSlow;
    World world(options);
    fill_normal(world, 3);
    const auto told = [&](std::uint64_t request) {
        for (const ReceiverEvent& event : world.received) {
            if (event.kind == R::room_requested && event.key == make_key(request)) { return event.sending; }
        }
        return base::Duration(-1);
    };
    hand_over(world, {.allow_lossy_prefill = false}, 1);
    CHECK(told(1) == base::Duration::zero());  // nothing is known of it yet
    hand_over(world, {.allow_lossy_prefill = false}, 2);
    CHECK(told(2) > milliseconds(10));  // a frame is on its way for 100 ms
    CHECK(told(2) < seconds(5));
    hand_over(world, {.allow_lossy_prefill = true}, 3);
    CHECK(told(3) == base::Duration::zero());
}

TEST_CASE("of several modes a hand-off is named by the lossiest", "[kv_transfer]") {
    const auto cachegen = kv_transfer::make_cachegen_codec();
    const auto exact = kv_transfer::make_exact_codec();
    using kv_transfer::KvMode;
    const KvMode raw;
    const KvMode lossless{exact.get(), 0};
    CHECK(kv_transfer::lossier(raw, lossless) == lossless);
    CHECK(kv_transfer::lossier(lossless, raw) == lossless);
    CHECK(kv_transfer::lossier(lossless, KvMode{cachegen.get(), 3}).label() == "cachegen/3");
    CHECK(kv_transfer::lossier(KvMode{cachegen.get(), 1}, KvMode{cachegen.get(), 3}).label() == "cachegen/1");
    CHECK(raw.label() == "raw");
    CHECK(lossless.label() == "exact");
    std::string names;
    for (const KvMode& mode : Codecs({exact.get(), cachegen.get()}).modes()) {
        names += mode.label() + " ";
    }
    CHECK(names == "exact cachegen/3 cachegen/6 cachegen/5 cachegen/4 cachegen/2 cachegen/1 ");
}

TEST_CASE("of hand-offs that share a wire the one that is due first goes first", "[kv_transfer]") {
    World::Options options;
    options.sender.frame_bytes_max = 4096;
    options.sender.inflight_bytes_max = 4096;  // one frame at a time
    options.prefill_faults = "seed=1;delay:kind=3,ms=10,probability=1";
    World world(options);
    const auto open = [&](std::uint64_t request, std::optional<base::Duration> due_in) {
        kv_transfer::OpenHandoff handoff;
        handoff.key = make_key(request);
        handoff.kv_address = world.decode_transport->address();
        handoff.kv_tokens = kTokens;
        handoff.blocks = world.prefill_blocks;
        handoff.deadline = world.clock.now() + seconds(60);
        if (due_in) { handoff.due = world.clock.now() + *due_in; }
        REQUIRE(world.sender->open(handoff));
        world.settle();
        world.grant(make_key(request), kTokens);  // into the same blocks: what they hold does not matter here
        world.ready_all(make_key(request), kTokens);
        world.settle();
    };
    open(1, std::nullopt);
    open(2, seconds(5));
    open(3, seconds(1));
    open(4, seconds(60));
    open(5, seconds(1));
    world.pass(seconds(3));
    std::vector<std::uint64_t> order;
    for (const ReceiverEvent& event : world.received) {
        if (event.kind == R::completed) { order.push_back(base::raw(event.key.request)); }
    }
    CHECK(order == std::vector<std::uint64_t>{3, 5, 2, 1, 4});
}

TEST_CASE("a cancelled hand-off leaves a slow wire to others at once, coded or not", "[kv_transfer]") {
    const bool is_coded = GENERATE(true, false);
    CAPTURE(is_coded);
    World::Options options = is_coded ? options_with(kTestCodecs, kTestCodecs) : World::Options{};
    options.sender.frame_bytes_max = 2048;  // sixty frames
    options.prefill_faults = "seed=1;delay:kind=3,ms=1000,probability=1";
    World world(options);
    const auto begin = [&](std::uint64_t request) {
        kv_transfer::OpenHandoff handoff;
        handoff.key = make_key(request);
        handoff.kv_address = world.decode_transport->address();
        handoff.kv_tokens = kTokens;
        handoff.blocks = world.prefill_blocks;
        handoff.deadline = world.clock.now() + seconds(60);
        handoff.choose_mode = is_coded;
        REQUIRE(world.sender->open(handoff));
        world.settle();
        world.grant(make_key(request), kTokens);
        world.ready_all(make_key(request), kTokens);
        world.settle();
    };
    if (!is_coded) {  // which goes as it is over a wire that nobody knows
        begin(3);
        world.pass(seconds(20));
        REQUIRE(world.count(S::completed, make_key(3)) == 1);
    }
    begin(1);
    world.pass(seconds(3));  // the wire is known by now: 2 KiB a second
    const std::size_t under_way = world.sender->inflight_bytes();
    CHECK(under_way > 0);
    CHECK(under_way <= 2 * 2048);  // nothing is packed that would only wait
    world.sender->abort(make_key(1), {base::ErrorCode::cancelled, "the client is gone"});
    world.settle();
    CHECK(world.sender->inflight_bytes() == 0);
    REQUIRE(world.count(S::released, make_key(1)) == 1);
    begin(2);
    CHECK(world.sender->inflight_bytes() > 0);
}
