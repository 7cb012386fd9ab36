// Why a target was missed: the pure part, over timelines that are written down.
#include <chrono>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "gateway/explain/stage_times.h"
#include "gateway/explain/timeline.h"

#include "tests/support/catch.h"

namespace {

using namespace std::chrono_literals;
using gateway::Attempt;
using gateway::Cause;
using gateway::Explanation;
using gateway::Outcome;
using gateway::SequenceTimeline;

constexpr base::TimePoint kBegin{};
constexpr std::uint64_t kPrefillWorker = 11;
constexpr std::uint64_t kDecodeWorker = 22;

/// What a worker says of `total` milliseconds.
struct Says {
    std::uint32_t total = 0;
    std::uint32_t memory = 0;
    std::uint32_t turn = 0;
    std::uint32_t kv = 0;
    std::uint32_t preempted = 0;
    std::uint32_t recomputed = 0;
    std::uint32_t steps = 0;
    std::uint32_t others = 0;
    std::uint32_t alone = 0;
};

proto::PartTrace trace(const Says& says) {
    proto::PartTrace trace;
    trace.set_total_us(says.total * 1000);
    trace.set_memory_us(says.memory * 1000);
    trace.set_turn_us(says.turn * 1000);
    trace.set_kv_us(says.kv * 1000);
    trace.set_preempted_us(says.preempted * 1000);
    trace.set_recomputed_us(says.recomputed * 1000);
    trace.set_steps_us(says.steps * 1000);
    trace.set_others_us(says.others * 1000);
    trace.set_alone_us(says.alone * 1000);
    return trace;
}

/// Placed at once; its first token came `ttft` later, and prefill says why.
SequenceTimeline until_first_token(base::Duration ttft, const Says& says) {
    SequenceTimeline sequence;
    sequence.received_at = kBegin;
    sequence.opened_at = kBegin + 1ms;
    Attempt attempt;
    attempt.asked_at = kBegin + 1ms;
    attempt.placed_at = kBegin + 2ms;
    attempt.first_token_at = kBegin + ttft;
    attempt.prefill_worker = kPrefillWorker;
    attempt.decode_worker = kDecodeWorker;
    attempt.prefill = trace(says);
    sequence.attempts.push_back(attempt);
    sequence.first_token_at = kBegin + ttft;
    return sequence;
}

/// In time with its first token; then one token late by `gap`, and the worker says why.
SequenceTimeline late_by(base::Duration gap, const Says& says) {
    SequenceTimeline sequence = until_first_token(10ms, {.total = 8, .steps = 8, .alone = 8});
    const proto::PartTrace told = trace(says);
    sequence.late = gateway::gap_shares(gap, &told, true);
    sequence.late_count = 1;
    sequence.late_workers.fill(kDecodeWorker);
    sequence.tpot = gap / 2;
    return sequence;
}

Explanation explain(SequenceTimeline sequence, const Outcome& outcome) {
    return gateway::explain({std::make_shared<const SequenceTimeline>(std::move(sequence))}, outcome);
}

double ms_of(const gateway::StageDurations& durations, gateway::Stage stage) {
    const auto& one = durations[static_cast<std::size_t>(stage)];
    return one ? std::chrono::duration<double, std::milli>(*one).count() : -1;
}

const Outcome kTtftMissed{.status = 200, .targets = {.ttft = 100ms, .tpot = 50ms}, .ttft_met = false};
const Outcome kTpotMissed{.status = 200, .targets = {.ttft = 100ms, .tpot = 50ms}, .tpot_met = false};

Outcome whole_answer_missed(base::Duration took, base::Duration tpot = {}) {
    return {.status = 200, .targets = {.tpot = tpot, .e2e = 500ms}, .e2e_met = false, .took = took};
}

/// The answer ended `took` after its request came.
SequenceTimeline until_end(base::Duration took, SequenceTimeline sequence) {
    sequence.ended_at = kBegin + took;
    return sequence;
}

struct Case {
    const char* what;
    Cause cause;
    std::uint64_t worker;
    std::function<Explanation()> explain_it;
};

SequenceTimeline lost_before_first_token() {
    SequenceTimeline sequence = until_first_token(400ms, {.total = 40, .steps = 40});
    Attempt lost = sequence.attempts.front();
    lost.first_token_at.reset();
    lost.prefill.reset();
    lost.lost_at = kBegin + 340ms;
    lost.lost_worker = kPrefillWorker;
    sequence.attempts.front().asked_at = kBegin + 340ms;
    sequence.attempts.front().placed_at = kBegin + 342ms;
    sequence.attempts.front().prefill_worker = 33;
    sequence.attempts.insert(sequence.attempts.begin(), lost);
    return sequence;
}

SequenceTimeline refused(bool can_retry) {
    SequenceTimeline sequence;
    sequence.was_refused = true;
    sequence.can_retry = can_retry;
    return sequence;
}

SequenceTimeline given_up_after_loss() {
    SequenceTimeline sequence;
    Attempt lost;
    lost.placed_at = kBegin;
    lost.lost_at = kBegin + 1s;
    lost.lost_worker = kDecodeWorker;
    sequence.attempts.push_back(lost);
    return sequence;
}

SequenceTimeline stuck_in_handoff() {
    SequenceTimeline sequence = until_first_token(10ms, {.total = 8, .steps = 8});
    sequence.unfinished.of(Cause::handoff) = 10s;
    return sequence;
}

const std::vector<Case>& cases() {
    static const std::vector<Case> kCases = {
        {"waited for memory before prefill", Cause::queue_prefill, kPrefillWorker,
         [] { return explain(until_first_token(300ms, {.total = 298, .memory = 200, .steps = 98}), kTtftMissed); }},
        {"waited behind other prompts", Cause::queue_prefill, kPrefillWorker,
         [] {
             return explain(until_first_token(130ms, {.total = 128, .turn = 45, .steps = 83, .alone = 80}),
                            kTtftMissed);
         }},
        {"the prompt's steps took longer than expected", Cause::prefill, kPrefillWorker,
         [] {
             return explain(until_first_token(300ms, {.total = 298, .turn = 50, .steps = 248, .alone = 80}),
                            kTtftMissed);
         }},
        {"the worker stood still between steps of the prompt", Cause::prefill, kPrefillWorker,
         [] {
             return explain(until_first_token(300ms, {.total = 298, .turn = 50, .steps = 60, .alone = 60}),
                            kTtftMissed);
         }},
        {"prompts of others and streams filled the prompt's steps", Cause::chunk_interference, kPrefillWorker,
         [] {
             return explain(until_first_token(300ms, {.total = 298, .steps = 298, .others = 200, .alone = 80}),
                            kTtftMissed);
         }},
        {"KV was fetched for long", Cause::handoff, kPrefillWorker,
         [] { return explain(until_first_token(300ms, {.total = 298, .kv = 250, .steps = 48}), kTtftMissed); }},
        {"an idle worker needs longer than the target for the prompt", Cause::infeasible, kPrefillWorker,
         [] {
             return explain(until_first_token(400ms, {.total = 398, .memory = 200, .steps = 198, .alone = 120}),
                            kTtftMissed);
         }},
        {"preempted before its first token", Cause::preempted, kPrefillWorker,
         [] { return explain(until_first_token(300ms, {.total = 298, .preempted = 200, .steps = 98}), kTtftMissed); }},
        {"the text took long to prepare", Cause::gateway, 0,
         [] {
             SequenceTimeline sequence = until_first_token(300ms, {.total = 20, .steps = 20});
             sequence.opened_at = kBegin + 270ms;
             sequence.attempts.front().asked_at = kBegin + 270ms;
             sequence.attempts.front().placed_at = kBegin + 275ms;
             return explain(sequence, kTtftMissed);
         }},
        {"the scheduler answered late", Cause::gateway, 0,
         [] {
             SequenceTimeline sequence = until_first_token(300ms, {.total = 20, .steps = 20});
             sequence.attempts.front().placed_at = kBegin + 270ms;
             return explain(sequence, kTtftMissed);
         }},
        {"the output was long on its way", Cause::gateway, 0,
         [] { return explain(until_first_token(300ms, {.total = 20, .steps = 20}), kTtftMissed); }},
        {"the first worker died", Cause::worker_lost, kPrefillWorker,
         [] { return explain(lost_before_first_token(), kTtftMissed); }},
        {"decode had no room", Cause::queue_decode, kDecodeWorker,
         [] { return explain(late_by(300ms, {.total = 295, .memory = 200, .kv = 50, .steps = 20}), kTpotMissed); }},
        {"the batch was full", Cause::queue_decode, kDecodeWorker,
         [] { return explain(late_by(300ms, {.total = 295, .turn = 200, .steps = 90}), kTpotMissed); }},
        {"the hand-off was slow", Cause::handoff, kDecodeWorker,
         [] { return explain(late_by(300ms, {.total = 295, .memory = 50, .kv = 200, .steps = 20}), kTpotMissed); }},
        {"the hand-off failed", Cause::recomputed, kDecodeWorker,
         [] { return explain(late_by(300ms, {.total = 295, .kv = 50, .recomputed = 200, .steps = 20}), kTpotMissed); }},
        {"the step was long", Cause::decode_batch, kDecodeWorker,
         [] {
             return explain(late_by(300ms, {.total = 295, .turn = 40, .steps = 255, .others = 30, .alone = 20}),
                            kTpotMissed);
         }},
        {"the worker stood still between steps", Cause::decode_batch, kDecodeWorker,
         [] { return explain(late_by(300ms, {.total = 295, .steps = 20, .alone = 20}), kTpotMissed); }},
        {"prompts in the step", Cause::chunk_interference, kDecodeWorker,
         [] { return explain(late_by(300ms, {.total = 295, .steps = 290, .others = 240, .alone = 20}), kTpotMissed); }},
        {"preempted while it decoded", Cause::preempted, kDecodeWorker,
         [] {
             return explain(late_by(300ms, {.total = 295, .turn = 20, .preempted = 250, .steps = 20}), kTpotMissed);
         }},
        {"an idle worker needs longer than the target for a token", Cause::infeasible, kDecodeWorker,
         [] { return explain(late_by(300ms, {.total = 295, .steps = 290, .others = 200, .alone = 60}), kTpotMissed); }},
        {"a token was long on its way", Cause::gateway, kDecodeWorker,
         [] { return explain(late_by(300ms, {.total = 20, .steps = 20}), kTpotMissed); }},
        {"the answer was late since its prompt waited", Cause::queue_prefill, kPrefillWorker,
         [] {
             const auto sequence = until_first_token(400ms, {.total = 398, .memory = 350, .steps = 48});
             return explain(until_end(600ms, sequence), whole_answer_missed(600ms));
         }},
        {"the answer was late since its tokens took long", Cause::decode_batch, kDecodeWorker,
         [] {
             const auto sequence = until_first_token(50ms, {.total = 48, .steps = 48});
             return explain(until_end(600ms, sequence), whole_answer_missed(600ms));
         }},
        {"the answer was too long for its target, with every token in time", Cause::infeasible, kDecodeWorker,
         [] {
             const auto sequence = until_first_token(50ms, {.total = 48, .steps = 48});
             return explain(until_end(600ms, sequence), whole_answer_missed(600ms, 20ms));
         }},
        {"the answer was late by one token that waited", Cause::queue_decode, kDecodeWorker,
         [] {
             const auto sequence = late_by(400ms, {.total = 395, .turn = 300, .steps = 95});
             return explain(until_end(600ms, sequence), whole_answer_missed(600ms, 200ms));
         }},
        {"the answer was late since a worker was lost", Cause::worker_lost, kPrefillWorker,
         [] { return explain(until_end(600ms, lost_before_first_token()), whole_answer_missed(600ms)); }},
        {"refused for now", Cause::refused, 0, [] { return explain(refused(true), {.status = 429}); }},
        {"refused for ever", Cause::infeasible, 0, [] { return explain(refused(false), {.status = 429}); }},
        {"no worker is there", Cause::refused, 0, [] { return explain(refused(true), {.status = 503}); }},
        {"failed on all workers", Cause::worker_lost, kDecodeWorker,
         [] { return explain(given_up_after_loss(), {.status = 503}); }},
        {"timed out in the hand-off", Cause::handoff, 0, [] { return explain(stuck_in_handoff(), {.status = 504}); }},
        {"the gateway was shut down", Cause::gateway, 0,
         [] { return explain(until_first_token(10ms, {.total = 8}), {.status = 503}); }},
        {"the client left", Cause::client, 0,
         [] { return explain(until_first_token(10ms, {.total = 8}), {.status = 499}); }},
    };
    return kCases;
}

}  // namespace

