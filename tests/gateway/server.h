#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <utility>

#include "gateway/core.h"
#include "tests/gateway/support.h"

#include "tests/support/catch.h"

namespace gateway_test {

using namespace std::chrono_literals;

/// One fake worker behind ports that answer by posting to the gateway's thread, a token a tick.
class FakePorts final : public gateway::ClusterPorts, public gateway::SchedulerPort, public gateway::WorkerPort {
public:
    struct Control {
        std::atomic<bool> steps{true};
        std::atomic<std::size_t> sequences{0};
        std::atomic<std::size_t> tokens_a_tick{1};
        std::atomic<std::size_t> ticks{0};
    };
    FakePorts(gateway::Post post, gateway::Wake wake, std::shared_ptr<Control> control)
        : post_(std::move(post)),
          wake_(std::move(wake)),
          control_(std::move(control)),
          worker_(make_endpoint(1, 10), FakeModel{.eos_every = 0}) {}

    gateway::SchedulerPort& scheduler() override { return *this; }
    gateway::WorkerPort& workers() override { return *this; }
    void attach(gateway::ClusterEvents& events) override {
        events_ = &events;
        events.on_cluster(description(true, 1'000'000));
    }
    std::optional<base::TimePoint> tick(base::TimePoint now) override {
        ++control_->ticks;
        for (std::size_t count = control_->tokens_a_tick; control_->steps && count > 0; --count) {
            worker_.step();
        }
        while (!worker_.outputs().empty()) {
            const auto output = worker_.outputs().front();
            worker_.outputs().pop_front();
            events_->on_output(worker_.incarnation(), output);
        }
        control_->sequences = worker_.sequences();
        if (worker_.sequences() == 0) { return std::nullopt; }
        return now + 5ms;
    }
    void stop() override { events_ = nullptr; }
    void place(const proto::PlaceRequest& request, base::Duration) override {
        post_([this, id = base::RequestId{request.request_id()}, epoch = base::Epoch{request.epoch()}] {
            if (events_ != nullptr) { events_->on_place_answered(id, epoch, local_placement(worker_.endpoint())); }
        });
    }
    void release(const proto::ReleaseRequest::Ended&) override {}
    void drop_prefixes(base::Duration, std::function<void(const Dropped&)>) override {}
    void send(const std::string&, const proto::WorkerEndpoint&, proto::WorkerCommand command) override {
        worker_.take(command);
        wake_({});
    }

private:
    gateway::Post post_;
    gateway::Wake wake_;
    std::shared_ptr<Control> control_;
    FakeWorker worker_;
    gateway::ClusterEvents* events_ = nullptr;
};

template <class Clock>
struct ServerWith {
    explicit ServerWith(gateway::GatewayOptions options = {},
                        std::shared_ptr<const gateway::TextPort> text = std::make_shared<ByteText>()) {
        options.http.port = 0;
        auto started = gateway::GatewayCore::start(
            {.options = options,
             .models = {{.name = "m", .text = std::move(text)}},
             .hash_key = {},
             .clock = clock,
             .metrics = metrics,
             .make_ports = [this](const gateway::Models&, gateway::Post post, gateway::Wake wake) {
                 return std::make_unique<FakePorts>(std::move(post), std::move(wake), control);
             }});
        REQUIRE(started);
        core = std::move(*started);
    }
    Clock clock;
    base::Metrics metrics;
    std::shared_ptr<FakePorts::Control> control = std::make_shared<FakePorts::Control>();
    std::unique_ptr<gateway::GatewayCore> core;
};

}  // namespace gateway_test
