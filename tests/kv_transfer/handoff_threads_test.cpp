#include <condition_variable>
#include <mutex>
#include <set>
#include <thread>

#include "tests/kv_transfer/random.h"
#include "tests/kv_transfer/world.h"
// Last, see there.
#include "tests/support/catch.h"

using kv_test::HandoffKey;
using kv_test::make_key;
using kv_test::ReceiverEvent;
using kv_test::seconds;
using kv_test::SenderEvent;

namespace {

const base::SystemClock kClock;

/// Events of one side, for the thread that plays its step thread.
template <class Event>
class Inbox {
public:
    void push(Event event) {
        {
            const std::scoped_lock lock(mutex_);
            events_.push_back(std::move(event));
        }
        changed_.notify_all();
    }
    /// Empty when nothing came within a minute: something hangs.
    std::vector<Event> take() {
        std::unique_lock lock(mutex_);
        changed_.wait_for(lock, seconds(60), [this] { return !events_.empty(); });
        return std::exchange(events_, {});
    }

private:
    std::mutex mutex_;
    std::condition_variable changed_;
    std::vector<Event> events_;
};

}  // namespace

TEST_CASE("many hand-offs with every part on its own thread arrive whole", "[kv_transfer]") {
    const std::string faults =
        GENERATE(as<std::string>{}, "", "seed=3;delay:ms=3,probability=0.1;duplicate:probability=0.1",
                 "seed=4;reorder:ms=5,probability=0.2;corrupt:kind=3,probability=0.05");
    CAPTURE(faults);
    constexpr std::uint32_t kHandoffs = 40;
    constexpr std::uint32_t kTokens = 40;
    constexpr std::uint32_t kBlocks = 3;
    const auto layout = kv_test::make_layout();
    auto prefill_store = kv_test::make_store(layout, kHandoffs * kBlocks, 1);
    auto decode_store = kv_test::make_store(layout, kHandoffs * kBlocks, 2);
    const auto blocks_of = [](std::uint32_t handoff) {
        return kv_test::block_table({handoff * kBlocks, handoff * kBlocks + 1, handoff * kBlocks + 2});
    };
    const auto network = net::InProcessNetwork::make();
    auto prefill_transport =
        net::make_fault_transport(*network->add("prefill", {}, kClock), *net::parse_fault_plan(faults), kClock);
    auto decode_transport =
        net::make_fault_transport(*network->add("decode", {}, kClock), *net::parse_fault_plan(faults), kClock);
    Inbox<SenderEvent> at_prefill;
    Inbox<ReceiverEvent> at_decode;
    kv_transfer::KvSender::Options sender_options;
    sender_options.frame_bytes_max = 4096;
    sender_options.staging_buffers = 4;
    sender_options.inflight_bytes_max = 16384;
    sender_options.ack_timeout = std::chrono::milliseconds(200);
    sender_options.frame_retries = 50;
    kv_transfer::KvSender sender(sender_options, kv_test::kPrefill, layout, prefill_store, *prefill_transport, kClock,
                                 nullptr, [&](SenderEvent event) { at_prefill.push(std::move(event)); });
    kv_transfer::KvReceiver receiver({.frame_bytes_max = 4096, .staging_buffers = 3}, kv_test::kDecode, layout,
                                     decode_store, *decode_transport, kClock, nullptr,
                                     [&](ReceiverEvent event) { at_decode.push(std::move(event)); });
    kv_transfer::KvRouter prefill_router(&sender, nullptr);
    kv_transfer::KvRouter decode_router(nullptr, &receiver);
    REQUIRE(prefill_transport->start(prefill_router));
    REQUIRE(decode_transport->start(decode_router));

    // The decode worker's step thread.
    std::set<HandoffKey> received;
    int decode_failures = 0;
    std::jthread decode_step([&] {
        for (std::uint32_t ended = 0; ended < kHandoffs;) {
            const auto events = at_decode.take();
            if (events.empty()) { return; }
            for (const ReceiverEvent& event : events) {
                const auto handoff = static_cast<std::uint32_t>(base::raw(event.key.request));
                if (event.kind == ReceiverEvent::Kind::room_requested) {
                    if (handoff % 4 == 1) { receiver.later(event.key); }
                    const auto blocks = blocks_of(handoff);
                    receiver.grant({.key = event.key,
                                    .kv_tokens = kTokens,
                                    .have_tokens = handoff % 3 == 0 ? 16u : 0u,
                                    .blocks = blocks,
                                    .lease = seconds(30),
                                    .deadline = kClock.now() + seconds(60)});
                }
                if (event.kind == ReceiverEvent::Kind::completed) { received.insert(event.key); }
                if (event.kind == ReceiverEvent::Kind::failed) { ++decode_failures; }
                if (event.kind == ReceiverEvent::Kind::released) { ++ended; }
            }
        }
    });
    // The prefill worker's compute thread, beside its step thread.
    std::jthread compute([&] {
        kv_test::Random random{9};
        for (std::uint32_t handoff = 0; handoff < kHandoffs; ++handoff) {
            const auto blocks = blocks_of(handoff);
            const auto opened = sender.open({.key = make_key(handoff),
                                             .kv_address = "decode",
                                             .kv_tokens = kTokens,
                                             .blocks = blocks,
                                             .deadline = kClock.now() + seconds(60)});
            if (!opened) { return; }
            for (std::uint32_t layer = 0; layer < 4; ++layer) {
                const std::uint32_t cut = 1 + random() % (kTokens - 1);
                sender.ready(make_key(handoff), layer, layer + 1, 0, cut);
                sender.ready(make_key(handoff), layer, layer + 1, cut, kTokens);
            }
        }
    });
    std::uint32_t completed = 0;
    std::uint32_t released = 0;
    while (released < kHandoffs) {
        const auto events = at_prefill.take();
        REQUIRE(!events.empty());
        for (const SenderEvent& event : events) {
            completed += event.kind == SenderEvent::Kind::completed ? 1 : 0;
            released += event.kind == SenderEvent::Kind::released ? 1 : 0;
            if (event.error) { UNSCOPED_INFO(event.error->message); }
        }
    }
    compute.join();
    decode_step.join();
    sender.stop();
    receiver.stop();
    prefill_transport->stop();
    decode_transport->stop();
    CHECK(completed == kHandoffs);
    CHECK(received.size() == kHandoffs);
    CHECK(decode_failures == 0);
    for (std::uint32_t handoff = 0; handoff < kHandoffs; ++handoff) {
        const std::uint32_t begin = handoff % 3 == 0 ? 16 : 0;
        CHECK(kv_test::kv_of(decode_store, blocks_of(handoff), begin, kTokens) ==
              kv_test::kv_of(prefill_store, blocks_of(handoff), begin, kTokens));
    }
}

