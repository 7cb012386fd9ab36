#include "scheduler/place.h"

#include <limits>
#include <string>
#include <vector>

#include "tests/scheduler/builders.h"
#include "tests/scheduler/place_cluster.h"
#include "tests/support/catch.h"

namespace {

using scheduler::Role;
using scheduler::WorkerStatus;
using scheduler::WorkerView;
using scheduler_test::Cluster;
using scheduler_test::expect_what_is_told;
using scheduler_test::make_worker;

}  // namespace

TEST_CASE("one prefill and one decode worker serve together", "[scheduler][place]") {
    const Cluster cluster{
        {make_worker({.id = 1, .role = Role::prefill}), make_worker({.id = 2, .role = Role::decode})}};
    const auto placement = cluster.placed();
    REQUIRE(cluster.prefill_id(placement) == 1);
    REQUIRE(cluster.decode_id(placement) == 2);
    REQUIRE(placement.path() == "disaggregated");
    REQUIRE(placement.reason == "cheapest");
    // 1 step + 100 tokens + their context; 11 ms a token and the prompt's context; 100 000 bytes at 100 MB/s.
    REQUIRE(placement.ttft_seconds == Approx(0.001 + 0.1 + 1e-9 * 100 * 99 / 2));
    REQUIRE(placement.tpot_seconds == Approx(0.011 + 1e-7 * 100));
    REQUIRE(placement.handoff_seconds == Approx(0.001 + 0.001));
    REQUIRE(placement.cached_prompt_tokens == 0);
}

TEST_CASE("the prefill worker is the one with the least predicted TTFT", "[scheduler][place]") {
    Cluster cluster{{make_worker({.id = 1, .role = Role::prefill, .requests_waiting = 1, .prefill_tokens_queued = 300}),
                     make_worker({.id = 2, .role = Role::prefill}), make_worker({.id = 3, .role = Role::decode})}};
    SECTION("the shorter queue") {
        REQUIRE(cluster.prefill_id(cluster.placed()) == 2);
    }
    SECTION("a slower machine loses against a short queue") {
        cluster.workers[1] = make_worker({.id = 2, .role = Role::prefill, .speed = 10});
        REQUIRE(cluster.prefill_id(cluster.placed()) == 1);
    }
    SECTION("what was just sent there counts like a queue") {
        cluster.workers[1].pending = {.prefill_requests = 1, .prefill_tokens = 400};
        expect_what_is_told(cluster.workers[1]);
        REQUIRE(cluster.prefill_id(cluster.placed()) == 1);
    }
    SECTION("a cached prefix outweighs a queue that is shorter than it") {
        cluster.cached_blocks = {60, 0, 0};
        const auto placement = cluster.placed(1000);
        REQUIRE(cluster.prefill_id(placement) == 1);
        REQUIRE(placement.cached_prompt_tokens == 960);
        REQUIRE(placement.queue_seconds == Approx(0.301).margin(0.001));
        REQUIRE(placement.ttft_seconds == Approx(0.341).margin(0.001));
    }
    SECTION("and not one that is longer") {
        cluster.cached_blocks = {6, 0, 0};
        REQUIRE(cluster.prefill_id(cluster.placed(1000)) == 2);
    }
}

TEST_CASE("a prefix hit leaves at least the last token to compute", "[scheduler][place]") {
    Cluster cluster{{make_worker({.id = 1})}, {}, {100}};
    REQUIRE(cluster.placed(160).cached_prompt_tokens == 144);
    REQUIRE(cluster.placed(161).cached_prompt_tokens == 160);
    REQUIRE(cluster.placed(1).cached_prompt_tokens == 0);
}

TEST_CASE("who holds enough more of the prompt than the prefill worker is named as the source of its KV",
          "[scheduler][place]") {
    Cluster cluster{{make_worker({.id = 1, .role = Role::prefill}), make_worker({.id = 2, .role = Role::decode}),
                     make_worker({.id = 3, .role = Role::decode, .decode_sequences = 20})},
                    {.fetch_tokens_min = 64},
                    {10, 5, 14}};
    SECTION("the one with most") {
        const auto placement = cluster.placed(1000);
        REQUIRE(placement.cached_prompt_tokens == 160);
        REQUIRE(placement.kv_source == 2u);
        REQUIRE(placement.kv_source_tokens == 14 * 16);
    }
    SECTION("of equal ones the lower id") {
        cluster.cached_blocks = {0, 20, 20};
        REQUIRE(cluster.placed(1000).kv_source == 1u);
    }
    SECTION("as far as the prompt goes") {
        cluster.cached_blocks = {0, 100, 0};
        REQUIRE(cluster.placed(161).kv_source_tokens == 160);
    }
    SECTION("also who drains") {
        cluster.workers[2].status = WorkerStatus::draining;
        REQUIRE(cluster.placed(1000).kv_source == 2u);
    }
}

