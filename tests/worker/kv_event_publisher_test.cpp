// Batches of KV events as others read them: the bytes, and what goes over ZeroMQ.
#include "worker/kv_event_publisher.h"

#include <zmq.h>

#include <array>
#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/metrics.h"

#include "tests/support/catch.h"

using namespace std::string_literals;
using worker::KvEvent;
using worker::KvEventBatch;
using worker::KvEventPublisher;

namespace {

constexpr std::chrono::seconds kPatience{60};  // with a busy machine

KvEventBatch removal(std::uint64_t name, std::size_t names = 1) {
    return {.unix_us = 1'000'000,
            .events = {{.kind = KvEvent::Kind::removed, .hashes = std::vector<std::uint64_t>(names, name)}}};
}

/// A socket of somebody who reads.
class Reader {
public:
    Reader(int type, const std::string& endpoint, int batches_max = 1000) : socket_(zmq_socket(context(), type)) {
        const int patience = static_cast<int>(std::chrono::milliseconds(kPatience).count());
        const int none = 0;
        REQUIRE(zmq_setsockopt(socket_, ZMQ_RCVTIMEO, &patience, sizeof patience) == 0);
        REQUIRE(zmq_setsockopt(socket_, ZMQ_LINGER, &none, sizeof none) == 0);
        REQUIRE(zmq_setsockopt(socket_, ZMQ_RCVHWM, &batches_max, sizeof batches_max) == 0);
        if (type == ZMQ_SUB) { REQUIRE(zmq_setsockopt(socket_, ZMQ_SUBSCRIBE, "kv", 2) == 0); }
        REQUIRE(zmq_connect(socket_, endpoint.c_str()) == 0);
    }
    ~Reader() { zmq_close(socket_); }
    Reader(const Reader&) = delete;
    Reader& operator=(const Reader&) = delete;

    /// The frames of the next message; none when there is no message within `patience`.
    std::vector<std::string> receive(std::chrono::milliseconds patience = kPatience) {
        const int wait = static_cast<int>(patience.count());
        zmq_setsockopt(socket_, ZMQ_RCVTIMEO, &wait, sizeof wait);
        std::vector<std::string> frames;
        int more = 1;
        while (more != 0) {
            zmq_msg_t message;
            zmq_msg_init(&message);
            if (zmq_msg_recv(&message, socket_, 0) < 0) { return {}; }
            frames.emplace_back(static_cast<const char*>(zmq_msg_data(&message)), zmq_msg_size(&message));
            more = zmq_msg_more(&message);
            zmq_msg_close(&message);
        }
        return frames;
    }
    void send(const std::vector<std::string>& frames) {
        for (std::size_t i = 0; i < frames.size(); ++i) {
            const int flags = i + 1 < frames.size() ? ZMQ_SNDMORE : 0;
            REQUIRE(zmq_send(socket_, frames[i].data(), frames[i].size(), flags) >= 0);
        }
    }

private:
    static void* context() {
        static const std::unique_ptr<void, void (*)(void*)> kContext(zmq_ctx_new(), [](void* c) { zmq_ctx_term(c); });
        return kContext.get();
    }
    void* socket_;
};

std::string number(std::uint64_t value) {
    std::string bytes;
    for (int i = 7; i >= 0; --i) {
        bytes += static_cast<char>(value >> (8 * i));
    }
    return bytes;
}

std::uint64_t number_of(const std::string& bytes) {
    REQUIRE(bytes.size() == 8);
    std::uint64_t value = 0;
    for (const char byte : bytes) {
        value = (value << 8) | static_cast<unsigned char>(byte);
    }
    return value;
}

struct World {
    explicit World(KvEventPublisher::Options options = {}) {
        options.endpoint = "tcp://127.0.0.1:*";
        options.replay_endpoint = "tcp://127.0.0.1:*";
        options.topic = "kv@here";
        options.form.mediums = {"GPU"};
        options.worker = "w";
        auto started = KvEventPublisher::start(std::move(options), clock, metrics);
        REQUIRE(started.has_value());
        publisher = std::move(*started);
    }
    void offer(KvEventBatch batch) {
        // The thread takes what waits as fast as it can: a full queue is a matter of time.
        wait_until([&] { return publisher->offer(KvEventBatch(batch)); });
    }
    static void wait_until(const std::function<bool()>& is_so) {
        const auto give_up = std::chrono::steady_clock::now() + kPatience;
        while (!is_so()) {
            REQUIRE(std::chrono::steady_clock::now() < give_up);
            std::this_thread::yield();
        }
    }
    /// Offers batches until a subscriber gets one: subscriptions take a while.
    std::vector<std::string> connect(Reader& subscriber) {
        std::vector<std::string> frames;
        wait_until([&] {
            offer(removal(7));
            frames = subscriber.receive(std::chrono::milliseconds(10));
            return !frames.empty();
        });
        return frames;
    }
    bool shows(const std::string& line) const {
        return ("\n" + metrics.text()).find("\n" + line + "\n") != std::string::npos;
    }

