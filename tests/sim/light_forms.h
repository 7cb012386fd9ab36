#pragma once

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "sim/modelled_mover.h"
#include "sim/modelled_worker.h"
#include "sim/virtual_clock.h"
#include "worker/kv_tiers_part.h"
#include "worker/step_loop.h"

#include "tests/support/catch.h"
#include "tests/support/modelled_engine.h"

// The light form of the step loop (sim::ModelledWorker) against worker::StepLoop itself over a modelled engine, both on
// a virtual clock and with the same requests: every step, its begin, its entries in order, their positions and sizes.
// Both are handed what happens between two steps, since the light form plans a step when the one before it has ended;
// ends of copies to and from levels below their pools, too.

namespace light_test {

using sim::VirtualClock;
using worker::Part;
using Part_ = sim::ModelledWorker::StepPart;

inline constexpr std::uint32_t kBlockTokens = 16;
inline constexpr std::uint64_t kNumerics = 7;  // of ModelledEngine

struct Wish {
    base::TimePoint at;
    Part part = Part::whole;
    std::vector<base::TokenId> prompt;
    std::uint32_t answer_tokens = 0;
    base::Duration ttft{};  // 0: none is promised
    base::Duration tpot{};
    std::int32_t priority = 0;
    base::Duration room_after{};   // decode: from its start until prefill asks for room
    base::Duration first_after{};  // decode: until the first token is told
    base::Duration
        kv_after{};           // decode: from the grant until its KV is there; prefill: from its token until handed over
    bool is_kv_lost = false;  // decode: it has to be computed here
};

struct Script {
    std::vector<Wish> wishes;
    worker::WorkerOptions limits;
    std::uint32_t blocks = 0;
    bool is_private = false;                // nobody finds the blocks of another, or its own again
    std::vector<sim::KvLevel> levels = {};  // whose rooms are whole blocks
};

struct Step {
    base::TimePoint began;
    std::vector<Part_> parts;
    bool operator==(const Step&) const = default;
};

struct Event {
    enum class Kind { start, want_room, kv_over, first_token, handed_over } kind;
    std::size_t wish;
};

/// Of both forms alike: 3 ms and 0.1 ms for each prompt token, 0.4 ms for each sequence, a little for its context.
inline scheduler::planner::StepTimes times() {
    scheduler::planner::StepTimes times;
    times.fitted = scheduler::planner::FittedForms{.prefill = {2e-3, 1e-4, 1e-8},
                                                   .decode_small = {1e-3, 1e-7, 4e-4},
                                                   .decode_large = {1e-3, 1e-7, 4e-4},
                                                   .large_from = 1e9};
    times.step_seconds = 1e-3;
    return times;
}

/// Steps take up to a tenth longer, by their number.
inline double slowness(std::uint64_t step) {
    return 1 + 0.1 * static_cast<double>(step * 2654435761u % 1024) / 1024;
}

/// What happens when, by time and then by the order in which it was put in.
class Agenda {
public:
    void add(base::TimePoint at, Event event) { events_.emplace(at, event); }
    bool is_empty() const { return events_.empty(); }
    base::TimePoint next() const { return events_.begin()->first; }
    Event take() {
        const Event event = events_.begin()->second;
        events_.erase(events_.begin());
        return event;
    }

private:
    std::multimap<base::TimePoint, Event> events_;
};

/// worker::StepLoop with parts that hear of the hand-offs of the script.
class RealForm final : worker::OutputSink {
public:
    RealForm(const Script& script, Agenda& agenda, VirtualClock& clock)
        : script_(script),
          agenda_(agenda),
          clock_(clock),
          engine_({.cost = {},
                   .noise = 0,
                   .seed = 0,
                   .context_tokens = 4096,
                   .blocks_total = script.blocks,
                   .takes = [this](const engine::Batch& batch) { return takes(batch); }},
                  clock),
          cache_({.blocks_total = script.blocks, .block_tokens = kBlockTokens}),
          whole_(*this),
          prefill_(*this),
          decode_(*this),
          loop_({.limits = script.limits, .hash_key = {}, .model = "m", .worker = "w", .role = worker::Role::mixed},
                engine_, cache_, *this, board_, clock, metrics_) {
        loop_.attach(Part::whole, &whole_);
        loop_.attach(Part::prefill, &prefill_);
        loop_.attach(Part::decode, &decode_);
        open_levels();
    }

