#include "sim/placer.h"

#include <memory>

#include "tests/sim/serving_world.h"

#include "tests/support/catch.h"

namespace {

using namespace sim_test;

/// Who hears of nothing: nothing is computed here.
class NoListener final : public sim::WorkerListener {
public:
    void on_admitted(std::uint32_t, sim::AttemptKey) override {}
    void on_room_granted(std::uint32_t, sim::AttemptKey, std::uint32_t) override {}
    void on_token(std::uint32_t, sim::AttemptKey, std::uint32_t, std::uint32_t, bool) override {}
    void on_failed(std::uint32_t, sim::AttemptKey, base::ErrorCode) override {}
};

/// A worker for prefill (0) and two for decode, whose reports are written by hand.
class Cluster {
public:
    Cluster() {
        spdlog::set_level(spdlog::level::off);
        for (std::uint32_t i = 0; i < 3; ++i) {
            workers_.push_back(std::make_unique<sim::ModelledWorker>(
                sim::ModelledWorker::Options{.index = i,
                                             .role = i == 0 ? proto::Role::prefill : proto::Role::decode,
                                             .times = &times_,
                                             .limits = &limits_,
                                             .kv = {.blocks_total = 1000, .block_tokens = 16},
                                             .context_tokens = 16'000},
                listener_));
            REQUIRE(placer_.attach(*workers_.back(), i + 1, 1000));
        }
    }

    /// The worker that the request is to decode on.
    std::uint32_t decode_of(std::uint32_t request) {
        pass_time();
        const auto answer = placer_.place({.key = {request, 0}, .prompt_tokens = kPrompt, .new_tokens_max = 50});
        const auto* const placed = std::get_if<sim::Placed>(&answer);
        REQUIRE(placed != nullptr);
        return placed->decode;
    }
    void first_token(std::uint32_t request) {
        pass_time();
        placer_.first_token({request, 0}, std::chrono::milliseconds(50));
    }
    void ended(std::uint32_t request) {
        pass_time();
        placer_.ended({request, 0}, std::chrono::milliseconds(50), std::chrono::milliseconds(6));
    }
    /// It decodes so many sequences now.
    void reports(std::uint32_t worker, std::uint32_t sequences) {
        pass_time();
        sluice::proto::Heartbeat& heartbeat = placer_.new_heartbeat();
        heartbeat.set_number(++reports_);
        heartbeat.mutable_load()->set_requests_running(sequences);
        heartbeat.mutable_load()->set_decode_sequences(sequences);
        heartbeat.mutable_load()->set_context_tokens(sequences * kPrompt);
        heartbeat.mutable_load()->set_blocks_free(900);
        static_cast<void>(placer_.hear(worker));
    }
    std::size_t placements() const { return placer_.placements(); }

private:
    static constexpr std::uint32_t kPrompt = 100;
    void pass_time() { clock_.set(clock_.now() + std::chrono::milliseconds(20)); }

    const scheduler::planner::StepTimes times_ = linear_times();
    const worker::WorkerOptions limits_ = worker::WorkerOptions::defaults(true);
    NoListener listener_;
    sim::VirtualClock clock_;
    sim::Placer placer_{sim::Policy::sluice, {}, clock_, 3};
    std::vector<std::unique_ptr<sim::ModelledWorker>> workers_;
    std::uint64_t reports_ = 0;
};

}  // namespace

TEST_CASE("what a report shows is not counted again when the gateway's word of it is used", "[sim][placer]") {
    Cluster cluster;
    REQUIRE(cluster.decode_of(0) == 1);  // equal: the lower id
    cluster.first_token(0);
    cluster.reports(1, 1);
    REQUIRE(cluster.decode_of(1) == 2);
    cluster.first_token(1);
    REQUIRE(cluster.decode_of(2) == 1);
    cluster.first_token(2);
    cluster.reports(1, 2);
    // Two decode on the first worker, one on the second, and now one more comes there: the next has the choice.
    REQUIRE(cluster.decode_of(3) == 2);
    CHECK(cluster.decode_of(4) == 1);
}

TEST_CASE("who has ended before a report is not taken off after it", "[sim][placer]") {
    Cluster cluster;
    for (const std::uint32_t request : {0u, 1u, 2u, 3u}) {
        REQUIRE(cluster.decode_of(request) == 1 + request % 2);
        cluster.first_token(request);
    }
    cluster.ended(2);
    REQUIRE(cluster.decode_of(4) == 1);  // one there, two on the other
    cluster.ended(4);
    cluster.reports(1, 1);
    cluster.reports(2, 2);
    cluster.ended(1);
    cluster.reports(2, 1);
    CHECK(cluster.decode_of(5) == 1);  // one on each
    CHECK(cluster.placements() == 3);
}
