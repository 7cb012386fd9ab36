#pragma once

#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "device/device.h"
#include "kv_cache/kv_pack.h"
#include "kv_cache/kv_store.h"
#include "kv_transfer/router.h"
#include "net/fault.h"
#include "net/in_process.h"
#include "tests/kv_transfer/random.h"
#include "tests/kv_transfer/version_transport.h"

namespace kv_test {

using kv_transfer::HandoffKey;
using kv_transfer::KvReceiver;
using kv_transfer::KvSender;
using kv_transfer::ReceiverEvent;
using kv_transfer::SenderEvent;
using std::chrono::milliseconds;
using std::chrono::seconds;

inline constexpr std::uint64_t kNumerics = 77;
inline constexpr base::Duration kAnswerTimeout = milliseconds(500);  // of fetches
inline const kv_transfer::Identity kPrefill{"model", kNumerics, base::Incarnation{11}};
inline const kv_transfer::Identity kDecode{"model", kNumerics, base::Incarnation{22}};

inline HandoffKey make_key(std::uint64_t request, std::uint32_t epoch = 0) {
    return {base::RequestId{request}, base::Epoch{epoch}, kPrefill.incarnation, kDecode.incarnation};
}

/// The `run`-th run of blocks that decode fetches from prefill.
inline HandoffKey make_fetch_key(std::uint64_t request, std::uint32_t run = 1) {
    HandoffKey key = make_key(request);
    key.run = run;
    return key;
}

inline std::vector<base::BlockHash> make_hashes(std::size_t count) {
    std::vector<base::BlockHash> hashes;
    for (std::uint64_t i = 1; i <= count; ++i) {
        hashes.push_back({i * 0x9e3779b97f4a7c15ull, i});
    }
    return hashes;
}

/// 4 layers, 2 KV heads of 8, 16 tokens a block: 64 bytes a layer and token in bf16.
inline kv_cache::KvLayout make_layout(kv_cache::TileOrder order = kv_cache::TileOrder::lanes) {
    base::ModelShape shape;
    shape.layers = 4;
    shape.hidden = 32;
    shape.heads_q = 4;
    shape.heads_kv = 2;
    shape.head_dim = 8;
    return *kv_cache::KvLayout::make(shape, {kv_cache::KvDtype::bf16, order}, 16);
}

/// Blocks with random content.
inline kv_cache::KvStore make_store(const kv_cache::KvLayout& layout, std::uint32_t blocks, unsigned seed) {
    auto store = *kv_cache::KvStore::make(device::host_device(), layout, blocks);
    std::mt19937_64 random{seed};
    const std::span<std::byte> bytes = store.run({kv_cache::BlockId{0}, blocks});
    for (std::byte& byte : bytes) {
        byte = static_cast<std::byte>(random());
    }
    return store;
}

inline std::vector<base::BlockId> block_table(std::initializer_list<std::uint32_t> ids) {
    std::vector<base::BlockId> table;
    for (const std::uint32_t id : ids) {
        table.push_back(base::BlockId{id});
    }
    return table;
}

/// The KV of tokens [0, tokens) in wire order.
inline std::vector<std::byte> kv_of(const kv_cache::KvStore& store, const std::vector<base::BlockId>& blocks,
                                    std::uint32_t token_begin, std::uint32_t token_end) {
    const kv_cache::KvRange range{0, store.layout().layers(), token_begin, token_end};
    std::vector<std::byte> bytes(store.layout().wire_bytes(range));
    if (!bytes.empty()) { kv_cache::pack(store, blocks, range, bytes); }
    return bytes;
}

/// One prefill and one decode worker without threads, on a clock that stands still. The two stores have different tile
/// orders, so that only the canonical order can make their KV equal.
struct World {
    struct Options {
        std::string prefill_faults = {};
        std::string decode_faults = {};
        KvSender::Options sender = {};
        KvReceiver::Options receiver = {};
        ProtocolVersion prefill_speaks = {};  // what the messages of prefill say
        kv_transfer::Identity prefill = kPrefill;
    };

    World() : World(Options{}) {}
    explicit World(Options options) {
        options.sender.own_thread = false;
        options.receiver.own_thread = false;
        prefill_transport = std::make_unique<VersionTransport>(make_transport("prefill", options.prefill_faults),
                                                               options.prefill_speaks);
        decode_transport = make_transport("decode", options.decode_faults);
        sender = std::make_unique<KvSender>(options.sender, options.prefill, prefill_layout, prefill_store,
                                            *prefill_transport, clock, &metrics,
                                            [this](SenderEvent e) { keep(sent, std::move(e)); });
        receiver =
            std::make_unique<KvReceiver>(options.receiver, kDecode, decode_layout, decode_store, *decode_transport,
                                         clock, &metrics, [this](ReceiverEvent e) { keep(received, std::move(e)); });
        prefill_router = std::make_unique<kv_transfer::KvRouter>(sender.get(), nullptr);
        decode_router = std::make_unique<kv_transfer::KvRouter>(nullptr, receiver.get());
        if (!prefill_transport->start(*prefill_router) || !decode_transport->start(*decode_router)) { std::abort(); }
    }
    ~World() { stop(); }
    void stop() {
        sender->stop();
        receiver->stop();
        prefill_transport->stop();
        decode_transport->stop();
    }

    /// Events are dealt with at once, or wait with their slot; a fetch's slot waits for the answer.
    template <class Event>
    void keep(std::vector<Event>& events, Event event) const {
        if (!events_wait && event.kind == Event::Kind::released) { event.slot = nullptr; }
        events.push_back(std::move(event));
    }

    std::unique_ptr<net::Transport> make_transport(const std::string& name, const std::string& faults) {
        auto plan = *net::parse_fault_plan(faults);
        plan.own_thread = false;
        return net::make_fault_transport(*network->add(name, {.own_thread = false}, clock), plan, clock);
    }