    void happen(const Event& event) {
        const Wish& wish = script_.wishes[event.wish];
        const worker::RequestKey key = key_of(event.wish);
        switch (event.kind) {
            case Event::Kind::start: {
                worker::StartRequest start;
                start.key = key;
                start.gateway = worker::GatewayId{1};
                start.part = wish.part;
                start.prompt = wish.prompt;
                start.stop.new_tokens_max = wish.answer_tokens;
                if (wish.ttft > base::Duration::zero()) { start.slo.first_token = wish.at + wish.ttft; }
                start.slo.tpot = wish.tpot;
                start.priority = wish.priority;
                REQUIRE(loop_.post_command(std::move(start)));
                break;
            }
            case Event::Kind::want_room:
                if (auto* sequence = loop_.find(key)) {
                    loop_.want_room(*sequence, static_cast<std::uint32_t>(wish.prompt.size()));
                }
                break;
            case Event::Kind::kv_over:
                kv_over_.insert(key.request);
                proceed(key);
                break;
            case Event::Kind::first_token: {
                worker::ContinueRequest go_on;
                go_on.key = key;
                go_on.gateway = worker::GatewayId{1};
                go_on.generated = {1};
                REQUIRE(loop_.post_command(std::move(go_on)));
                break;
            }
            case Event::Kind::handed_over:
                if (auto* sequence = loop_.find(key)) {
                    loop_.finish(*sequence, worker::Finish::handed_over, std::nullopt);
                }
                break;
        }
        loop_.work();
        loop_.settle();
    }
    std::optional<base::Duration> begin() {
        ticket_ = loop_.begin_step();
        if (!ticket_) { return std::nullopt; }
        return engine_.ends_at() - clock_.now();
    }
    std::vector<Part_> parts() const { return parts_; }
    void finish() {
        loop_.finish_step(engine_.collect(*ticket_, clock_.now(), {}));
        loop_.settle();
        loop_.work();
    }
    std::size_t finals() const { return finals_; }
    std::uint64_t failures() const { return failures_; }

    std::optional<base::TimePoint> next_copy_end() const {
        std::optional<base::TimePoint> next;
        for (const auto& mover : movers_) {
            const auto end = mover->next_end();
            if (end && (!next || *end < *next)) { next = end; }
        }
        return next;
    }
    void end_copies() {
        for (const auto& mover : movers_) {
            mover->deliver();
        }
        loop_.work();
        loop_.settle();
    }
    kv_cache::BlockCounts pool() const { return cache_.counts(); }
    std::vector<sim::CopyCounts> copies() const {
        std::vector<sim::CopyCounts> counts;
        for (const auto& mover : movers_) {
            counts.push_back(mover->counts());
        }
        return counts;
    }
    /// By how they ended.
    std::uint64_t loads(const std::string& outcome) const {
        double sum = 0;
        const std::string text = metrics_.text();
        for (const sim::KvLevel& level : script_.levels) {
            const std::string line =
                "sluice_kv_tier_loads_total{outcome=\"" + outcome + "\",tier=\"" + level.name + "\"} ";
            sum += std::stod(text.substr(text.find(line) + line.size()));
        }
        return static_cast<std::uint64_t>(sum);
    }

private:
    /// As cli's KvTierStack.
    void open_levels() {
        if (script_.levels.empty()) { return; }
        std::vector<worker::KvTiers::Tier> parts;
        for (const sim::KvLevel& level : script_.levels) {
            const double block_bytes = level.kv_bytes_per_token * kBlockTokens;
            slots_.push_back(std::make_unique<kv_cache::KvCache>(
                kv_cache::KvCache::Options{.blocks_total = static_cast<std::uint32_t>(level.kv_tokens / kBlockTokens),
                                           .block_tokens = kBlockTokens}));
            loop_.add_tier(*slots_.back());
            movers_.push_back(std::make_unique<sim::ModelledMover>(
                sim::CopyCosts{.block_bytes = block_bytes,
                               .load_bytes_per_second = level.load_bytes_per_second,
                               .save_bytes_per_second = level.save_bytes_per_second,
                               .launch_seconds = level.launch_seconds,
                               .gives_up = level.gives_up},
                worker::kTierJobsMax, clock_, [this, tier = movers_.size()](kv_transfer::TierEvent event) {
                    tiers_->on_event(tier, std::move(event));
                }));
            worker::KvTiers::Tier part{level.name, slots_.back().get(), movers_.back().get()};
            part.save_blocks = level.saves_through ? worker::kTierSaveBlocks : 0;
            if (level.knows_rate) {
                part.load_time =
                    sim::duration_of(std::max(level.launch_seconds, block_bytes / level.load_bytes_per_second));
            }
            parts.push_back(std::move(part));
        }
        tiers_ = std::make_unique<worker::KvTiersPart>(std::move(parts), script_.limits, loop_, "w", metrics_);
        loop_.add_helper(tiers_.get());
    }
    struct WholeTest final : worker::RolePart {
        explicit WholeTest(RealForm& form) : of(form) {}
        void admitted(worker::Sequence& sequence) override {
            if (of.script_.is_private) { sequence.kv->keep_private(); }
        }
        RealForm& of;
    };
    struct PrefillTest final : worker::RolePart {
        explicit PrefillTest(RealForm& form) : of(form) {}
        bool may_preempt(const worker::Sequence&) const override { return false; }
        void sampled(worker::Sequence& sequence) override {
            const std::size_t wish = of.wish_of(sequence.request.key);
            of.agenda_.add(of.clock_.now() + of.script_.wishes[wish].kv_after, {Event::Kind::handed_over, wish});
        }
        RealForm& of;
    };
    struct DecodeTest final : worker::RolePart {
        explicit DecodeTest(RealForm& form) : of(form) {}
        void room_granted(worker::Sequence& sequence) override {
            const std::size_t wish = of.wish_of(sequence.request.key);
            of.agenda_.add(of.clock_.now() + of.script_.wishes[wish].kv_after, {Event::Kind::kv_over, wish});
        }
        void continued(worker::Sequence& sequence) override { of.proceed(sequence.request.key); }
        RealForm& of;
    };

