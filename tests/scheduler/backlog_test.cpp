#include "scheduler/backlog.h"

#include "tests/support/catch.h"

using scheduler::Backlog;
using scheduler::ExpectedLoad;
using scheduler::ReportedLoad;
using namespace std::chrono_literals;

TEST_CASE("what was placed is expected from then on, and counted once when a report shows it", "[scheduler][backlog]") {
    base::FakeClock clock;
    Backlog backlog;
    backlog.placed(1, 0, 0, 400, 500, clock.now());
    REQUIRE(backlog.expect(0, clock.now()).prompts == 1);
    REQUIRE(backlog.expect(0, clock.now()).prompt_tokens == 400);
    REQUIRE(backlog.expect(0, clock.now()).coming == 1);
    SECTION("a report that left before it came") {
        backlog.reported(0, {}, clock.now());
        REQUIRE(backlog.expect(0, clock.now()).prompt_tokens == 400);
    }
    SECTION("one that has it, and some of it computed") {
        backlog.reported(0, {.requests_running = 1, .prefill_tokens_queued = 250}, clock.now());
        REQUIRE(backlog.expect(0, clock.now()).prompt_tokens == 250);
        REQUIRE(backlog.expect(0, clock.now()).first_tokens == 250);
        clock.advance(50ms);
        REQUIRE(backlog.expect(0, clock.now()).first_since_seconds == Approx(0.05));
        SECTION("what comes behind it waits whole") {
            backlog.placed(2, 0, 0, 100, 100, clock.now());
            REQUIRE(backlog.expect(0, clock.now()).prompt_tokens == 350);
            REQUIRE(backlog.expect(0, clock.now()).first_tokens == 250);
        }
    }
    SECTION("it decodes as soon as its first token is told") {
        backlog.first_token(1, clock.now());
        const ExpectedLoad load = backlog.expect(0, clock.now());
        REQUIRE(load.prompts == 0);
        REQUIRE(load.prompt_tokens == 0);
        REQUIRE(load.decoding == 1);
        REQUIRE(load.decode_context == 500);
        REQUIRE(load.coming == 0);
        backlog.ended(1, clock.now());
        REQUIRE(backlog.expect(0, clock.now()).decoding == 0);
    }
    SECTION("or is withdrawn before") {
        backlog.ended(1, clock.now());
        REQUIRE(backlog.expect(0, clock.now()).prompts == 0);
        REQUIRE(backlog.expect(0, clock.now()).coming == 0);
    }
}

TEST_CASE("a worker that nobody has asked anything is idle from its first report on", "[scheduler][backlog]") {
    base::FakeClock clock;
    clock.advance(100s);
    Backlog backlog;
    REQUIRE(backlog.expect(0, clock.now()).idle_seconds == 0);
    backlog.reported(0, {}, clock.now());
    REQUIRE(backlog.expect(0, clock.now()).idle_seconds == 0);
    clock.advance(3s);
    backlog.reported(0, {}, clock.now());
    REQUIRE(backlog.expect(0, clock.now()).idle_seconds == Approx(3));
    backlog.clear(0);
    REQUIRE(backlog.expect(0, clock.now()).idle_seconds == 0);
}

TEST_CASE("since when nothing has joined others on a worker, with longer pauses between probes in vain",
          "[scheduler][backlog]") {
    base::FakeClock clock;
    clock.advance(100s);
    Backlog backlog;
    const auto unjoined = [&] { return backlog.expect(0, clock.now()).unjoined_seconds; };
    REQUIRE(unjoined() == 0);
    backlog.reported(0, {}, clock.now());
    clock.advance(3s);
    backlog.reported(0, {}, clock.now());
    REQUIRE(unjoined() == Approx(3));
    const auto place = [&](Backlog::Number number, bool is_probe) {
        backlog.placed(number, 0, 0, 100, 100, clock.now(), {.tpot_seconds = 0.02, .is_probe = is_probe});
    };
    place(1, false);  // alone
    REQUIRE(unjoined() == Approx(3));
    place(2, true);
    clock.advance(4s);
    REQUIRE(unjoined() == Approx(2));
    place(3, true);
    clock.advance(4s);
    REQUIRE(unjoined() == Approx(1));
    for (Backlog::Number number = 4; number < 20; ++number) {
        place(number, true);
    }
    clock.advance(16s);
    REQUIRE(unjoined() == Approx(1));  // no longer than that
    place(20, false);
    clock.advance(4s);
    REQUIRE(unjoined() == Approx(4));
    backlog.clear(0);
    REQUIRE(unjoined() == 0);
}

