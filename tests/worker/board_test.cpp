#include "worker/board.h"

#include "proto/block_hashes.h"

#include "tests/support/catch.h"

using Wish = worker::ReportBoard::Wish;

namespace {

kv_cache::BlockEvents events(std::uint64_t number, bool snapshot, std::vector<base::BlockHash> stored) {
    return {.number = number, .snapshot = snapshot, .stored = std::move(stored), .removed = {}};
}

}  // namespace

TEST_CASE("a heartbeat takes what waits, once", "[worker]") {
    worker::ReportBoard board;
    sluice::proto::WorkerLoad load;
    load.set_requests_running(3);
    board.set_load(load);
    board.add_step({});
    board.attach();
    board.add_block_events(events(1, false, {{1, 2}, {3, 4}}));
    sluice::proto::Heartbeat first;
    board.take(first);
    REQUIRE(first.load().requests_running() == 3);
    REQUIRE(first.steps_size() == 1);
    REQUIRE(first.blocks(0).stored().size() == 32);
    sluice::proto::Heartbeat second;
    board.take(second);
    REQUIRE(second.load().requests_running() == 3);
    REQUIRE(second.steps_size() == 0);
    REQUIRE(second.blocks_size() == 0);
}

TEST_CASE("samples beyond the bound push the oldest out", "[worker]") {
    worker::ReportBoard board(4);
    for (std::uint32_t i = 0; i < 10; ++i) {
        sluice::proto::StepSample sample;
        sample.set_duration_us(i);
        board.add_step(sample);
    }
    sluice::proto::Heartbeat heartbeat;
    board.take(heartbeat);
    REQUIRE(heartbeat.steps_size() == 4);
    REQUIRE(heartbeat.steps(0).duration_us() == 6);
}

TEST_CASE("block events are wanted while a scheduler listens, beginning with a snapshot", "[worker]") {
    worker::ReportBoard board;
    REQUIRE(board.take_wish() == Wish::nothing);
    board.want_snapshot();  // of nobody
    REQUIRE(board.take_wish() == Wish::nothing);
    board.attach();
    REQUIRE(board.take_wish() == Wish::snapshot);
    REQUIRE(board.take_wish() == Wish::changes);
    board.want_snapshot();
    REQUIRE(board.take_wish() == Wish::snapshot);
    board.detach();
    REQUIRE(board.take_wish() == Wish::nothing);
    board.add_block_events(events(1, false, {{1, 2}}));  // it has gone meanwhile
    sluice::proto::Heartbeat heartbeat;
    board.take(heartbeat);
    REQUIRE(heartbeat.blocks_size() == 0);
}

TEST_CASE("block events beyond the bound wait in the index until those before them are taken", "[worker]") {
    worker::ReportBoard board(4, 2);
    int woken = 0;
    board.set_waker([&woken] { ++woken; });
    board.attach();
    REQUIRE(woken == 1);
    REQUIRE(board.take_wish() == Wish::snapshot);
    board.add_block_events(events(1, true, {{1, 1}}));
    REQUIRE(board.take_wish() == Wish::changes);
    board.add_block_events(events(2, false, {{2, 2}}));
    REQUIRE(board.take_wish() == Wish::later);
    sluice::proto::Heartbeat heartbeat;
    board.take(heartbeat);
    REQUIRE(woken == 2);
    REQUIRE(heartbeat.blocks_size() == 2);
    REQUIRE(board.take_wish() == Wish::changes);
    board.take(heartbeat);
    REQUIRE(woken == 2);  // nothing had to wait
}

TEST_CASE("a snapshot replaces the events that wait before it", "[worker]") {
    worker::ReportBoard board;
    board.attach();
    REQUIRE(board.take_wish() == Wish::snapshot);
    board.add_block_events(events(1, true, {{1, 1}}));
    board.want_snapshot();
    board.add_block_events(events(2, true, {{1, 1}, {2, 2}, {3, 3}}));
    sluice::proto::Heartbeat heartbeat;
    board.take(heartbeat);
    REQUIRE(heartbeat.blocks_size() == 1);
    REQUIRE(heartbeat.blocks(0).snapshot());
    REQUIRE(heartbeat.blocks(0).stored().size() == 48);
}

TEST_CASE("a draining worker says so whatever load is set later", "[worker]") {
    worker::ReportBoard board;
    board.set_draining();
    board.set_load({});
    sluice::proto::Heartbeat heartbeat;
    board.take(heartbeat);
    REQUIRE(heartbeat.load().draining());
}