TEST_CASE("each miss has the one cause that took most of its time", "[gateway][explain]") {
    for (const Case& one : cases()) {
        CAPTURE(one.what);
        const Explanation why = one.explain_it();
        REQUIRE(why.all);
        REQUIRE(gateway::name_of(why.all->cause) == gateway::name_of(one.cause));
        if (one.cause != Cause::gateway) { REQUIRE(why.all->worker == one.worker); }
    }
}

TEST_CASE("the table has every cause, and every cause has its texts", "[gateway][explain]") {
    std::set<std::string_view> tested;
    for (const Case& one : cases()) {
        tested.insert(gateway::name_of(one.cause));
    }
    for (std::size_t i = 0; i < gateway::kCauses; ++i) {
        const auto cause = static_cast<Cause>(i);
        CAPTURE(gateway::name_of(cause));
        REQUIRE(tested.contains(gateway::name_of(cause)));
        REQUIRE_FALSE(gateway::meaning_of(cause).empty());
        REQUIRE_FALSE(gateway::help_for(cause).empty());
    }
}

TEST_CASE("what was in time, or the client's mistake, is no miss", "[gateway][explain]") {
    const SequenceTimeline sequence = until_first_token(10ms, {.total = 8});
    REQUIRE_FALSE(explain(sequence, {.status = 200, .targets = {.ttft = 100ms, .tpot = 50ms}}).all);
    REQUIRE_FALSE(explain(sequence, {.status = 200}).all);
    REQUIRE_FALSE(explain(sequence, {.status = 400}).all);
    REQUIRE_FALSE(
        explain(sequence, {.status = 200, .targets = {}, .ttft_met = false, .tpot_met = false, .e2e_met = false}).all);
}

