#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "gateway/request/generation.h"
#include "gateway/request/models.h"

namespace gateway {

/// All sequences of one gateway in flight: the model as a source of sequences. Mints their ids, hands events to the one
/// they are meant for, wakes them in time, and counts them in and out: each that was opened ends exactly once.
/// Everything is called on one thread (the gateway's I/O thread, or the simulator's); nothing blocks.
class RequestTable final : public ClusterEvents, public SequenceSource {
public:
    struct Setup {
        SchedulerPort& scheduler;
        WorkerPort& workers;
        const Models& models;  // borrowed, like all references here
        const base::Clock& clock;
        GatewayMetrics& metrics;
        RequestOptions options;
        base::HashKey hash_key;
        std::uint64_t seed;  // of request ids; random in production
        Wake wake = {};      // asked for when wakes_at() has come nearer; empty: its owner looks by itself
        SequenceObserver* observer = nullptr;  // null: none
    };
    explicit RequestTable(Setup setup);
    /// No sequence may be open.
    ~RequestTable() override;
    RequestTable(const RequestTable&) = delete;
    RequestTable& operator=(const RequestTable&) = delete;

    bool has_room(std::size_t count) const override {
        return generations_.size() + count <= setup_.options.generations_max;
    }
    /// Opens a sequence and asks for its placement.
    base::RequestId open(GenerationRequest request, GenerationSink& sink) override;
    void cancel(base::RequestId id, std::string_view cause) override;

    void on_place_answered(base::RequestId id, base::Epoch epoch,
                           const base::Result<proto::PlaceReply>& reply) override;
    void on_output(base::Incarnation worker, const proto::SequenceOutput& output) override;
    void on_worker_lost(base::Incarnation worker, const base::Error& error) override;
    void on_cluster(const base::Result<proto::DescribeReply>& reply) override;
    /// Call when `wakes_at()` has come; too early or too often does no harm.
    void on_time();
    std::optional<base::TimePoint> wakes_at() const;

    /// `tell` is called once, as soon as every model is ready: from inside this call if that is so. One at a time.
    void when_ready(std::function<void()> tell);
    bool is_ready() const;

    /// What is known of the workers of one model.
    const ClusterView& cluster(std::size_t model) const { return clusters_[model]; }
    const std::vector<ClusterView>& clusters() const { return clusters_; }
    /// What the workers of each model have to do by what they can (pool_load()); 0: nothing is known.
    const std::vector<double>& loads() const { return loads_; }
    /// The highest epoch of a scheduler that was heard of; 0: none.
    std::uint64_t scheduler_epoch() const { return scheduler_epoch_; }
    std::size_t open_count() const { return generations_.size(); }
    std::uint64_t opened() const { return opened_; }
    std::uint64_t ended() const { return ended_; }

private:
    struct Entry {
        std::unique_ptr<Generation> generation;
        std::optional<base::TimePoint> wakes_at;
    };
    /// Runs `event` on the sequence, then updates its timer and forgets it if it has ended (once no event of it is
    /// running).
    template <class Event>
    void dispatch(base::RequestId id, Event event);
    void settle(base::RequestId id, Entry& entry);
    void tell_ready();

    Setup setup_;
    std::vector<ClusterView> clusters_;  // by model; never resized: sequences refer to them
    std::vector<double> loads_;          // likewise
    std::uint64_t scheduler_epoch_ = 0;
    std::function<void()> tell_ready_;
    RetryBudget retries_;
    std::mt19937_64 random_;
    std::unordered_map<base::RequestId, Entry> generations_;
    std::set<std::pair<base::TimePoint, base::RequestId>> timers_;
    std::vector<base::RequestId> unsettled_;  // had an event while another event ran
    unsigned running_ = 0;                    // events on the stack
    std::uint64_t opened_ = 0;
    std::uint64_t ended_ = 0;
};

}  // namespace gateway
