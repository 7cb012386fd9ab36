#pragma once

#include <algorithm>
#include <compare>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/block_hash.h"
#include "base/clock.h"
#include "base/metrics.h"
#include "kv_cache/kv_cache.h"
#include "proto/roles.h"
#include "proto/scheduler.pb.h"
#include "scheduler/planner/step_times.h"
#include "sim/kv_level.h"
#include "worker/board.h"
#include "worker/options.h"
#include "worker/plan_batch.h"
#include "worker/plan_memory.h"
#include "worker/sequence.h"
#include "worker/step_forecast.h"
#include "worker/step_reporter.h"

namespace sim {

/// One attempt at one request of the run.
struct AttemptKey {
    std::uint32_t request = 0;  // index
    std::uint32_t epoch = 0;
    auto operator<=>(const AttemptKey&) const = default;
};

/// What a gateway asks of a worker: lengths and names of blocks instead of tokens.
struct LightStart {
    AttemptKey key;
    worker::Part part = worker::Part::whole;
    std::uint32_t prompt_tokens = 0;           // the client's
    std::uint32_t generated_tokens = 0;        // that the client already has
    std::uint32_t new_tokens_max = 0;          // counted from the client's prompt; all are generated
    base::Duration tpot{};                     // target; 0: none
    std::span<const base::BlockHash> chain{};  // of the prompt's full blocks; must outlive the sequence
    std::optional<base::TimePoint> first_token_due = std::nullopt;
    std::int32_t priority = 0;
};

/// What a modelled worker tells of its sequences, while it is being called.
class WorkerListener {
public:
    virtual ~WorkerListener() = default;
    /// A prefill part has KV memory: it asks the decode worker for room.
    virtual void on_admitted(std::uint32_t worker, AttemptKey key) = 0;
    /// A decode part has room for its KV, of which it holds so many tokens already.
    virtual void on_room_granted(std::uint32_t worker, AttemptKey key, std::uint32_t tokens_held) = 0;
    /// The attempt's next token; with it the attempt may be over here. Where not every token is told
    /// (ModelledWorker::Options), `generated_tokens` may have grown by more than one since the last time.
    virtual void on_token(std::uint32_t worker, AttemptKey key, std::uint32_t generated_tokens,
                          std::uint32_t cached_tokens, bool is_last) = 0;
    virtual void on_failed(std::uint32_t worker, AttemptKey key, base::ErrorCode code) = 0;
    /// on_token() comes soon: what that reads is best asked for.
    virtual void fetch(AttemptKey) const {}
};

/// A worker whose engine is a model and whose sequences are lengths: the light form of worker::StepLoop. What decides
/// is the production code (plan_batch, plan_memory, StepForecast, KvCache, ReportBoard); what is written again here, in
/// the order of StepLoop, is who stands in which state. No thread, no clock of its own. Differences: a step is planned
/// when the one before it has ended, not while it runs; blocks of answers have names only where there are levels below
/// the pool. Those are worker::KvTiers as it is, over modelled copies (modelled_levels.cpp).
class ModelledWorker {
    struct Sequence;
    struct StepEntry {
        Sequence* sequence;
        std::uint32_t tokens;
        bool samples;
    };

public:
    /// What a worker needs only while it is being called: workers that are called one after the other may share it, so
    /// that with thousands of them it stays in the processor's caches.
    struct Workspace {
        std::vector<worker::PlanCandidate> candidates;
        std::vector<Sequence*> runnable;
        std::vector<worker::MemoryCandidate> memory;
        std::vector<StepEntry> ended;
        std::vector<Sequence*> news;  // that have computed a block in the step that ends
        std::vector<scheduler::planner::PromptChunk> chunks;
        std::vector<double> seconds;  // of steps in a row
        std::vector<worker::StepFigures> figures;
        std::vector<std::unique_ptr<Sequence>> spare;  // that have ended, for those that come: as many as there were
        std::string load;                              // serialized
    };