TEST_CASE("nobody is named as a source who cannot help", "[scheduler][place]") {
    Cluster cluster{{make_worker({.id = 1, .role = Role::prefill}),
                     make_worker({.id = 2, .role = Role::decode, .decode_sequences = 20}),
                     make_worker({.id = 3, .role = Role::decode})},
                    {.fetch_tokens_min = 64},
                    {10, 14, 0}};
    REQUIRE(cluster.placed(1000).kv_source == 1u);
    SECTION("not for less than the least") {
        cluster.cached_blocks = {10, 13, 0};
    }
    SECTION("not where it is off") {
        cluster.rules.fetch_tokens_min = 0;
    }
    SECTION("not a worker of another minor version that cannot") {
        cluster.workers[1].limits.lends_kv = false;
    }
    SECTION("not one that is silent") {
        cluster.workers[1].status = WorkerStatus::suspect;
    }
    SECTION("not one that has just failed it") {
        cluster.avoid = {cluster.workers[1].incarnation};
    }
    SECTION("not one of other numerics") {
        cluster.rules.allow_mixed_numerics = true;
        cluster.workers[1].numerics_id = 8;
    }
    REQUIRE_FALSE(cluster.placed(1000).kv_source);
}

TEST_CASE("the decode worker has room and the best TPOT", "[scheduler][place]") {
    Cluster cluster{{make_worker({.id = 1, .role = Role::prefill}),
                     make_worker({.id = 2, .role = Role::decode, .decode_sequences = 10}),
                     make_worker({.id = 3, .role = Role::decode, .decode_sequences = 2})}};
    SECTION("fewer sequences") {
        REQUIRE(cluster.decode_id(cluster.placed()) == 3);
    }
    SECTION("no blocks for prompt and answer: the slower one with room") {
        cluster.workers[2].load.blocks_room = 7;  // 8 are needed for 120 tokens
        REQUIRE(cluster.decode_id(cluster.placed()) == 2);
        cluster.workers[2].load.blocks_room = 8;
        REQUIRE(cluster.decode_id(cluster.placed()) == 3);
        cluster.workers[2].pending.decode_blocks = 1;  // promised to another request
        REQUIRE(cluster.decode_id(cluster.placed()) == 2);
    }
    SECTION("no place in the batch") {
        cluster.workers[2].limits.batch_sequences_max = 2;
        REQUIRE(cluster.decode_id(cluster.placed()) == 2);
    }
    SECTION("none has room: the one where it is soonest") {
        cluster.workers[1].load.blocks_room = 0;
        cluster.workers[1].load.blocks_used = 1000;
        cluster.workers[2].load.blocks_room = 0;
        cluster.workers[2].load.blocks_used = 10;
        REQUIRE(cluster.decode_id(cluster.placed()) == 2);
    }
    SECTION("hand-offs that it waits for share its link, but for those that are over when the prompt is computed") {
        const double each = cluster.placed().ttft_seconds / 2.5;
        for (auto& worker : cluster.workers) {
            worker.costs.transfer = {each, 0, each / (100 * 1000)};  // of its bytes
        }
        REQUIRE(cluster.decode_id(cluster.placed()) == 3);
        REQUIRE(cluster.placed().handoff_seconds == Approx(each));
        cluster.workers[2].load.kv_awaited = 2;
        REQUIRE(cluster.decode_id(cluster.placed()) == 3);
        REQUIRE(cluster.placed().handoff_seconds == Approx(each));
        cluster.workers[2].load.kv_awaited = 40;
        REQUIRE(cluster.decode_id(cluster.placed()) == 2);
        cluster.workers[1].load.kv_awaited = 40;
        REQUIRE(cluster.decode_id(cluster.placed()) == 3);
        REQUIRE(cluster.placed().handoff_seconds == Approx(each * (1 + 40 - 2.5)));
    }
    SECTION("KV that decode holds already need not travel") {
        cluster.workers[2] = make_worker({.id = 3, .role = Role::decode, .decode_sequences = 10});
        cluster.cached_blocks = {0, 0, 6};
        const auto placement = cluster.placed();
        REQUIRE(cluster.decode_id(placement) == 3);
        REQUIRE(placement.handoff_seconds == Approx(0.001 + 4 * 1000 * 1e-8));
    }
}

