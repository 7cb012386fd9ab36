#include "sim/modelled_mover.h"

#include <vector>

#include "sim/virtual_clock.h"

#include "tests/support/catch.h"

using kv_transfer::TierEvent;
using kv_transfer::TierJob;
using sim::VirtualClock;

namespace {

/// A level of a block a millisecond in, two a millisecond out.
sim::CopyCosts costs() {
    return {.block_bytes = 1000, .load_bytes_per_second = 1e6, .save_bytes_per_second = 2e6};
}

/// `runs` of neighbours, each of `blocks`.
TierJob job(std::uint64_t id, TierJob::Kind kind, std::uint32_t blocks, std::uint32_t runs = 1) {
    TierJob job;
    job.id = id;
    job.kind = kind;
    for (std::uint32_t run = 0; run < runs; ++run) {
        job.pieces.push_back({{base::BlockId{run * 100}, blocks}, {base::BlockId{run * 100}, blocks}});
    }
    job.hashes.resize(std::size_t{blocks} * runs);
    return job;
}

struct Bench {
    explicit Bench(const sim::CopyCosts& costs, std::uint32_t jobs_max = 8)
        : mover(costs, jobs_max, clock, [this](TierEvent event) {
              ended.push_back(std::move(event));
              ended_at.push_back(VirtualClock::seconds(clock.now()));
          }) {}
    /// Everything, each at its end.
    void run() {
        while (const auto end = mover.next_end()) {
            clock.set(std::max(clock.now(), *end));
            mover.deliver();
        }
    }

    VirtualClock clock;
    std::vector<TierEvent> ended;
    std::vector<double> ended_at;
    sim::ModelledMover mover;
};

}  // namespace

TEST_CASE("copies take what the link takes, or their launches where that is more", "[sim][levels]") {
    sim::CopyCosts costs_of_many = costs();
    costs_of_many.launch_seconds = 3e-3;
    Bench bench(costs_of_many);
    REQUIRE(bench.mover.submit(job(1, TierJob::Kind::load, 10)));
    bench.run();
    CHECK(bench.ended_at.back() == Approx(0.010));
    REQUIRE(bench.mover.submit(job(2, TierJob::Kind::load, 2, 5)));  // as many blocks in five pieces
    bench.run();
    CHECK(bench.ended_at.back() == Approx(0.010 + 0.015));
    REQUIRE(bench.mover.submit(job(3, TierJob::Kind::save, 10)));
    bench.run();
    CHECK(bench.ended_at.back() == Approx(0.025 + 0.005));
    CHECK(bench.mover.counts().copies_in == 6);
    CHECK(bench.mover.counts().blocks_in == 20);
    CHECK(bench.mover.counts().copies_out == 1);
    CHECK(bench.mover.counts().seconds == Approx(0.030));
}

TEST_CASE("one job runs at a time, and loads go before what else waits", "[sim][levels]") {
    Bench bench(costs());
    REQUIRE(bench.mover.submit(job(1, TierJob::Kind::save, 2)));
    REQUIRE(bench.mover.submit(job(2, TierJob::Kind::save, 2)));
    REQUIRE(bench.mover.submit(job(3, TierJob::Kind::load, 4)));
    CHECK(bench.mover.blocks_loading() == 4);
    bench.run();
    REQUIRE(bench.ended.size() == 3);
    CHECK(bench.ended[0].id == 1);
    CHECK(bench.ended[1].id == 3);
    CHECK(bench.ended[2].id == 2);
    CHECK(bench.ended_at[1] == Approx(0.001 + 0.004));
    CHECK(bench.mover.blocks_loading() == 0);
}

TEST_CASE("no job begins before it was asked for, however late ends are told", "[sim][levels]") {
    Bench bench(costs());
    REQUIRE(bench.mover.submit(job(1, TierJob::Kind::load, 1)));
    bench.clock.set(VirtualClock::at(5));  // nobody was told of its end at 1 ms
    REQUIRE(bench.mover.submit(job(2, TierJob::Kind::load, 1)));
    bench.run();
    CHECK(bench.ended_at.back() == Approx(5.001));
}

TEST_CASE("a level takes as many jobs as it has room for", "[sim][levels]") {
    Bench bench(costs(), 2);
    REQUIRE(bench.mover.submit(job(1, TierJob::Kind::save, 1)));  // runs
    REQUIRE(bench.mover.submit(job(2, TierJob::Kind::save, 1)));
    REQUIRE(bench.mover.submit(job(3, TierJob::Kind::save, 1)));
    CHECK_FALSE(bench.mover.submit(job(4, TierJob::Kind::save, 1)));
    REQUIRE(bench.mover.submit(job(5, TierJob::Kind::load, 1)));  // loads have their own
    REQUIRE(bench.mover.submit(job(6, TierJob::Kind::clear, 0)));
    CHECK_FALSE(bench.mover.submit(job(7, TierJob::Kind::clear, 0)));
    bench.run();
    CHECK(bench.ended.size() == 5);
}

TEST_CASE("a load that nobody waits for any more ends with what has begun", "[sim][levels]") {
    for (const bool gives_up : {true, false}) {
        CAPTURE(gives_up);
        sim::CopyCosts slow = costs();
        slow.gives_up = gives_up;
        Bench bench(slow);
        TierJob load = job(1, TierJob::Kind::load, 10);
        load.until = bench.clock.now() + std::chrono::microseconds(3500);
        REQUIRE(bench.mover.submit(std::move(load)));
        bench.run();
        REQUIRE(bench.ended.size() == 1);
        CHECK(bench.ended[0].blocks_done == (gives_up ? 4 : 10));
        CHECK(bench.ended[0].given_up == gives_up);
        CHECK(bench.ended[0].error.has_value() == gives_up);
        CHECK(bench.ended_at[0] == Approx(gives_up ? 0.004 : 0.010));
        CHECK(bench.mover.counts().blocks_in == (gives_up ? 4 : 10));
        CHECK(bench.mover.counts().given_up == (gives_up ? 1 : 0));
        CHECK(bench.mover.blocks_loading() == 0);
    }
}