TEST_CASE("a worker is idle from the end of the last thing that it had to do", "[scheduler][backlog]") {
    base::FakeClock clock;
    Backlog backlog;
    const auto idle = [&](std::uint32_t slot) { return backlog.expect(slot, clock.now()).idle_seconds; };
    backlog.placed(1, 0, 1, 400, 500, clock.now());
    clock.advance(10s);
    REQUIRE(idle(0) == 0);
    REQUIRE(idle(1) == 0);
    backlog.first_token(1, clock.now());
    clock.advance(1s);
    REQUIRE(idle(0) == Approx(1));  // it decodes at the other
    REQUIRE(idle(1) == 0);
    backlog.ended(1, clock.now());
    clock.advance(2s);
    REQUIRE(idle(0) == Approx(3));
    REQUIRE(idle(1) == Approx(2));
    SECTION("reports of what others placed count, too") {
        backlog.reported(1, {.requests_running = 1, .decode_sequences = 1}, clock.now());
        REQUIRE(idle(1) == 0);
        backlog.reported(1, {}, clock.now());
        clock.advance(500ms);
        REQUIRE(idle(1) == Approx(0.5));
    }
    SECTION("an empty report changes nothing") {
        backlog.reported(1, {}, clock.now());
        REQUIRE(idle(1) == Approx(2));
    }
}

TEST_CASE("a prompt whose first token should be there by now is late", "[scheduler][backlog]") {
    base::FakeClock clock;
    Backlog backlog;
    backlog.placed(1, 0, 0, 400, 500, clock.now(), {.ttft_seconds_left = 1});
    backlog.placed(2, 0, 0, 300, 300, clock.now(), {.ttft_seconds_left = 2});
    backlog.placed(3, 0, 0, 200, 200, clock.now());  // was promised nothing
    const auto late = [&] { return backlog.expect(0, clock.now()).late; };
    clock.advance(900ms);
    REQUIRE(late().prompts == 0);
    clock.advance(200ms);
    REQUIRE(late().prompts == 1);
    REQUIRE(late().tokens == 400);
    REQUIRE(late().next_tokens == 300);
    REQUIRE(backlog.expect(0, clock.now()).prompts == 3);  // it has to be computed all the same
    REQUIRE(backlog.expect(0, clock.now()).prompt_tokens == 900);
    SECTION("one after the other") {
        clock.advance(1s);
        REQUIRE(late().prompts == 2);
        REQUIRE(late().tokens == 700);
        REQUIRE(late().next_tokens == 200);
        backlog.first_token(3, clock.now());
        REQUIRE(late().next_tokens == 0);
        backlog.first_token(1, clock.now());
        REQUIRE(late().prompts == 1);
        backlog.first_token(2, clock.now());
        REQUIRE(late().prompts == 0);
    }
    SECTION("until it is withdrawn") {
        backlog.ended(1, clock.now());
        REQUIRE(late().prompts == 0);
        REQUIRE(backlog.expect(0, clock.now()).prompts == 2);
    }
}

