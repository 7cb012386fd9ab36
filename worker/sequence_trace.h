#pragma once

#include <cstdint>
#include <optional>

#include "base/clock.h"
#include "base/step_cost.h"

namespace worker {

/// Where the time went from one output of a sequence to the next (proto PartTrace). No two of memory, turn, kv,
/// preempted, recomputed and steps count the same time.
struct PartTimes {
    base::TimePoint since{};      // Start, Continue, or the output before
    base::Duration total{};       // from there until the output goes out
    base::Duration memory{};      // waited for KV memory; a decode part: for room
    base::Duration turn{};        // had memory while steps computed others, or shared a step with other prompts
    base::Duration kv{};          // had memory and waited for KV of another worker
    base::Duration preempted{};   // from the loss of its KV memory until the next token
    base::Duration recomputed{};  // from giving up KV of a hand-off until the next token
    base::Duration steps{};       // of steps that computed some of it, without what is `turn`
    base::Duration others{};      // of `steps`: what prompts added to a decode, or decodes to a prompt
    base::Duration alone{};       // what these steps are expected to take without company; 0: not known
    std::uint32_t step_count = 0;
    std::uint32_t prompt_tokens = 0;  // computed in them
    std::uint32_t batch = 0;          // sequences that decode in the last of them
    base::Duration tpot_target{};     // told only when `total` is more; 0: always
};

/// What steps take, as far as it is known: of each kind by itself, since a prefill worker never learns of decodes.
struct KnownCosts {
    std::optional<base::PrefillCost> prefill;
    std::optional<base::DecodeCost> decode;

    /// Empty while steps of that kind are not known.
    std::optional<double> seconds(const base::StepWork& work) const;
};

/// What of a step's time belongs to one sequence in it.
struct StepSplit {
    base::Duration turn{};    // to other prompts, of a prompt
    base::Duration others{};  // to the other phase
    base::Duration alone{};   // it would have taken by itself; 0: not known
};
/// Of a step that did `all` in `took`, of which `own` is the sequence's. By the costs, else by tokens. Pure.
StepSplit split_step(const base::StepWork& all, const base::StepWork& own, base::Duration took,
                     const KnownCosts& costs);

/// Follows one sequence from output to output. Step thread only. Without begin() every call does nothing.
class SequenceTrace {
public:
    enum class Wait { none, memory, turn, kv, preempted, recomputed };

    /// From here on time counts, and the sequence waits for `what`.
    void begin(base::TimePoint now, Wait what);
    bool is_on() const { return is_on_; }
    /// It waits for something else now. What began with `preempted` or `recomputed` stays that until the next token.
    void wait_for(Wait what, base::TimePoint now);
    /// A step with it is launched; the one before it ended at `step_ended` (in which others had their turn).
    void launched(base::TimePoint step_ended);
    /// That step has ended.
    void stepped(base::TimePoint ended, base::Duration took, const base::StepWork& all, const base::StepWork& own,
                 const KnownCosts& costs);
    /// A token is out: the times until it; the next ones begin.
    PartTimes take(base::TimePoint now);

private:
    bool is_sticky() const { return wait_ == Wait::preempted || wait_ == Wait::recomputed; }
    void close(base::TimePoint now);

    bool is_on_ = false;
    Wait wait_ = Wait::none;
    base::TimePoint waits_since_{};
    PartTimes times_;
};

}  // namespace worker