TEST_CASE("equal workers are taken in the order of their ids", "[scheduler][place]") {
    const Cluster cluster{{make_worker({.id = 9, .role = Role::prefill}), make_worker({.id = 4, .role = Role::decode}),
                           make_worker({.id = 2, .role = Role::prefill}),
                           make_worker({.id = 3, .role = Role::decode})}};
    const auto placement = cluster.placed();
    REQUIRE(cluster.prefill_id(placement) == 2);
    REQUIRE(cluster.decode_id(placement) == 3);
    const Cluster mixed{{make_worker({.id = 9}), make_worker({.id = 5})}};
    REQUIRE(mixed.prefill_id(mixed.placed()) == 5);
}

TEST_CASE("mixed workers serve alone", "[scheduler][place]") {
    Cluster cluster{{make_worker({.id = 1, .decode_sequences = 8}),
                     make_worker({.id = 2, .requests_waiting = 1, .prefill_tokens_queued = 100})}};
    SECTION("both phases land on one worker, although two could share them") {
        const auto placement = cluster.placed();
        REQUIRE(placement.local());
        REQUIRE(placement.path() == "local");
        REQUIRE(placement.handoff_seconds == 0);
    }
    SECTION("what its prefill costs the sequences that decode there counts") {
        // TTFT alone would choose worker 1: no queue. Its eight sequences would wait for 0.5 s each.
        REQUIRE(cluster.prefill_id(cluster.placed(500)) == 2);
    }
    SECTION("a mixed worker may prefill for a decode worker") {
        cluster.workers.push_back(make_worker({.id = 3, .role = Role::decode}));
        for (WorkerView& worker : cluster.workers) {
            if (worker.role == Role::mixed) { worker.load.decode_sequences = 30; }
        }
        const auto placement = cluster.placed();
        REQUIRE(placement.path() == "disaggregated");
        REQUIRE(cluster.decode_id(placement) == 3);
    }
    SECTION("a mixed worker may take over from a prefill worker") {
        cluster.workers.push_back(make_worker({.id = 3, .role = Role::prefill}));
        cluster.workers[0].load.requests_waiting = 1;
        cluster.workers[0].load.prefill_tokens_queued = 2000;
        cluster.workers[1].load.prefill_tokens_queued = 2000;
        cluster.workers[1].costs.prefill = {0.01, 0.01, 0};
        const auto placement = cluster.placed(500);
        REQUIRE(cluster.prefill_id(placement) == 3);
        REQUIRE(placement.path() == "disaggregated");
    }
}

TEST_CASE("a decode worker prefills itself where that is allowed and cheaper", "[scheduler][place]") {
    Cluster cluster{{make_worker({.id = 1, .role = Role::prefill}), make_worker({.id = 2, .role = Role::decode})}};
    SECTION("off by default") {
        REQUIRE_FALSE(cluster.placed(10).local());
    }
    cluster.rules.local_prefill_by_prediction = true;
    SECTION("not by guesses") {
        REQUIRE_FALSE(cluster.placed(50).local());
    }
    cluster.workers[1].costs.prefill_learned = true;
    SECTION("idle ones save the hand-off") {
        const auto placement = cluster.placed(50);
        REQUIRE(placement.local());
        REQUIRE(cluster.decode_id(placement) == 2);
        REQUIRE(placement.handoff_seconds == 0);
    }
    SECTION("not when that would hold up many sequences") {
        cluster.workers[1].load.decode_sequences = 20;
        expect_what_is_told(cluster.workers[1]);
        REQUIRE_FALSE(cluster.placed(50).local());
        cluster.cached_blocks = {0, 3};  // but for 2 tokens that are left to compute
        REQUIRE(cluster.placed(50).local());
    }
    SECTION("not where that would break what was promised to those who decode there") {
        // Slow enough a prefill worker that one sequence beside it would not matter.
        cluster.workers[0] = make_worker({.id = 1, .role = Role::prefill, .speed = 3});
        cluster.workers[1].load.decode_sequences = 1;
        expect_what_is_told(cluster.workers[1]);
        REQUIRE(cluster.placed(300).local());
        // A step with its sequence takes 2 ms before any prompt token, so 3 ms leave room for hardly one.
        cluster.workers[1].expected.tpot_seconds_strictest = 0.003;
        REQUIRE_FALSE(cluster.placed(300).local());
    }
}