    struct Options {
        std::uint32_t index = 0;
        proto::Role role = proto::Role::mixed;
        const scheduler::planner::StepTimes* times = nullptr;  // borrowed
        const worker::WorkerOptions* limits = nullptr;         // borrowed: thousands have the same
        kv_cache::KvCache::Options kv;
        std::uint32_t context_tokens = 0;
        Workspace* workspace = nullptr;  // borrowed; null: one of its own
        /// False: only the first token of a part that computes a prompt, the last of an attempt, and the latest where
        /// the attempt fails here. What is computed is the same.
        bool tells_every_token = true;
        /// Steps take up to this share longer or shorter than the model says, by chance: that of their number and this.
        double noise = 0;
        std::uint64_t noise_seed = 0;
        /// A step takes so much longer for each token of a prompt that is handed over.
        double handing_seconds_per_token = 0;
        /// Whether quiet steps are foreseen (quiet_until()). Of no effect where every token is told.
        bool foresees_quiet_steps = false;  // has to be false where there are levels
        /// Below the pool, the nearest first; borrowed like the next two, which are needed where there are any.
        std::span<const KvLevel> levels = {};
        const base::Clock* clock = nullptr;  // that stands where `now` of each call does
        base::Metrics* metrics = nullptr;    // of KvTiers
    };
    ModelledWorker(const Options& options, WorkerListener& listener);
    ~ModelledWorker();

    /// False: the queue is full.
    [[nodiscard]] bool start(const LightStart& start, base::TimePoint now);
    /// No effect when it is not here (any more), like all below.
    void cancel(AttemptKey key);
    void cancel_all();
    /// A decode part: KV of so many tokens is to come.
    void want_room(AttemptKey key, std::uint32_t kv_tokens, base::TimePoint now);
    /// A decode part: the first token was seen.
    void go_on(AttemptKey key, std::uint32_t generated_tokens, base::TimePoint now);
    /// A decode part: its KV has arrived. False: it is not wanted any more.
    bool kv_arrived(AttemptKey key);
    /// Sequences that have their first token and room, and lack their KV.
    std::uint32_t kv_awaited() const;
    /// The next step takes so much longer.
    void delay_next_step(double seconds);
    /// A decode part: its KV will not come; computed here.
    void recompute(AttemptKey key, base::TimePoint now);
    /// A prefill part: its KV has arrived, or is not wanted any more.
    void handed_over(AttemptKey key) { cancel(key); }
    bool awaits_kv(AttemptKey key) const;

    /// Admits and grants what there is memory for. Also while a step runs.
    void give_memory(base::TimePoint now);
    /// Plans and begins the next step, which takes `seconds` of the model; none may run. Empty: nothing to compute.
    std::optional<base::Duration> begin_step(base::TimePoint now, double slowness);
    void finish_step(base::TimePoint now);
    /// What is left of the running step takes `factor` times as long. Not where quiet steps are foreseen.
    void stretch_step(base::TimePoint now, double factor);
    bool runs_step() const { return !step_.empty(); }
    /// Whether the step that runs computes tokens of prompts.
    bool prefills() const { return step_work_.prefill_tokens > 0; }
    base::TimePoint step_end() const { return step_began_ + step_takes_; }
    /// The end of the running step, or of a later one, if those before it are quiet: their ends tell nobody anything,
    /// and each is followed at once by a step of the same sequences, as long as nothing is asked of this worker.
    base::TimePoint quiet_until() const { return quiet_until_; }
    /// Finishes and begins quiet steps, up to the last that begins by then: what finish_step() and begin_step() would
    /// have done at the end of each. To be called before anything else is asked at a later time.
    void pass_quiet_steps(base::TimePoint now);
    /// Asks the processor to have ready what the next call will read: the first, and the list that the last names, for
    /// the second, that for the call. With ten thousand workers that is in no near cache.
    void fetch_state() const;
    void fetch_sequences(bool plans_memory) const;
    const void* list_of_sequences() const { return sequences_.data(); }
    base::TimePoint step_began() const { return step_began_; }
    /// Of copies to and from levels: when the next one ends; empty: none runs.
    std::optional<base::TimePoint> next_copy_end() const;
    /// Takes those that have ended by now.
    void end_copies();

    /// As Registration::send: what is to be reported now, into an empty message. False: nothing new, and it was
    /// reported less than `idle` ago.
    [[nodiscard]] bool report(base::TimePoint now, base::Duration idle, sluice::proto::Heartbeat& heartbeat);
    worker::ReportBoard& board() { return board_; }
    void registration(sluice::proto::RegisterWorker& message) const;