    base::FakeClock clock;  // stands still: nobody is given up
    base::Metrics metrics;
    std::unique_ptr<KvEventPublisher> publisher;
};

}  // namespace

TEST_CASE("a batch has the bytes that vLLM's would have", "[worker][golden]") {
    KvEvent stored{.kind = KvEvent::Kind::stored, .level = 1};
    stored.hashes = {0xdab6'3a45'0000'0001};
    stored.tokens = {1, 127, 128, 65536};
    stored.scope = "salt:a";
    KvEvent removed{.kind = KvEvent::Kind::removed};
    removed.hashes = {1, 300};
    const KvEventBatch batch{.unix_us = 1'500'000, .events = {stored, removed, {.kind = KvEvent::Kind::cleared}}};
    const std::string expected =
        "\x93\xcb\x3f\xf8\0\0\0\0\0\0\x93"s
        "\x8b\xa4type\xab"
        "BlockStored\xac"
        "block_hashes\x91\xcf\xda\xb6\x3a\x45\0\0\0\x01\xb1parent_block_hash\xc0"s
        "\xa9token_ids\x94\x01\x7f\xcc\x80\xce\0\x01\0\0\xaa"
        "block_size\x04\xa7lora_id\xc0\xa6medium\xa3"
        "CPU"s
        "\xa9lora_name\xc0\xaa"
        "extra_keys\x91\x91\xa6salt:a\xa9group_idx\0\xb2kv_cache_spec_kind\xae"
        "full_attention"s
        "\x84\xa4type\xac"
        "BlockRemoved\xac"
        "block_hashes\x92\x01\xcd\x01\x2c\xa6medium\xa3GPU\xa9group_idx\0"s
        "\x81\xa4type\xb0"
        "AllBlocksCleared\x02"s;
    REQUIRE(worker::kv_event_payload(batch, {.block_tokens = 4, .mediums = {"GPU", "CPU"}, .rank = 2}) == expected);
}

TEST_CASE("lengths beyond one and two bytes have their own forms", "[worker]") {
    const worker::KvEventForm form{.block_tokens = 16, .mediums = {std::string(40, 'm')}};
    const auto payload = [&](std::size_t names) { return worker::kv_event_payload(removal(5, names), form); };
    REQUIRE(payload(15).find("block_hashes\x9f\x05"s) != std::string::npos);
    REQUIRE(payload(16).find("block_hashes\xdc\0\x10\x05"s) != std::string::npos);
    REQUIRE(payload(65536).find("block_hashes\xdd\0\x01\0\0\x05"s) != std::string::npos);
    REQUIRE(payload(1).find("medium\xd9\x28mmm"s) != std::string::npos);
}

TEST_CASE("a subscriber gets topic, number and payload of each batch, and the same again when it asks", "[worker]") {
    World world;
    Reader subscriber(ZMQ_SUB, world.publisher->endpoint());
    const auto first = world.connect(subscriber);
    REQUIRE(first.size() == 3);
    REQUIRE(first[0] == "kv@here");
    world.offer(removal(8));
    const std::string payload = worker::kv_event_payload(removal(8), {.block_tokens = 16, .mediums = {"GPU"}});
    std::vector<std::string> last = first;
    std::uint64_t expected = number_of(first[1]);
    while (last[2] != payload) {
        last = subscriber.receive();
        REQUIRE(last.size() == 3);
        REQUIRE(number_of(last[1]) == ++expected);
    }

    Reader asks(ZMQ_DEALER, world.publisher->replay_endpoint());
    asks.send({"", number(0)});
    for (std::uint64_t i = 0; i <= expected; ++i) {
        const auto again = asks.receive();
        REQUIRE(again.size() == 4);
        REQUIRE(again[0].empty());
        REQUIRE(again[1] == "kv@here");
        REQUIRE(number_of(again[2]) == i);
        if (i == expected) { REQUIRE(again[3] == payload); }
    }
    REQUIRE(asks.receive() == std::vector<std::string>{"", "", number(~std::uint64_t{0}), ""});
    asks.send({"", number(expected + 1)});  // nothing is missing
    REQUIRE(asks.receive() == std::vector<std::string>{"", "", number(~std::uint64_t{0}), ""});
    REQUIRE_FALSE(world.publisher->take_wish());
    World::wait_until([&] {  // counted after it was sent
        return world.shows("sluice_worker_kv_event_replays_total{outcome=\"complete\",worker=\"w\"} 2");
    });
}

TEST_CASE("who asks for batches that are gone gets those that are left, and all is told anew", "[worker]") {
    KvEventPublisher::Options options;
    options.kept_batches_max = 4;
    World world(options);
    for (std::uint64_t i = 0; i < 10; ++i) {
        world.offer(removal(i));
    }
    World::wait_until(
        [&] { return world.shows("sluice_worker_kv_event_batches_total{outcome=\"sent\",worker=\"w\"} 10"); });
    Reader asks(ZMQ_DEALER, world.publisher->replay_endpoint());
    asks.send({"", number(3)});
    for (std::uint64_t i = 6; i < 10; ++i) {
        const auto again = asks.receive();
        REQUIRE(again.size() == 4);
        REQUIRE(number_of(again[2]) == i);
    }
    REQUIRE(asks.receive().back().empty());
    REQUIRE(world.publisher->take_wish());
    asks.send({"", number(3)});  // not again at once
    for (int i = 0; i < 5; ++i) {
        REQUIRE_FALSE(asks.receive().empty());
    }
    REQUIRE_FALSE(world.publisher->take_wish());
    REQUIRE(world.shows("sluice_worker_kv_event_replays_total{outcome=\"too_late\",worker=\"w\"} 2"));
}

TEST_CASE("what is kept for later is bounded in bytes, too", "[worker]") {
    KvEventPublisher::Options options;
    options.kept_bytes_max = 40'000;
    World world(options);
    for (int i = 0; i < 10; ++i) {
        world.offer(removal(1u << 20, 2000));  // 10 KB each
    }
    World::wait_until(
        [&] { return world.shows("sluice_worker_kv_event_batches_total{outcome=\"sent\",worker=\"w\"} 10"); });
    Reader asks(ZMQ_DEALER, world.publisher->replay_endpoint());
    asks.send({"", number(0)});
    REQUIRE(number_of(asks.receive().at(2)) == 7);
}

TEST_CASE("requests of another form are counted, and do no harm", "[worker]") {
    World world;
    world.offer(removal(1));
    Reader asks(ZMQ_DEALER, world.publisher->replay_endpoint());
    for (const auto& frames : {std::vector<std::string>{""},
                               {"", "short"},
                               {"x", number(0)},
                               {"", number(0), ""},
                               {"", "", "", "", "", ""}}) {
        asks.send(frames);
    }
    asks.send({"", number(0)});
    REQUIRE(asks.receive().size() == 4);  // the only answer
    REQUIRE(number_of(asks.receive().at(2)) == ~std::uint64_t{0});
    REQUIRE(world.shows("sluice_worker_kv_event_replays_total{outcome=\"refused\",worker=\"w\"} 5"));
}

TEST_CASE("a subscriber that does not read holds up nobody", "[worker]") {
    KvEventPublisher::Options options;
    options.subscriber_batches_max = 4;
    World world(options);
    Reader good(ZMQ_SUB, world.publisher->endpoint(), 4);
    Reader stalled(ZMQ_SUB, world.publisher->endpoint(), 1);
    auto last = world.connect(good);
    REQUIRE_FALSE(world.connect(stalled).empty());
    // Until the good one has about what was sent up to now.
    const std::string mark = worker::kv_event_payload(removal(9), {.block_tokens = 16, .mediums = {"GPU"}});
    World::wait_until([&] {
        world.offer(removal(9));
        for (auto frames = last; !frames.empty(); frames = good.receive(std::chrono::milliseconds(10))) {
            last = frames;
        }
        return last.at(2) == mark;
    });
    std::uint64_t expected = number_of(last[1]);
    // The good one takes each batch before the next one goes out; the other one none, until it is full.
    World::wait_until([&] {
        world.offer(removal(std::uint64_t{1} << 60, 20'000));  // 180 KB
        std::vector<std::string> frames;
        do {
            frames = good.receive();
            REQUIRE(frames.size() == 3);
            REQUIRE(number_of(frames[1]) == ++expected);
        } while (frames[2].size() < 100'000);
        return !world.shows("sluice_worker_kv_event_batches_total{outcome=\"subscriber_full\",worker=\"w\"} 0");
    });
}

TEST_CASE("what was offered before the end is still sent", "[worker]") {
    World world;
    Reader subscriber(ZMQ_SUB, world.publisher->endpoint());
    auto last = world.connect(subscriber);
    for (std::uint64_t i = 100; i < 120; ++i) {
        world.offer(removal(i));
    }
    const std::string end = worker::kv_event_payload(removal(119), {.block_tokens = 16, .mediums = {"GPU"}});
    world.publisher.reset();
    while (last.at(2) != end) {
        last = subscriber.receive();
    }
}

TEST_CASE("an address that cannot be had is an error that names it", "[worker]") {
    World world;
    KvEventPublisher::Options options;
    options.endpoint = world.publisher->endpoint();
    options.worker = "other";
    const auto taken = KvEventPublisher::start(options, world.clock, world.metrics);
    REQUIRE_FALSE(taken.has_value());
    REQUIRE(taken.error().message.find(world.publisher->endpoint()) != std::string::npos);
    REQUIRE(taken.error().message.find("in use") != std::string::npos);
}