    static worker::RequestKey key_of(std::size_t wish) { return {base::RequestId{wish + 1}, base::Epoch{0}}; }
    static std::size_t wish_of(const worker::RequestKey& key) { return base::raw(key.request) - 1; }

    /// As decode_worker::DecodePart::proceed.
    void proceed(const worker::RequestKey& key) {
        worker::Sequence* sequence = loop_.find(key);
        const Wish& wish = script_.wishes[wish_of(key)];
        if (sequence == nullptr || !kv_over_.contains(key.request) || sequence->tokens.size() <= wish.prompt.size()) {
            return;
        }
        if (!wish.is_kv_lost) { sequence->computed_tokens = static_cast<std::uint32_t>(wish.prompt.size()); }
        if (!sequence->kv) { return loop_.make_waiting(*sequence); }
        loop_.publish(*sequence);
        loop_.make_running(*sequence);
    }
    base::Duration takes(const engine::Batch& batch) {
        scheduler::planner::StepShape shape;
        std::vector<scheduler::planner::PromptChunk> chunks;
        parts_.clear();
        for (const engine::BatchEntry& entry : batch.entries()) {
            const auto tokens = static_cast<std::uint32_t>(entry.tokens.size());
            parts_.push_back({base::raw(entry.sequence), entry.position, tokens, entry.sample});
            if (entry.sample) { shape.sampled += 1; }
            if (tokens == 1 && entry.sample) {
                shape.decode_sequences += 1;
                shape.decode_context += entry.position + 1;
            } else {
                chunks.push_back({static_cast<double>(tokens), static_cast<double>(entry.position)});
            }
        }
        shape.prompts = chunks;
        return std::max<base::Duration>(sim::duration_of(times_.seconds(shape) * slowness(++steps_)),
                                        std::chrono::microseconds(1));
    }
    void deliver(worker::GatewayId, std::vector<worker::SequenceOutput> outputs) override {
        for (const worker::SequenceOutput& output : outputs) {
            if (output.finish == worker::Finish::none) { continue; }
            ++finals_;
            if (output.error) { ++failures_; }
        }
    }