    /// Everything that can happen without time passing.
    void settle() {
        bool did = true;
        for (int rounds = 0; did; ++rounds) {
            if (rounds > 100000) { std::abort(); }  // two sides that answer each other without end
            did = tick_prefill();
            did = tick_decode() || did;
        }
    }
    bool tick_prefill() {
        const bool did = prefill_transport->tick();
        return sender->tick() || did;
    }
    bool tick_decode() {
        const bool did = decode_transport->tick();
        return receiver->tick() || did;
    }
    /// Settles, then lets time pass in small steps, settling after each.
    void pass(base::Duration time, base::Duration step = milliseconds(5)) {
        settle();
        for (base::Duration passed{}; passed < time; passed += step) {
            clock.advance(step);
            settle();
        }
    }

    base::Result<void> open(const HandoffKey& key, std::uint32_t kv_tokens, base::Duration deadline = seconds(30)) {
        return sender->open({.key = key,
                             .kv_address = decode_transport->address(),
                             .kv_tokens = kv_tokens,
                             .blocks = prefill_blocks,
                             .deadline = clock.now() + deadline,
                             .kv_mode = kv_mode});
    }
    void ready_all(const HandoffKey& key, std::uint32_t kv_tokens) {
        sender->ready(key, 0, prefill_layout.layers(), 0, kv_tokens);
    }
    void grant(const HandoffKey& key, std::uint32_t kv_tokens, std::uint32_t have_tokens = 0,
               base::Duration lease = seconds(5)) {
        receiver->grant({.key = key,
                         .kv_tokens = kv_tokens,
                         .have_tokens = have_tokens,
                         .blocks = decode_blocks,
                         .lease = lease,
                         .deadline = clock.now() + seconds(60),
                         .allow_lossy = allow_lossy});
    }

    /// Decode asks for `blocks` blocks, into the first of decode_blocks.
    base::Result<void> fetch(const HandoffKey& key, std::size_t blocks, base::Duration deadline = seconds(30)) {
        const auto hashes = make_hashes(blocks);
        return receiver->fetch({.key = key,
                                .kv_address = prefill_transport->address(),
                                .hashes = hashes,
                                .blocks = std::span(decode_blocks).first(blocks),
                                .answer_timeout = kAnswerTimeout,
                                .lease = seconds(2),
                                .deadline = clock.now() + deadline});
    }
    /// Prefill lends the first `tokens` tokens of what was asked for last.
    base::Result<void> lend(std::uint32_t tokens, const proto::KvMode& mode = {}) {
        SenderEvent& asked = sent.back();
        if (asked.kind != SenderEvent::Kind::fetch_requested) { std::abort(); }
        auto opened = sender->open({.key = asked.key,
                                    .kv_address = {},
                                    .kv_tokens = tokens,
                                    .blocks = prefill_blocks,
                                    .deadline = asked.deadline,
                                    .kv_mode = mode,
                                    .fetch_slot = std::move(asked.slot)});
        if (opened) { ready_all(asked.key, tokens); }
        return opened;
    }

    std::size_t count(SenderEvent::Kind kind, const HandoffKey& key) const {
        std::size_t n = 0;
        for (const SenderEvent& event : sent) {
            n += event.kind == kind && event.key == key ? 1u : 0u;
        }
        return n;
    }
    std::size_t count(ReceiverEvent::Kind kind, const HandoffKey& key) const {
        std::size_t n = 0;
        for (const ReceiverEvent& event : received) {
            n += event.kind == kind && event.key == key ? 1u : 0u;
        }
        return n;
    }
    base::ErrorCode sender_error() const {
        for (const SenderEvent& event : sent) {
            if (event.error) { return event.error->code; }
        }
        return base::ErrorCode::internal;
    }
    base::ErrorCode receiver_error() const {
        for (const ReceiverEvent& event : received) {
            if (event.error) { return event.error->code; }
        }
        return base::ErrorCode::internal;
    }
    std::vector<std::byte> sent_kv(std::uint32_t tokens, std::uint32_t from = 0) const {
        return kv_of(prefill_store, prefill_blocks, from, tokens);
    }
    std::vector<std::byte> received_kv(std::uint32_t tokens, std::uint32_t from = 0) const {
        return kv_of(decode_store, decode_blocks, from, tokens);
    }

    base::FakeClock clock;
    base::Metrics metrics;
    std::shared_ptr<net::InProcessNetwork> network = net::InProcessNetwork::make();
    kv_cache::KvLayout prefill_layout = make_layout(kv_cache::TileOrder::token_major);
    kv_cache::KvLayout decode_layout = make_layout(kv_cache::TileOrder::lanes);
    kv_cache::KvStore prefill_store = make_store(prefill_layout, 16, 1);
    kv_cache::KvStore decode_store = make_store(decode_layout, 16, 2);
    std::vector<base::BlockId> prefill_blocks = block_table({3, 4, 5, 9, 1, 2, 12, 0});
    std::vector<base::BlockId> decode_blocks = block_table({7, 2, 3, 4, 15, 11, 10, 1});
    proto::KvMode kv_mode;     // of hand-offs that are opened
    bool allow_lossy = false;  // of grants
    bool events_wait = false;
    std::vector<SenderEvent> sent;
    std::vector<ReceiverEvent> received;
    std::unique_ptr<VersionTransport> prefill_transport;
    std::unique_ptr<net::Transport> decode_transport;
    std::unique_ptr<KvSender> sender;
    std::unique_ptr<KvReceiver> receiver;
    std::unique_ptr<kv_transfer::KvRouter> prefill_router;
    std::unique_ptr<kv_transfer::KvRouter> decode_router;
};

}  // namespace kv_test
