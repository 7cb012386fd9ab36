#pragma once

#include <cstring>
#include <memory>
#include <string>

#include "base/bounded_queue.h"
#include "base/check.h"
#include "base/crc32c.h"
#include "tests/kv_transfer/world.h"
#include "tests/net/carriers.h"

namespace kv_test {

/// One worker with real threads over a transport between processes (net_test::make_carrier): 512 tokens of the KV of a
/// 110M-parameter model (12 layers, 12 heads of 64, bf16: 18.9 MB), frames of 2 MiB. The tests play its step thread.
struct PeerWorker {
    static constexpr std::uint32_t kTokens = 512;

    /// How long silence of the other side is borne. Long: on a busy machine a process that lives may be silent for many
    /// seconds. A test that waits for the end of a silent one takes less, and bears that a hand-off fails before.
    struct Patience {
        base::Duration peer = std::chrono::minutes(1);
        base::Duration lease = std::chrono::minutes(1);
    };

    PeerWorker(const std::string& carrier, kv_transfer::Identity identity_in,
               std::size_t frame_bytes = std::size_t{2} << 20)
        : PeerWorker(carrier, std::move(identity_in), Patience{}, frame_bytes) {}
    PeerWorker(const std::string& carrier, kv_transfer::Identity identity_in, const Patience& patience,
               std::size_t frame_bytes = std::size_t{2} << 20)
        : identity(std::move(identity_in)), lease(patience.lease) {
        for (std::uint32_t block = 0; block < store.blocks_total(); ++block) {
            blocks.push_back(base::BlockId{block});
        }
        transport = net_test::make_carrier(carrier, clock, patience.peer);
        sender = std::make_unique<KvSender>(
            KvSender::Options{
                .frame_bytes_max = frame_bytes, .peer_timeout = patience.peer, .send_timeout = patience.peer},
            identity, layout, store, *transport, clock, nullptr,
            [this](SenderEvent event) { CHECK(sent.push(std::move(event))); });
        receiver =
            std::make_unique<KvReceiver>(KvReceiver::Options{.frame_bytes_max = frame_bytes,
                                                             .peer_timeout = patience.peer,
                                                             .payload_timeout = patience.peer,
                                                             .send_timeout = patience.peer},
                                         identity, layout, store, *transport, clock, nullptr,
                                         [this](ReceiverEvent event) { CHECK(received.push(std::move(event))); });
        router = std::make_unique<kv_transfer::KvRouter>(sender.get(), receiver.get());
        CHECK(transport->start(*router).has_value());
    }
    ~PeerWorker() {
        sender->stop();
        receiver->stop();
        transport->stop();
    }

    static kv_cache::KvLayout make_large_layout() {
        base::ModelShape shape;
        shape.layers = 12;
        shape.hidden = 768;
        shape.heads_q = 12;
        shape.heads_kv = 12;
        shape.head_dim = 64;
        return *kv_cache::KvLayout::make(shape, {}, 16);
    }
    void fill(unsigned seed) {
        Random random{seed};
        const std::span<std::byte> bytes = store.run({kv_cache::BlockId{0}, store.blocks_total()});
        for (std::size_t i = 0; i + 4 <= bytes.size(); i += 4) {
            const std::uint32_t value = random();
            std::memcpy(bytes.data() + i, &value, 4);
        }
    }
    std::uint32_t checksum() const { return base::crc32c(kv_of(store, blocks, 0, kTokens)); }

    /// All of it is ready at once, as after a short prefill.
    base::Result<void> hand_off(std::uint64_t request, const std::string& address,
                                base::Duration deadline = std::chrono::minutes(1)) {
        const HandoffKey key = make_key(request);
        auto opened = sender->open({.key = key,
                                    .kv_address = address,
                                    .kv_tokens = kTokens,
                                    .blocks = blocks,
                                    .deadline = clock.now() + deadline});
        if (opened) { sender->ready(key, 0, layout.layers(), 0, kTokens); }
        return opened;
    }
    /// Asks for all of it, into all of this worker's blocks.
    base::Result<void> fetch(std::uint64_t request, const std::string& address) {
        const auto hashes = make_hashes(blocks.size());
        return receiver->fetch({.key = make_fetch_key(request),
                                .kv_address = address,
                                .hashes = hashes,
                                .blocks = blocks,
                                .answer_timeout = answer_timeout,
                                .lease = lease,
                                .deadline = clock.now() + std::chrono::seconds(60)});
    }
    /// Answers a fetch with all of it.
    void lend(SenderEvent asked) {
        auto opened = sender->open({.key = asked.key,
                                    .kv_address = {},
                                    .kv_tokens = kTokens,
                                    .blocks = blocks,
                                    .deadline = asked.deadline,
                                    .fetch_slot = std::move(asked.slot)});
        if (opened) { sender->ready(asked.key, 0, layout.layers(), 0, kTokens); }
    }
    void grant(const ReceiverEvent& asked) {
        receiver->grant({.key = asked.key,
                         .kv_tokens = kTokens,
                         .have_tokens = 0,
                         .blocks = blocks,
                         .lease = lease,
                         .deadline = clock.now() + std::chrono::seconds(60)});
    }

    kv_transfer::Identity identity;
    base::Duration lease;
    base::Duration answer_timeout = std::chrono::seconds(60);  // of fetches
    base::SystemClock clock;
    kv_cache::KvLayout layout = make_large_layout();
    kv_cache::KvStore store = *kv_cache::KvStore::make(device::host_device(), layout, kTokens / 16);
    std::vector<base::BlockId> blocks;
    base::BoundedQueue<SenderEvent> sent{1024};
    base::BoundedQueue<ReceiverEvent> received{1024};
    std::unique_ptr<net::Transport> transport;
    std::unique_ptr<KvSender> sender;
    std::unique_ptr<KvReceiver> receiver;
    std::unique_ptr<kv_transfer::KvRouter> router;
};

}  // namespace kv_test