TEST_CASE("what lies below the pool is told by level, and what loading from there takes", "[worker]") {
    worker::ReportBoard board;
    board.attach();
    static_cast<void>(board.take_wish());
    const std::vector<std::vector<base::BlockHash>> below{{}, {{3, 4}}};
    board.add_block_events(events(1, false, {{1, 2}}), below);
    board.set_load_price(1, 700);
    sluice::proto::Heartbeat heartbeat;
    board.take(heartbeat);
    REQUIRE(heartbeat.blocks_size() == 1);
    REQUIRE(heartbeat.blocks(0).below_size() == 1);
    CHECK(heartbeat.blocks(0).below(0).level() == 2);
    CHECK(heartbeat.blocks(0).below(0).hashes() == proto::write_block_hashes(below[1]));
    REQUIRE(heartbeat.load_ns_per_token_size() == 2);
    CHECK(heartbeat.load_ns_per_token(0) == 0);
    CHECK(heartbeat.load_ns_per_token(1) == 700);
}

TEST_CASE("who listens next is told some samples of each size of step again", "[worker]") {
    worker::ReportBoard board(256);
    board.attach();
    const auto add = [&](std::uint32_t tokens, std::uint32_t sequences, std::uint32_t duration_us) {
        sluice::proto::StepSample sample;
        sample.set_prefill_tokens(tokens);
        sample.set_decode_sequences(sequences);
        sample.set_duration_us(duration_us);
        board.add_step(sample);
    };
    for (std::uint32_t i = 0; i < 50; ++i) {
        add(512, 0, 1000 + i);
        add(0, 4, 2000 + i);
        sluice::proto::Heartbeat heartbeat;
        board.take(heartbeat);
        REQUIRE(heartbeat.steps_size() == 2);
    }
    add(512, 0, 3000);  // not told to anybody yet
    board.detach();
    board.attach();
    sluice::proto::Heartbeat first;
    board.take(first);
    std::uint32_t prefill = 0;
    std::uint32_t decode = 0;
    for (const auto& step : first.steps()) {
        prefill += step.prefill_tokens() == 512;
        decode += step.decode_sequences() == 4;
    }
    REQUIRE(prefill >= 5);
    REQUIRE(decode >= 5);
    REQUIRE(first.steps_size() < 30);                                    // not all there ever were
    REQUIRE(first.steps(first.steps_size() - 1).duration_us() == 3000);  // the newest comes last
    sluice::proto::Heartbeat second;
    board.take(second);
    REQUIRE(second.steps_size() == 0);
}

TEST_CASE("told again, steps come by size, the smallest first, and of each the newest ones in order", "[worker]") {
    worker::ReportBoard board(1024);
    board.attach();
    std::vector<worker::StepFigures> steps;
    for (std::uint32_t i = 0; i < 30; ++i) {
        for (const std::uint32_t sequences : {64u, 1u, 8u}) {
            steps.push_back({.decode_sequences = sequences, .decode_context_tokens = 7 * sequences, .duration_us = i});
        }
    }
    board.add_steps(steps);
    sluice::proto::Heartbeat told;
    board.take(told);
    REQUIRE(told.steps_size() == 90);
    REQUIRE(told.steps(1).decode_sequences() == 1);
    REQUIRE(told.steps(1).decode_context_tokens() == 7);
    board.detach();
    board.attach();
    sluice::proto::Heartbeat again;
    board.take(again);
    REQUIRE(again.steps_size() % 3 == 0);
    const int each = again.steps_size() / 3;
    REQUIRE(each < 30);
    for (int i = 0; i < again.steps_size(); ++i) {
        const std::uint32_t sequences[] = {1, 8, 64};
        CHECK(again.steps(i).decode_sequences() == sequences[i / each]);
        CHECK(again.steps(i).duration_us() == static_cast<std::uint32_t>(30 - each + i % each));
    }
}

TEST_CASE("of more sizes of steps than are remembered, the first ones are told again", "[worker]") {
    worker::ReportBoard board(1024);
    board.attach();
    std::vector<worker::StepFigures> steps;
    for (std::uint32_t tokens = 1; tokens < 1u << 16; tokens *= 2) {
        for (std::uint32_t sequences = 1; sequences < 1u << 8; sequences *= 2) {
            steps.push_back({.prefill_tokens = tokens, .decode_sequences = sequences, .duration_us = 1});
        }
    }
    board.add_steps(steps);
    sluice::proto::Heartbeat told;
    board.take(told);
    REQUIRE(told.steps_size() == 128);
    board.attach();
    sluice::proto::Heartbeat again;
    board.take(again);
    REQUIRE(again.steps_size() == 24);
    CHECK(again.steps(0).prefill_tokens() == 1);
    CHECK(again.steps(23).prefill_tokens() == 4);
}