    const Options& options() const { return options_; }
    const kv_cache::KvCache& cache() const { return cache_; }
    std::size_t sequences() const { return sequences_.size(); }
    std::uint64_t steps() const { return steps_; }
    double busy_seconds() const { return busy_seconds_; }  // of all steps that began
    std::uint64_t preemptions() const { return preemptions_; }
    LevelUse level_use() const;
    /// What the step that runs computes of one sequence; they are numbered from 1 in the order in which they came.
    struct StepPart {
        std::uint64_t sequence = 0;
        std::uint32_t position = 0;
        std::uint32_t tokens = 0;
        bool samples = false;
        bool operator==(const StepPart&) const = default;
    };
    std::vector<StepPart> step_parts() const;
    /// The first of its sequences, for people; empty: it has none.
    std::string first_sequence() const;
    /// What holds between two calls; empty when all does.
    std::optional<std::string> violation() const;

private:
    /// Of a sequence, where there are levels.
    struct Named {
        std::vector<base::BlockHash> chain;  // of the full blocks of all its tokens
        std::optional<worker::KvFromEnd> from_end;
        std::uint32_t lost_tokens = 0;  // computed, when it gave way; 0: it has not, or is back
    };
    class Below;
    /// What a step of decodes reads stands first, in one cache line; what a step with prompts reads besides, in the
    /// next one; what is read where memory is planned, in the third.
    struct alignas(64) Sequence {
        std::uint32_t tokens = 0;
        std::uint32_t computed = 0;
        std::uint32_t tokens_first = 0;  // it has with its first token here, ...
        std::uint32_t tokens_last = 0;   // ... and with its last one
        std::uint32_t chain_blocks = 0;  // of start.chain
        std::uint32_t published_blocks = 0;
        std::uint32_t blocks_held = 0;
        std::uint32_t step_tokens = 0;
        worker::SequenceState state = worker::SequenceState::waiting;
        bool step_samples = false;
        bool has_continued = false;
        bool kv_is_here = false;
        std::optional<worker::TokenSchedule> schedule;

        AttemptKey key;
        std::uint32_t cached_tokens = 0;
        std::uint32_t told = 0;  // the last of its tokens that the listener heard of
        LightStart start;
        std::optional<kv_cache::SequenceKv> kv;
        base::Duration waited{};  // as worker::Sequence
        std::optional<base::TimePoint> waits_since;

        base::TimePoint accepted{};
        std::uint64_t id = 0;
        std::uint32_t cached_believed = 0;
        std::uint32_t awaited = 0;  // as worker::Sequence::awaited_tokens
        std::optional<worker::RoomWish> room;
        std::unique_ptr<Named> named;  // where there are levels

        std::span<const base::BlockHash> chain() const {
            return named ? std::span<const base::BlockHash>(named->chain) : start.chain;
        }
        base::Duration waited_for_memory(base::TimePoint now) const {
            return waits_since ? waited + (now - *waits_since) : waited;
        }
        /// As worker::Sequence::next_due.
        std::optional<base::TimePoint> next_due(base::TimePoint step_end) const;
        std::uint32_t generated() const { return tokens - start.prompt_tokens; }
        std::uint32_t tokens_left() const { return tokens - computed; }
        /// Where there are levels. As worker::Sequence::computable_after_step of one that is in no step.
        std::uint32_t computable() const {
            if (!named->from_end) { return tokens_left(); }
            return named->from_end->until - std::min(named->from_end->until, computed);
        }
        /// The same; of the tokens that are left.
        std::uint32_t comes_from_below() const {
            return named->from_end ? named->from_end->end - named->from_end->until : 0;
        }
        bool is_newcomer() const {
            return state == worker::SequenceState::waiting ||
                   (state == worker::SequenceState::awaiting_kv && room.has_value());
        }
        /// Awaiting KV: its first token is known, and it has room.
        bool lacks_kv_only() const { return has_continued && !kv_is_here && kv.has_value(); }
        std::uint32_t tokens_wanted() const { return room ? room->kv_tokens + 1 : tokens; }
    };