TEST_CASE("stopping every part in the middle of hand-offs ends them all", "[kv_transfer]") {
    const auto seed = GENERATE(range(0u, 8u));
    CAPTURE(seed);
    const auto layout = kv_test::make_layout();
    auto prefill_store = kv_test::make_store(layout, 8, 1);
    auto decode_store = kv_test::make_store(layout, 8, 2);
    const auto blocks = kv_test::block_table({0, 1, 2, 3, 4, 5, 6, 7});
    const auto network = net::InProcessNetwork::make();
    auto prefill_transport = *network->add("prefill", {}, kClock);
    auto decode_transport = *network->add("decode", {}, kClock);
    std::mutex mutex;
    std::size_t prefill_ended = 0;
    std::size_t decode_asked = 0;
    std::size_t decode_ended = 0;
    kv_transfer::KvReceiver* to_grant = nullptr;
    kv_transfer::KvSender sender({.frame_bytes_max = 1024}, kv_test::kPrefill, layout, prefill_store,
                                 *prefill_transport, kClock, nullptr, [&](const SenderEvent& event) {
                                     const std::scoped_lock lock(mutex);
                                     prefill_ended += event.kind == SenderEvent::Kind::released ? 1u : 0u;
                                 });
    Inbox<ReceiverEvent> at_decode;
    kv_transfer::KvReceiver receiver({.frame_bytes_max = 1024}, kv_test::kDecode, layout, decode_store,
                                     *decode_transport, kClock, nullptr, [&](const ReceiverEvent& event) {
                                         {
                                             const std::scoped_lock lock(mutex);
                                             decode_asked +=
                                                 event.kind == ReceiverEvent::Kind::room_requested ? 1u : 0u;
                                             decode_ended += event.kind == ReceiverEvent::Kind::released ? 1u : 0u;
                                         }
                                         at_decode.push(event);
                                     });
    to_grant = &receiver;
    kv_transfer::KvRouter prefill_router(&sender, nullptr);
    kv_transfer::KvRouter decode_router(nullptr, &receiver);
    REQUIRE(prefill_transport->start(prefill_router));
    REQUIRE(decode_transport->start(decode_router));
    std::size_t opened = 0;
    for (std::uint32_t i = 0; i < 20; ++i) {
        if (sender.open({make_key(i), "decode", 100, blocks, kClock.now() + seconds(60)})) { ++opened; }
        sender.ready(make_key(i), 0, 4, 0, 100);
    }
    for (const ReceiverEvent& event : at_decode.take()) {
        if (event.kind == ReceiverEvent::Kind::room_requested) {
            to_grant->grant({event.key, 100, 0, blocks, seconds(30), kClock.now() + seconds(60)});
        }
    }
    if (seed % 2 == 0) {
        sender.stop();
        receiver.stop();
    } else {
        receiver.stop();
        sender.stop();
    }
    if (seed % 4 < 2) {
        prefill_transport->stop();
        decode_transport->stop();
    } else {
        decode_transport->stop();
        prefill_transport->stop();
    }
    CHECK(prefill_ended == opened);
    CHECK(decode_ended == decode_asked);
}