TEST_CASE("where both targets were missed, the larger miss says why the request counts as bad", "[gateway][explain]") {
    SequenceTimeline sequence = late_by(300ms, {.total = 295, .turn = 200, .steps = 90});  // TPOT 3 times its target
    sequence.first_token_at = kBegin + 150ms;                                              // TTFT 1.5 times
    sequence.attempts.front().first_token_at = sequence.first_token_at;
    Outcome both = kTtftMissed;
    both.tpot_met = false;
    Explanation why = explain(sequence, both);
    REQUIRE(why.ttft->cause == Cause::gateway);
    REQUIRE(why.tpot->cause == Cause::queue_decode);
    REQUIRE(why.all->cause == Cause::queue_decode);
    sequence.first_token_at = kBegin + 900ms;
    sequence.attempts.front().first_token_at = sequence.first_token_at;
    why = explain(sequence, both);
    REQUIRE(why.all->cause == Cause::gateway);
}

TEST_CASE("the whole answer has a miss of its own, which speaks for the request where it is the largest",
          "[gateway][explain]") {
    const SequenceTimeline sequence = until_end(900ms, until_first_token(150ms, {.total = 148, .memory = 148}));
    Outcome outcome = kTtftMissed;  // 1.5 times
    outcome.targets.e2e = 100ms;
    outcome.took = 900ms;
    outcome.e2e_met = true;
    REQUIRE_FALSE(explain(sequence, outcome).e2e);
    outcome.e2e_met = false;
    Explanation why = explain(sequence, outcome);
    REQUIRE(why.ttft->cause == Cause::queue_prefill);
    REQUIRE(why.e2e->cause == Cause::infeasible);
    REQUIRE(why.all->cause == Cause::infeasible);
    outcome.targets.e2e = 800ms;
    why = explain(sequence, outcome);
    REQUIRE(why.e2e->cause == Cause::queue_prefill);
    REQUIRE(why.all->cause == why.ttft->cause);
}

