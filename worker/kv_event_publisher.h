#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>

#include "base/bounded_queue.h"
#include "base/clock.h"
#include "base/metrics.h"
#include "base/result.h"
#include "worker/kv_event_wire.h"
#include "worker/kv_events.h"

namespace worker {

/// Sends batches of KV events over ZeroMQ as vLLM does: a PUB socket with three frames for each batch (topic, number,
/// payload), numbers from 0 on without gaps, both big-endian; and a ROUTER socket that sends batches again, from the
/// number on that a client asks for (empty frame, 8 bytes), each with the same three frames behind an empty one, then
/// one with number -1 and no payload.
///
/// A thread of its own: whoever offers never waits, and no subscriber is waited for. One that is too slow for
/// `subscriber_batches_max` misses batches (and sees it by the numbers); a client that asks for batches that are no
/// longer kept gets those that are, and everybody is told everything anew.
class KvEventPublisher final : public KvEventSink {
public:
    struct Options {
        std::string endpoint;         // tcp://host:port (port *: any free one) or ipc://path, on which it listens
        std::string replay_endpoint;  // likewise; empty: nothing is sent again
        std::string topic;
        KvEventForm form;
        std::size_t queue_batches_max = 1024;       // that wait for the thread
        std::size_t subscriber_batches_max = 1000;  // that wait for one subscriber, and for one client that asked
        std::size_t kept_batches_max = 10'000;      // for clients that ask
        std::size_t kept_bytes_max = 64u << 20;     // of their payloads
        std::string worker;                         // label of the metrics
    };
    /// `metrics` and `clock` must outlive it. Errors: of an address, which they name.
    static base::Result<std::unique_ptr<KvEventPublisher>> start(Options options, const base::Clock& clock,
                                                                 base::Metrics& metrics);
    /// Sends what waits; a second at most for subscribers that are slow.
    ~KvEventPublisher() override;

    [[nodiscard]] bool offer(KvEventBatch&& batch) override;
    bool has_room() const override { return queue_.size() * 2 <= queue_.capacity(); }
    bool take_wish() override { return wants_everything_.exchange(false); }

    /// Where it listens, with the port; the second is empty where nothing is sent again.
    const std::string& endpoint() const { return endpoint_; }
    const std::string& replay_endpoint() const { return replay_endpoint_; }

private:
    struct Sockets;
    class Desk;  // what the thread does

    KvEventPublisher(Options options, base::Metrics& metrics);
    void wake() const;

    const Options options_;
    base::BoundedQueue<KvEventBatch> queue_;
    std::atomic<bool> wants_everything_{false};
    std::atomic<bool> is_ending_{false};
    std::string endpoint_;
    std::string replay_endpoint_;
    prometheus::Counter& dropped_;
    std::unique_ptr<Sockets> sockets_;
    std::unique_ptr<Desk> desk_;
    std::thread thread_;
};

}  // namespace worker