TEST_CASE("a split request waits at one worker and will decode at the other", "[scheduler][backlog]") {
    const base::FakeClock clock;
    Backlog backlog;
    backlog.placed(1, 0, 1, 80, 100, clock.now());
    REQUIRE(backlog.expect(0, clock.now()).prompt_tokens == 80);
    REQUIRE(backlog.expect(1, clock.now()).prompt_tokens == 0);
    REQUIRE(backlog.expect(1, clock.now()).coming == 1);
    backlog.first_token(1, clock.now());
    REQUIRE(backlog.expect(0, clock.now()).decoding == 0);
    REQUIRE(backlog.expect(1, clock.now()).decoding == 1);
}

TEST_CASE("a new scheduler goes by what is reported", "[scheduler][backlog]") {
    const base::FakeClock clock;
    Backlog backlog;
    backlog.reported(0,
                     {.requests_waiting = 3,
                      .requests_running = 2,
                      .prefill_tokens_queued = 900,
                      .decode_sequences = 2,
                      .decode_context_tokens = 700},
                     clock.now());
    ExpectedLoad load = backlog.expect(0, clock.now());
    REQUIRE(load.prompts == 3);
    REQUIRE(load.prompt_tokens == 900);
    REQUIRE(load.decoding == 2);
    backlog.placed(1, 0, 0, 100, 100, clock.now());
    load = backlog.expect(0, clock.now());
    REQUIRE(load.prompts == 4);
    REQUIRE(load.prompt_tokens == 1000);
}

TEST_CASE("nothing of a life that has ended is expected of the next", "[scheduler][backlog]") {
    const base::FakeClock clock;
    Backlog backlog;
    backlog.placed(1, 0, 0, 100, 100, clock.now());
    backlog.placed(2, 0, 0, 100, 100, clock.now());
    backlog.first_token(2, clock.now());
    backlog.clear(0);
    backlog.first_token(1, clock.now());
    backlog.ended(2, clock.now());
    const ExpectedLoad load = backlog.expect(0, clock.now());
    REQUIRE(load.prompts == 0);
    REQUIRE(load.decoding == 0);
    REQUIRE(load.coming == 0);
}

TEST_CASE("how long answers go on is learned from those that ended", "[scheduler][backlog]") {
    base::FakeClock clock;
    Backlog backlog;
    REQUIRE_FALSE(backlog.residual_seconds().has_value());
    for (std::uint64_t i = 0; i < 20; ++i) {
        backlog.placed(i, 0, 0, 10, 10, clock.now());
        backlog.first_token(i, clock.now());
        clock.advance(2s);
        backlog.ended(i, clock.now());
    }
    // Of answers that all take 2 s, one seen at some instant has 1 s left.
    REQUIRE(*backlog.residual_seconds() == Approx(1));
}

TEST_CASE("who waits for KV whose prompt is computed counts as decoding there", "[scheduler][backlog]") {
    base::FakeClock clock;
    Backlog backlog;
    backlog.placed(1, 0, 1, 400, 400, clock.now());
    backlog.placed(2, 0, 1, 600, 600, clock.now());
    backlog.first_token(1, clock.now());
    backlog.first_token(2, clock.now());
    REQUIRE(backlog.expect(1, clock.now()).decoding == 2);
    // Neither is decoding yet: both are on the way.
    backlog.reported(1, {.requests_waiting = 2, .kv_awaited = 2}, clock.now());
    REQUIRE(backlog.expect(1, clock.now()).decoding == 2);
    REQUIRE(backlog.expect(1, clock.now()).decode_context == 1000);
    backlog.reported(1,
                     {.requests_waiting = 1,
                      .requests_running = 1,
                      .decode_sequences = 1,
                      .decode_context_tokens = 410,
                      .kv_awaited = 1},
                     clock.now());
    REQUIRE(backlog.expect(1, clock.now()).decoding == 2);
    REQUIRE(backlog.expect(1, clock.now()).decode_context == 820);  // the other's length is not known
    backlog.reported(1, {.requests_running = 1, .decode_sequences = 1, .decode_context_tokens = 420}, clock.now());
    REQUIRE(backlog.expect(1, clock.now()).decoding == 1);
}
