#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "scheduler/cluster_view.h"

namespace scheduler {

/// What is left to do on each worker, now: what it reported last, and what this scheduler has sent it and heard of it
/// since. Gateways tell of first tokens and ends at once, so this knows of them before the next report does; and
/// nothing is counted twice while a report and a placement cross. Not thread-safe. Slots are those of the registry.
///
/// A new scheduler knows only reports: what they have more than its own placements is counted as it is reported.
class Backlog {
public:
    /// Of a placement; never used twice.
    using Number = std::uint64_t;

    /// What a placement was promised; infinite: nothing.
    struct Promise {
        double ttft_seconds_left = std::numeric_limits<double>::infinity();
        double tpot_seconds = std::numeric_limits<double>::infinity();
        bool is_probe = false;  // as Placement's
    };
    void placed(Number number, std::uint32_t prefill_slot, std::uint32_t decode_slot, std::uint32_t uncached_tokens,
                std::uint32_t prompt_tokens, base::TimePoint now, const Promise& promise);
    void placed(Number number, std::uint32_t prefill_slot, std::uint32_t decode_slot, std::uint32_t uncached_tokens,
                std::uint32_t prompt_tokens, base::TimePoint now) {
        placed(number, prefill_slot, decode_slot, uncached_tokens, prompt_tokens, now, Promise{});
    }
    /// Its first token was seen: it decodes. Without effect when it is not known, like ended().
    void first_token(Number number, base::TimePoint now);
    void ended(Number number, base::TimePoint now);
    /// A fresh report of the worker in `slot`. False: it says what was expected, where only time changes expect().
    bool reported(std::uint32_t slot, const ReportedLoad& load, base::TimePoint now);
    /// The life in `slot` has ended.
    void clear(std::uint32_t slot);

    /// Asks the processor to have ready what expect() will read.
    void fetch(std::uint32_t slot) const;
    /// All of `load` is written.
    void expect(std::uint32_t slot, base::TimePoint now, ExpectedLoad& load) const;
    ExpectedLoad expect(std::uint32_t slot, base::TimePoint now) const {
        ExpectedLoad load;
        expect(slot, now, load);
        return load;
    }
    /// How long a sequence that decodes at some instant is expected to go on: the mean residual of the answers that
    /// ended lately, in seconds. Empty while too few have.
    std::optional<double> residual_seconds() const;

private:
    struct Prompt {
        double tokens = 0;  // uncached
        base::TimePoint placed{};
        base::TimePoint due = base::TimePoint::max();  // its first token
    };
    /// What expect() reads stands first, in two cache lines.
    struct alignas(64) Slot {
        double prompt_tokens = 0;   // of all prompts without a first token
        double first_tokens = 0;    // of the oldest of them
        std::uint32_t waiting = 0;  // how many they are
        std::uint32_t coming = 0;   // prompts that will decode here
        // At the last report, brought forward by what was heard since.
        double computed_tokens = 0;  // of `prompts`
        double unknown_tokens = 0;   // prompts of nobody here
        double unknown_prompts = 0;
        double decoding = 0;
        double decode_context = 0;
        double strictest = std::numeric_limits<double>::infinity();  // the least of `targets`
        base::TimePoint turned{};  // when the prompt whose turn it is was known to have computed_tokens
        base::TimePoint busy{};    // when there was something to do last
        base::TimePoint joined{};  // when something was placed beside other work last
        base::TimePoint due = base::TimePoint::max();  // the first token that is due first
        int probes = 0;                                // in a row, of those that were
        std::map<Number, Prompt> prompts;              // without a first token yet, oldest first
        std::map<double, std::uint32_t> targets;       // of those placed here to decode, how many have each

        /// `prompts` have changed.
        void count_prompts() {
            waiting = static_cast<std::uint32_t>(prompts.size());
            first_tokens = prompts.empty() ? 0 : prompts.begin()->second.tokens;
        }
    };
    struct Placed {
        std::uint32_t prefill_slot = 0;
        std::uint32_t decode_slot = 0;
        std::uint64_t prefill_life = 0;
        std::uint64_t decode_life = 0;
        std::uint32_t prompt_tokens = 0;
        double tpot_seconds_target = 0;
        std::optional<base::TimePoint> began;
    };
    Slot& slot_at(std::uint32_t slot);
    Slot* slot_of(std::uint32_t slot, std::uint64_t life);
    static LatePrompts late(const std::map<Number, Prompt>& prompts, base::TimePoint now);
    static void take_prompt(Slot& slot, Number number, bool is_computed, base::TimePoint now);

    std::unordered_map<Number, Placed> placed_;
    std::vector<Slot> slots_;
    std::vector<std::uint64_t> lives_;
    // Moments of how long answers took, the last few dozen weighing most.
    double answers_ = 0;
    double answer_seconds_ = 0;
    double answer_squares_ = 0;
    double residual_seconds_ = 0;  // residual_seconds(), for each look; 0: unknown
};

}  // namespace scheduler