TEST_CASE("of several sequences the one that was latest is explained", "[gateway][explain]") {
    const auto in_time =
        std::make_shared<const SequenceTimeline>(until_first_token(90ms, {.total = 80, .steps = 80, .alone = 80}));
    const auto queued =
        std::make_shared<const SequenceTimeline>(until_first_token(300ms, {.total = 298, .memory = 200, .steps = 98}));
    const auto slow = std::make_shared<const SequenceTimeline>(until_first_token(200ms, {.total = 198, .steps = 198}));
    REQUIRE(gateway::explain({in_time, queued, slow}, kTtftMissed).all->cause == Cause::queue_prefill);
    REQUIRE(gateway::explain({slow, in_time}, kTtftMissed).all->cause == Cause::prefill);
}

TEST_CASE("a worker that says nothing of its time is taken to have spent it", "[gateway][explain]") {
    SequenceTimeline sequence = until_first_token(300ms, {});
    sequence.attempts.front().prefill.reset();
    REQUIRE(explain(sequence, kTtftMissed).all->cause == Cause::prefill);
    REQUIRE(cause_of(gateway::gap_shares(300ms, nullptr, false), {}) == Cause::decode_batch);
    REQUIRE(cause_of(gateway::gap_shares(300ms, nullptr, true), {}) == Cause::gateway);
}

TEST_CASE("no sequence is known of a request that was refused at once", "[gateway][explain]") {
    REQUIRE(gateway::explain({}, {.status = 429}).all->cause == Cause::refused);
    REQUIRE(gateway::explain({}, {.status = 504}).all->cause == Cause::gateway);
    REQUIRE(gateway::explain({}, kTtftMissed).all->cause == Cause::gateway);
}