TEST_CASE("without a worker for prefill decode workers do both phases", "[scheduler][place]") {
    Cluster cluster{{make_worker({.id = 2, .role = Role::decode, .decode_sequences = 4}),
                     make_worker({.id = 3, .role = Role::decode})}};
    SECTION("none") {
        const auto placement = cluster.placed();
        REQUIRE(placement.local());
        REQUIRE(cluster.decode_id(placement) == 3);
        REQUIRE(placement.reason == "no_prefill_worker");
    }
    SECTION("only a draining one") {
        cluster.workers.push_back(make_worker({.id = 1, .role = Role::prefill, .status = WorkerStatus::draining}));
        REQUIRE(cluster.placed().local());
    }
}

TEST_CASE("draining workers get nothing, suspect ones only when there is no other", "[scheduler][place]") {
    Cluster cluster{
        {make_worker({.id = 1, .role = Role::prefill, .status = WorkerStatus::suspect}),
         make_worker({.id = 2, .role = Role::prefill, .requests_waiting = 4, .prefill_tokens_queued = 4000}),
         make_worker({.id = 3, .role = Role::decode})}};
    SECTION("suspect, but there is another") {
        REQUIRE(cluster.prefill_id(cluster.placed()) == 2);
    }
    SECTION("the other is full: that is no reason either") {
        cluster.workers[1].load.requests_waiting = 8;
        REQUIRE(cluster.refused().error.code == base::ErrorCode::resource_exhausted);
    }
    SECTION("the other drains") {
        cluster.workers[1].status = WorkerStatus::draining;
        const auto placement = cluster.placed();
        REQUIRE(cluster.prefill_id(placement) == 1);
        REQUIRE(placement.reason == "last_resort");
    }
    SECTION("all drain") {
        for (WorkerView& worker : cluster.workers) {
            worker.status = WorkerStatus::draining;
        }
        const auto refusal = cluster.refused();
        REQUIRE(refusal.error.code == base::ErrorCode::unavailable);
        REQUIRE(refusal.retry_after_ms > 0);
    }
}

TEST_CASE("workers that just failed the request are avoided unless nothing else is left", "[scheduler][place]") {
    Cluster cluster{{make_worker({.id = 1, .role = Role::prefill}),
                     make_worker({.id = 2, .role = Role::prefill, .requests_waiting = 1, .prefill_tokens_queued = 900}),
                     make_worker({.id = 3, .role = Role::decode})}};
    cluster.avoid = {base::Incarnation{1001}, base::Incarnation{1003}};
    const auto placement = cluster.placed();
    REQUIRE(cluster.prefill_id(placement) == 2);
    REQUIRE(cluster.decode_id(placement) == 3);
    REQUIRE(placement.reason == "last_resort");
    cluster.workers[1].status = WorkerStatus::suspect;
    REQUIRE(cluster.prefill_id(cluster.placed()) == 2);
}

TEST_CASE("what can never fit is refused with the numbers", "[scheduler][place]") {
    Cluster cluster{{make_worker({.id = 1, .role = Role::prefill, .context_tokens = 4096}),
                     make_worker({.id = 2, .role = Role::decode, .context_tokens = 2048})}};
    const auto refusal = cluster.refused(2000, 49);
    REQUIRE(refusal.error.code == base::ErrorCode::invalid_argument);
    REQUIRE(refusal.retry_after_ms == 0);
    for (const char* number : {"2000", "49", "2048"}) {
        CAPTURE(number, refusal.error.message);
        REQUIRE(refusal.error.message.find(number) != std::string::npos);
    }
    REQUIRE(std::holds_alternative<scheduler::Placement>(cluster.place(2000, 48)));
    SECTION("the KV pool counts as well as the context") {
        cluster.workers[1].limits.kv_blocks_total = 100;
        REQUIRE(cluster.refused(1600, 1).error.code == base::ErrorCode::invalid_argument);
    }
    SECTION("prefill must hold the prompt") {
        cluster.workers[0].limits.context_tokens = 1000;
        REQUIRE(cluster.refused(1001, 1).error.code == base::ErrorCode::invalid_argument);
    }
    SECTION("a draining worker may come back") {
        cluster.workers[1].status = WorkerStatus::draining;
        cluster.workers.push_back(make_worker({.id = 3, .role = Role::decode, .context_tokens = 1000}));
        REQUIRE(cluster.refused(2000, 48).error.code == base::ErrorCode::unavailable);
    }
    SECTION("an empty prompt") {
        REQUIRE(cluster.refused(0).error.code == base::ErrorCode::invalid_argument);
    }
}