    const Script& script_;
    Agenda& agenda_;
    VirtualClock& clock_;
    const scheduler::planner::StepTimes times_ = times();
    base::Metrics metrics_;
    test_support::ModelledEngine engine_;
    kv_cache::KvCache cache_;
    worker::ReportBoard board_;
    WholeTest whole_;
    PrefillTest prefill_;
    DecodeTest decode_;
    worker::StepLoop loop_;
    std::optional<engine::Ticket> ticket_;
    std::set<base::RequestId> kv_over_;
    std::vector<Part_> parts_;
    std::uint64_t steps_ = 0;
    std::size_t finals_ = 0;
    std::uint64_t failures_ = 0;
    std::vector<std::unique_ptr<kv_cache::KvCache>> slots_;
    std::vector<std::unique_ptr<sim::ModelledMover>> movers_;
    std::unique_ptr<worker::KvTiersPart> tiers_;  // its jobs hold slots
};

/// sim::ModelledWorker, told the same.
class LightForm final : sim::WorkerListener {
public:
    LightForm(const Script& script, Agenda& agenda, VirtualClock& clock)
        : script_(script),
          agenda_(agenda),
          clock_(clock),
          worker_({.index = 0,
                   .role = proto::Role::mixed,
                   .times = &times_,
                   .limits = &script.limits,
                   .kv = {.blocks_total = script.blocks, .block_tokens = kBlockTokens},
                   .context_tokens = 4096,
                   .levels = script.levels,
                   .clock = &clock,
                   .metrics = &metrics_},
                  *this) {
        base::HashScope scope;
        scope.numerics_id = kNumerics;
        scope.block_tokens = kBlockTokens;
        for (const Wish& wish : script.wishes) {
            chains_.emplace_back();
            if (!script.is_private) { chains_.back() = base::block_hash_chain({}, scope, wish.prompt); }
        }
    }

    void happen(const Event& event) {
        const Wish& wish = script_.wishes[event.wish];
        const sim::AttemptKey key{static_cast<std::uint32_t>(event.wish), 0};
        switch (event.kind) {
            case Event::Kind::start: {
                sim::LightStart start{.key = key,
                                      .part = wish.part,
                                      .prompt_tokens = static_cast<std::uint32_t>(wish.prompt.size()),
                                      .generated_tokens = 0,
                                      .new_tokens_max = wish.answer_tokens,
                                      .tpot = wish.tpot,
                                      .chain = chains_[event.wish],
                                      .priority = wish.priority};
                if (wish.ttft > base::Duration::zero()) { start.first_token_due = wish.at + wish.ttft; }
                if (!worker_.start(start, clock_.now())) { ++finals_, ++failures_; }
                break;
            }
            case Event::Kind::want_room:
                worker_.want_room(key, static_cast<std::uint32_t>(wish.prompt.size()), clock_.now());
                break;
            case Event::Kind::kv_over:
                if (wish.is_kv_lost) {
                    lost_.insert(event.wish);
                } else {
                    worker_.kv_arrived(key);
                }
                break;
            case Event::Kind::first_token:
                worker_.go_on(key, 1, clock_.now());
                continued_.insert(event.wish);
                break;
            case Event::Kind::handed_over:
                ++finals_;
                worker_.handed_over(key);
                break;
        }
        if (lost_.contains(event.wish) && continued_.contains(event.wish)) {
            worker_.recompute(key, clock_.now());
            lost_.erase(event.wish);
        }
        worker_.give_memory(clock_.now());
        check();
    }
    std::optional<base::Duration> begin() {
        const auto takes = worker_.begin_step(clock_.now(), slowness(worker_.steps() + 1));
        check();
        return takes;
    }
    std::vector<Part_> parts() const { return worker_.step_parts(); }
    void finish() {
        worker_.finish_step(clock_.now());
        worker_.give_memory(clock_.now());
        check();
    }
    std::size_t finals() const { return finals_; }
    std::uint64_t failures() const { return failures_; }

    std::optional<base::TimePoint> next_copy_end() const { return worker_.next_copy_end(); }
    void end_copies() {
        worker_.end_copies();
        worker_.give_memory(clock_.now());
        check();
    }
    kv_cache::BlockCounts pool() const { return worker_.cache().counts(); }
    std::vector<sim::CopyCounts> copies() const {
        std::vector<sim::CopyCounts> counts;
        const sim::LevelUse use = worker_.level_use();
        for (const sim::KvLevel& level : script_.levels) {
            counts.push_back(use.copies.at(level.name));
        }
        return counts;
    }
    sim::LevelUse use() const { return worker_.level_use(); }

private:
    void check() const {
        const auto violation = worker_.violation();
        if (violation) { FAIL(*violation); }
    }
    void on_admitted(std::uint32_t, sim::AttemptKey) override {}
    void on_room_granted(std::uint32_t, sim::AttemptKey key, std::uint32_t) override {
        agenda_.add(clock_.now() + script_.wishes[key.request].kv_after, {Event::Kind::kv_over, key.request});
    }
    void on_token(std::uint32_t, sim::AttemptKey key, std::uint32_t, std::uint32_t, bool is_last) override {
        if (is_last) {
            ++finals_;
        } else if (script_.wishes[key.request].part == Part::prefill) {
            agenda_.add(clock_.now() + script_.wishes[key.request].kv_after, {Event::Kind::handed_over, key.request});
        }
    }
    void on_failed(std::uint32_t, sim::AttemptKey, base::ErrorCode) override { ++finals_, ++failures_; }