TEST_CASE("stages of a split request add up to its time", "[gateway][explain]") {
    using gateway::Stage;
    SequenceTimeline sequence = until_first_token(100ms, {.total = 90, .memory = 10, .turn = 20, .kv = 5, .steps = 50});
    Attempt& attempt = sequence.attempts.front();
    attempt.is_split = true;
    attempt.decode = trace({.total = 60, .memory = 3, .turn = 4, .kv = 13, .steps = 40});
    sequence.completion_tokens = 5;
    sequence.ended_at = kBegin + 300ms;
    const gateway::StageDurations durations = gateway::stage_durations(sequence);
    CHECK(ms_of(durations, Stage::prepare) == 1);
    CHECK(ms_of(durations, Stage::place) == 1);
    CHECK(ms_of(durations, Stage::queue_prefill) == 30);
    CHECK(ms_of(durations, Stage::prefill) == 98 - 30 - 5);
    CHECK(ms_of(durations, Stage::handoff) == 5 + 13);
    CHECK(ms_of(durations, Stage::queue_decode) == 7);
    CHECK(ms_of(durations, Stage::decode) == 200 - 13 - 7);
    double sum = 0;
    for (std::size_t stage = 0; stage < gateway::kStages; ++stage) {
        sum += ms_of(durations, static_cast<Stage>(stage));
    }
    CHECK(sum == 300);
}

TEST_CASE("a stage that a request has not, or of which nothing is known, is none", "[gateway][explain]") {
    using gateway::Stage;
    SequenceTimeline sequence = until_first_token(100ms, {.total = 90, .steps = 90});
    sequence.completion_tokens = 1;
    sequence.ended_at = kBegin + 101ms;
    gateway::StageDurations durations = gateway::stage_durations(sequence);
    CHECK(ms_of(durations, Stage::queue_prefill) == 0);
    CHECK(ms_of(durations, Stage::handoff) == -1);  // on one worker
    CHECK(ms_of(durations, Stage::queue_decode) == -1);
    CHECK(ms_of(durations, Stage::decode) == -1);  // nothing behind the first token

    sequence.attempts.front().prefill.reset();  // an older worker: it gives no account
    durations = gateway::stage_durations(sequence);
    CHECK(ms_of(durations, Stage::queue_prefill) == -1);
    CHECK(ms_of(durations, Stage::prefill) == 98);

    sequence.first_token_at.reset();
    sequence.attempts.front().first_token_at.reset();  // it never came so far
    durations = gateway::stage_durations(sequence);
    CHECK(ms_of(durations, Stage::prepare) == 1);
    CHECK(ms_of(durations, Stage::place) == -1);
    CHECK(ms_of(durations, Stage::prefill) == -1);
}

TEST_CASE("a worker whose clock runs fast accounts for no more than went by", "[gateway][explain]") {
    using gateway::Stage;
    SequenceTimeline sequence = until_first_token(100ms, {.total = 500, .memory = 400, .kv = 100});
    sequence.attempts.front().is_split = true;
    sequence.attempts.front().decode = trace({.total = 500, .memory = 300, .kv = 200});
    sequence.completion_tokens = 2;
    sequence.ended_at = kBegin + 150ms;
    const gateway::StageDurations durations = gateway::stage_durations(sequence);
    CHECK(ms_of(durations, Stage::queue_prefill) == 98);
    CHECK(ms_of(durations, Stage::prefill) == 0);
    CHECK(ms_of(durations, Stage::handoff) == 50);
    CHECK(ms_of(durations, Stage::queue_decode) == 0);
    CHECK(ms_of(durations, Stage::decode) == 0);
}

TEST_CASE("each stage of a sequence is observed once", "[gateway][explain][metrics]") {
    base::Metrics metrics;
    SequenceTimeline sequence = until_first_token(100ms, {.total = 90, .turn = 30, .steps = 60});
    sequence.completion_tokens = 3;
    sequence.ended_at = kBegin + 200ms;
    gateway::observe_stages(metrics, "m", sequence);
    const std::string text = metrics.text();
    for (const char* stage : {"prepare", "place", "queue_prefill", "prefill", "decode"}) {
        INFO(stage);
        CHECK(text.find("sluice_gateway_stage_duration_seconds_count{model=\"m\",stage=\"" + std::string(stage) +
                        "\"} 1") != std::string::npos);
    }
    CHECK(text.find("stage=\"handoff\"") == std::string::npos);
    CHECK(
        text.find("sluice_gateway_stage_duration_seconds_bucket{model=\"m\",stage=\"queue_prefill\",le=\"0.02\"} 0") !=
        std::string::npos);
    CHECK(
        text.find("sluice_gateway_stage_duration_seconds_bucket{model=\"m\",stage=\"queue_prefill\",le=\"0.04\"} 1") !=
        std::string::npos);
}
