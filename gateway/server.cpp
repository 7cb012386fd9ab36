#include "gateway/server.h"

#include <algorithm>
#include <optional>
#include <random>
#include <utility>

#include "gateway/cluster/scheduler_client.h"
#include "gateway/cluster/worker_client.h"

namespace gateway {
namespace {

std::uint64_t random_life() {
    std::random_device device;
    const std::uint64_t life = (std::uint64_t{device()} << 32) | device();
    return life == 0 ? 1 : life;  // 0 is a gateway that does not say
}

/// Both gRPC clients. A description of the cluster also opens the streams to workers that are new in it.
class GrpcPorts final : public ClusterPorts, private ClusterEvents {
public:
    GrpcPorts(const GatewayOptions& options, const std::vector<std::string>& models,
              std::vector<std::string> scheduler_addresses, const proto::ClusterKey& key, const base::Clock& clock,
              Post post, const Wake& wake)
        : scheduler_({.addresses = std::move(scheduler_addresses),
                      .key = key,
                      .life = random_life(),
                      .models = models,
                      .describe_interval = options.describe_interval},
                     post, wake),
          workers_({.models = models,
                    .key = key,
                    .name = options.name,
                    .lost_after = options.worker_lost_after,
                    .hello_timeout = options.worker_hello_timeout,
                    .inbox_bytes_max = options.worker_inbox_bytes_max},
                   post, wake, clock) {}

    SchedulerPort& scheduler() override { return scheduler_; }
    WorkerPort& workers() override { return workers_; }
    void attach(ClusterEvents& events) override {
        events_ = &events;
        scheduler_.attach(*this);
        workers_.attach(*this);
    }
    std::optional<base::TimePoint> tick(base::TimePoint now) override {
        const auto scheduler = scheduler_.tick(now);
        const auto workers = workers_.tick(now);
        if (!scheduler || !workers) { return scheduler ? scheduler : workers; }
        return std::min(*scheduler, *workers);
    }
    void stop() override {
        scheduler_.stop();
        workers_.stop();
    }

private:
    void on_place_answered(base::RequestId id, base::Epoch epoch,
                           const base::Result<proto::PlaceReply>& reply) override {
        events_->on_place_answered(id, epoch, reply);
    }
    void on_output(base::Incarnation worker, const proto::SequenceOutput& output) override {
        events_->on_output(worker, output);
    }
    void on_worker_lost(base::Incarnation worker, const base::Error& error) override {
        events_->on_worker_lost(worker, error);
    }
    void on_cluster(const base::Result<proto::DescribeReply>& reply) override {
        if (reply) { workers_.expect(*reply); }
        events_->on_cluster(reply);
    }

    SchedulerClient scheduler_;
    WorkerClient workers_;
    ClusterEvents* events_ = nullptr;
};

}  // namespace

base::Result<std::unique_ptr<GatewayServer>> GatewayServer::start(Setup setup) {
    auto core = GatewayCore::start(
        {.options = setup.options,
         .models = setup.models,
         .hash_key = setup.hash_key,
         .clock = setup.clock,
         .metrics = setup.metrics,
         .tracing = setup.tracing,
         .make_ports = [&](const Models& models, Post post, Wake wake) -> std::unique_ptr<ClusterPorts> {
             return std::make_unique<GrpcPorts>(setup.options, models.own_names(), setup.scheduler_addresses,
                                                setup.control, setup.clock, std::move(post), std::move(wake));
         }});
    if (!core) { return base::pass_on(core); }
    return std::unique_ptr<GatewayServer>(new GatewayServer(std::move(*core)));
}

}  // namespace gateway