TEST_CASE("full queues are refused with a time to come back from the prediction", "[scheduler][place]") {
    Cluster cluster{
        {make_worker({.id = 1, .role = Role::prefill, .requests_waiting = 8, .prefill_tokens_queued = 12'000}),
         make_worker({.id = 2, .role = Role::prefill, .requests_waiting = 8, .prefill_tokens_queued = 7'000}),
         make_worker({.id = 3, .role = Role::decode})}};
    SECTION("prefill: the queue that is worked off first") {
        const auto refusal = cluster.refused();
        REQUIRE(refusal.error.code == base::ErrorCode::resource_exhausted);
        REQUIRE(refusal.reason == "queues_full");
        REQUIRE(refusal.retry_after_ms == Approx(7'017).margin(5));
    }
    SECTION("at least one second, at most a minute") {
        cluster.workers[1].load.prefill_tokens_queued = 1;
        expect_what_is_told(cluster.workers[1]);
        REQUIRE(cluster.refused().retry_after_ms == 1'000);
        cluster.workers[0].load.prefill_tokens_queued = 1'000'000;
        cluster.workers[1].load.prefill_tokens_queued = 1'000'000'000'000;
        expect_what_is_told(cluster.workers[0]);
        expect_what_is_told(cluster.workers[1]);
        REQUIRE(cluster.refused().retry_after_ms == 60'000);
    }
    SECTION("pending requests fill a queue like reported ones") {
        cluster.workers[1].load.requests_waiting = 5;
        cluster.workers[1].pending.prefill_requests = 2;
        REQUIRE(cluster.prefill_id(cluster.placed()) == 2);
        cluster.workers[1].pending.prefill_requests = 3;
        REQUIRE(cluster.refused().error.code == base::ErrorCode::resource_exhausted);
    }
    SECTION("what runs takes a place as well: workers refuse what they cannot hold") {
        cluster.workers[1].load.requests_waiting = 3;
        cluster.workers[1].load.requests_running = 4;
        REQUIRE(cluster.prefill_id(cluster.placed()) == 2);
        cluster.workers[1].load.requests_running = 5;
        REQUIRE(cluster.refused().error.code == base::ErrorCode::resource_exhausted);
    }
    SECTION("decode that runs as many as it may hold") {
        cluster.workers[0].load.requests_waiting = 0;
        cluster.workers[2].load.requests_running = 8;
        REQUIRE(cluster.refused().error.code == base::ErrorCode::resource_exhausted);
    }
    SECTION("decode") {
        cluster.workers[0].load.requests_waiting = 0;
        cluster.workers[2].pending.decode_sequences = 8;
        const auto refusal = cluster.refused();
        REQUIRE(refusal.error.code == base::ErrorCode::resource_exhausted);
        REQUIRE(refusal.retry_after_ms >= 1'000);
        REQUIRE(refusal.retry_after_ms <= 60'000);
    }
    SECTION("mixed workers of which each lacks one queue") {
        cluster.workers = {make_worker({.id = 1, .pending = {.prefill_requests = 8}}),
                           make_worker({.id = 2, .pending = {.decode_sequences = 8}})};
        REQUIRE(cluster.refused().error.code == base::ErrorCode::resource_exhausted);
    }
}

TEST_CASE("without workers there is no place", "[scheduler][place]") {
    Cluster cluster;
    REQUIRE(cluster.refused().error.code == base::ErrorCode::unavailable);
    cluster.workers = {make_worker({.id = 1, .role = Role::prefill}),
                       make_worker({.id = 2, .status = WorkerStatus::gone})};
    const auto refusal = cluster.refused();
    REQUIRE(refusal.error.code == base::ErrorCode::unavailable);
    REQUIRE(refusal.reason == "no_worker");
    REQUIRE(refusal.error.message.find("none for decode") != std::string::npos);
}

TEST_CASE("a request stays within one numerics_id", "[scheduler][place]") {
    Cluster cluster{{make_worker({.id = 1, .role = Role::prefill, .numerics_id = 7}),
                     make_worker({.id = 2, .role = Role::decode, .numerics_id = 7, .decode_sequences = 20}),
                     make_worker({.id = 3, .role = Role::decode, .numerics_id = 8})}};
    SECTION("that of the pool that can serve") {
        REQUIRE(scheduler::pool_numerics(cluster.workers) == 7u);
        REQUIRE(cluster.decode_id(cluster.placed()) == 2);
    }
    SECTION("unless mixing is allowed") {
        cluster.rules.allow_mixed_numerics = true;
        REQUIRE(cluster.decode_id(cluster.placed()) == 3);
    }
    SECTION("a stream goes on with the id it began with") {
        const auto placement = cluster.placed(100, 20, 8);
        REQUIRE(cluster.decode_id(placement) == 3);
        REQUIRE(placement.local());
        REQUIRE(std::get<scheduler::Refusal>(cluster.place(100, 20, 9)).error.code == base::ErrorCode::unavailable);
    }
    SECTION("more workers win, then the earlier registration") {
        cluster.workers = {make_worker({.id = 2, .numerics_id = 8}), make_worker({.id = 1, .numerics_id = 7})};
        REQUIRE(scheduler::pool_numerics(cluster.workers) == 7u);
        cluster.workers.push_back(make_worker({.id = 3, .numerics_id = 8}));
        REQUIRE(scheduler::pool_numerics(cluster.workers) == 8u);
        cluster.workers[2].status = WorkerStatus::draining;
        REQUIRE(scheduler::pool_numerics(cluster.workers) == 7u);
    }
}

TEST_CASE("KV below a worker's pool counts at what loading it takes", "[scheduler][place]") {
    // A millisecond a token: 1,600 of 1,616 tokens are worth 1.6 s.
    Cluster cluster{{make_worker({.id = 1}), make_worker({.id = 2})}};
    constexpr std::uint32_t kPrompt = 1616;
    SECTION("quick: its worker is the one, and says when") {
        cluster.cached_blocks = {0, 100};
        cluster.below_pool = {{}, {.blocks = 100, .seconds = 0.2}};
        const auto placement = cluster.placed(kPrompt);
        CHECK(cluster.prefill_id(placement) == 2);
        CHECK(placement.ttft_seconds == Approx(0.2 + 0.001 + 0.016).margin(0.001));
        CHECK(placement.cached_prompt_tokens == 1600);
    }
    SECTION("a shorter prefix in a pool may be sooner") {
        cluster.cached_blocks = {60, 100};
        cluster.below_pool = {{}, {.blocks = 100, .seconds = 1}};
        CHECK(cluster.prefill_id(cluster.placed(kPrompt)) == 1);
        cluster.below_pool[1].seconds = 0.3;
        CHECK(cluster.prefill_id(cluster.placed(kPrompt)) == 2);
    }
    SECTION("slower than computing: as if it were not there") {
        cluster.cached_blocks = {0, 100};
        cluster.below_pool = {{}, {.blocks = 90, .seconds = 60}};
        const auto placement = cluster.placed(kPrompt);
        CHECK(cluster.prefill_id(placement) == 2);  // its pool has ten
        CHECK(placement.ttft_seconds == Approx(1.616 - 0.16).margin(0.01));
    }
    SECTION("loading goes on while others are computed") {
        cluster.workers = {make_worker({.id = 1, .requests_waiting = 1, .prefill_tokens_queued = 500})};
        cluster.cached_blocks = {100};
        const double before = cluster.placed(kPrompt).ttft_seconds;
        cluster.below_pool = {{.blocks = 100, .seconds = 0.4}};
        CHECK(cluster.placed(kPrompt).ttft_seconds == Approx(before));
        cluster.below_pool = {{.blocks = 100, .seconds = 0.8}};
        CHECK(cluster.placed(kPrompt).ttft_seconds == Approx(before + 0.3).margin(0.01));
    }
}

TEST_CASE("a hand-off brings what lies below the pool of its decode worker", "[scheduler][place]") {
    Cluster cluster{{make_worker({.id = 1, .role = Role::prefill}), make_worker({.id = 2, .role = Role::decode})}};
    cluster.cached_blocks = {0, 5};
    cluster.below_pool = {{}, {}};
    CHECK(cluster.placed(101).handoff_seconds == Approx(0.001 + 21e-5));
    cluster.below_pool = {{}, {.blocks = 5, .seconds = 0.001}};
    CHECK(cluster.placed(101).handoff_seconds == Approx(0.001 + 101e-5));
}