    Sequence* find(AttemptKey key);
    const Sequence* find(AttemptKey key) const;
    std::unique_ptr<Sequence> new_sequence();
    void end(Sequence& sequence);
    void put_aside(std::unique_ptr<Sequence> sequence);
    void take_kv(Sequence& sequence);
    void make_running(Sequence& sequence);
    void make_waiting(Sequence& sequence, base::TimePoint now);
    void publish(Sequence& sequence);
    worker::PlanCandidate candidate_of(const Sequence& sequence, base::TimePoint begin) const;
    const std::vector<worker::MemoryCandidate>& memory_candidates(base::TimePoint now);
    worker::MemoryCounts memory_counts() const;
    kv_cache::PrefixMatch match(const Sequence& sequence);
    std::uint32_t blocks_wanted(Sequence& sequence);
    std::uint32_t awaited_prefix(const Sequence& newcomer, base::TimePoint now) const;
    void open_kv(Sequence& sequence, base::TimePoint now);
    bool plan_step(base::TimePoint now);
    void plan_batch(base::TimePoint now);
    bool grow(base::TimePoint now);
    double look_at_step();
    base::Duration step_takes(double seconds, double slowness, std::uint64_t step) const;
    void begin_now(base::TimePoint now, base::Duration takes);
    bool has_news(const Sequence& sequence) const;
    void publish_news();
    void note_step();
    void learn_steps();
    void tell_steps();
    void foresee_quiet_steps(double slowness);
    void expect_no_quiet_steps();
    std::uint32_t quiet_ends_of(const StepEntry& entry) const;
    bool is_told(const Sequence& sequence, std::uint32_t tokens) const {
        return tokens >= sequence.tokens_last || options_.tells_every_token || tokens == sequence.tokens_first;
    }
    sluice::proto::WorkerLoad load() const;
    void report_blocks(worker::ReportBoard::Wish wish);
    // modelled_levels.cpp; of levels below the pool, where there are any.
    std::uint32_t tokens_known(const Sequence& sequence) const;
    void name_blocks(Sequence& sequence) const;
    void publish_named(Sequence& sequence);
    void publish_all();
    void leave(Sequence& sequence, bool for_good);
    void close_named(Sequence& sequence);
    bool finish_named(const StepEntry& entry);
    std::optional<std::string> level_violation() const;

    static constexpr std::uint32_t kForeseenMin = 8;  // steps
    struct EndedStep {
        base::StepWork work;
        base::Duration took{};
    };

    const Options options_;
    WorkerListener& listener_;
    const std::unique_ptr<Workspace> own_workspace_;  // null: borrowed
    Workspace& space_;
    kv_cache::KvCache cache_;  // sequences have leases of it: it goes last
    worker::ReportBoard board_;
    worker::StepForecast forecast_;  // learn_steps() before it is asked
    std::unique_ptr<Below> below_;   // null: nothing is
    std::vector<EndedStep> ended_;   // that were not learned from yet, or not told; from here on: what every step reads
    std::size_t ended_learned_ = 0;  // of them
    std::size_t ended_told_ = 0;
    std::vector<std::unique_ptr<Sequence>> sequences_;  // in order of arrival
    std::vector<std::unique_ptr<Sequence>> leaving_;    // ended while the step runs
    std::vector<StepEntry> step_;                       // that runs
    base::StepWork step_work_;                          // of it
    base::TimePoint step_began_{};
    base::Duration step_takes_{};
    base::TimePoint quiet_until_{};
    std::vector<base::Duration> quiet_takes_;  // what the steps after the running one take whose begins are foreseen
    std::size_t quiet_next_ = 0;               // the first of them that has not begun
    std::uint32_t quiet_max_ = kForeseenMin;   // so many are foreseen at once
    double busy_seconds_ = 0;
    double delay_seconds_ = 0;  // of the next step
    std::uint64_t next_sequence_ = 1;
    std::uint64_t next_room_turn_ = 0;
    std::uint32_t rotation_ = 0;
    std::uint64_t steps_ = 0;
    std::uint64_t preemptions_ = 0;
    std::uint64_t heartbeats_ = 0;
    base::TimePoint reported_at_{};
    std::string load_told_;
};

}  // namespace sim