    const Script& script_;
    Agenda& agenda_;
    VirtualClock& clock_;
    const scheduler::planner::StepTimes times_ = times();
    std::vector<std::vector<base::BlockHash>> chains_;
    base::Metrics metrics_;
    sim::ModelledWorker worker_;
    std::set<std::size_t> lost_;
    std::set<std::size_t> continued_;
    std::size_t finals_ = 0;
    std::uint64_t failures_ = 0;
};

struct Played {
    std::vector<Step> steps;
    std::size_t finals = 0;
    std::uint64_t failures = 0;
    std::uint64_t preemptions = 0;  // sequences whose position went back
    kv_cache::BlockCounts pool;     // at the end
    std::vector<sim::CopyCounts> copies;
    sim::LevelUse use;                           // of the light form
    std::map<std::string, std::uint64_t> loads;  // of the real one, by outcome
};

template <class Form>
Played play(const Script& script) {
    VirtualClock clock;
    Agenda agenda;
    for (std::size_t i = 0; i < script.wishes.size(); ++i) {
        const Wish& wish = script.wishes[i];
        agenda.add(wish.at, {Event::Kind::start, i});
        if (wish.part != Part::decode) { continue; }
        agenda.add(wish.at + wish.room_after, {Event::Kind::want_room, i});
        agenda.add(wish.at + wish.first_after, {Event::Kind::first_token, i});
    }
    Form form(script, agenda, clock);
    Played played;
    std::map<std::uint64_t, std::uint32_t> reached;
    bool runs = false;
    base::TimePoint ends{};
    constexpr std::size_t kStepsMax = 100'000;
    while (played.steps.size() < kStepsMax && (runs || !agenda.is_empty() || form.next_copy_end())) {
        std::optional<base::TimePoint> next = form.next_copy_end();
        if (!agenda.is_empty() && (!next || agenda.next() < *next)) { next = agenda.next(); }
        clock.set(runs ? ends : std::max(clock.now(), *next));
        if (runs) { form.finish(); }
        if (form.next_copy_end() && *form.next_copy_end() <= clock.now()) { form.end_copies(); }
        while (!agenda.is_empty() && agenda.next() <= clock.now()) {
            form.happen(agenda.take());
        }
        const auto takes = form.begin();
        runs = takes.has_value();
        if (!runs) { continue; }
        ends = clock.now() + *takes;
        played.steps.push_back({clock.now(), form.parts()});
        for (const Part_& part : played.steps.back().parts) {
            std::uint32_t& position = reached[part.sequence];
            if (part.position < position) { ++played.preemptions; }
            position = part.position + part.tokens;
        }
    }
    played.finals = form.finals();
    played.failures = form.failures();
    played.pool = form.pool();
    played.copies = form.copies();
    if constexpr (requires { form.use(); }) {
        played.use = form.use();
    } else {
        for (const char* outcome : {"complete", "slower", "both_ends", "given_up"}) {
            played.loads[outcome] = form.loads(outcome);
        }
    }
    return played;
}

inline void compare(const Played& real, const Played& light) {
    const std::size_t both = std::min(real.steps.size(), light.steps.size());
    for (std::size_t i = 0; i < both; ++i) {
        if (real.steps[i] == light.steps[i]) { continue; }
        CAPTURE(i, VirtualClock::seconds(real.steps[i].began), VirtualClock::seconds(light.steps[i].began));
        std::string text;
        for (const auto& [name, step] : {std::pair("real", &real.steps[i]), std::pair("light", &light.steps[i])}) {
            text += name;
            for (const Part_& part : step->parts) {
                text += " " + std::to_string(part.sequence) + "@" + std::to_string(part.position) + "+" +
                        std::to_string(part.tokens) + (part.samples ? "!" : "");
            }
            text += "; ";
        }
        FAIL("the first step that differs: " << text);
    }
    CHECK(real.steps.size() == light.steps.size());
    CHECK(real.finals == light.finals);
    CHECK(real.failures == light.failures);
    if (real.copies.empty()) { return; }
    CHECK(real.pool == light.pool);
    CHECK(real.copies == light.copies);
}

}  // namespace light_test
