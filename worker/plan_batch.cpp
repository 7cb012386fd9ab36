#include "worker/plan_batch.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/check.h"

namespace worker {
namespace {

/// Who is behind its schedule may take so many steps to be back on it, if its answer is long enough.
constexpr double kStepsToCatchUp = 4;

/// Prompts that are short of time get so much more than what just suffices: others may come, and steps vary.
constexpr double kHurry = 1.25;

bool is_decode(const PlanCandidate& candidate) {
    return candidate.tokens_left == 1 || candidate.decodes;
}

/// How long the step may take for the sequences that decode in it.
struct TimeAllowed {
    double normal = kNever;   // everybody keeps to its schedule
    double stretch = kNever;  // what is saved is spent, too
};

/// Seconds of a step without its prompt tokens: its decodes have one token each.
double decode_seconds(const base::StepCost& cost, std::span<const PlanCandidate> candidates,
                      std::span<const PlanEntry> decodes) {
    double context = 0;
    for (const PlanEntry& entry : decodes) {
        context += candidates[entry.candidate].context_tokens;
    }
    return cost.prefill.step_seconds +
           base::decode_share_seconds(cost.decode, static_cast<double>(decodes.size()), context);
}

/// Even if from now on nothing but decodes ran, at `step_seconds` each, it would miss its mean gap.
bool is_lost(const PlanCandidate& decode, double step_seconds) {
    return decode.due_seconds + decode.answer_tokens_max * (decode.tpot_seconds - step_seconds) < step_seconds;
}

TimeAllowed time_allowed(std::span<const PlanCandidate> candidates, std::span<const PlanEntry> decodes,
                         double step_seconds) {
    TimeAllowed allowed;
    for (const PlanEntry& entry : decodes) {
        const PlanCandidate& decode = candidates[entry.candidate];
        const double gap_max = kGapTargetsMax * decode.tpot_seconds;
        const double due = is_lost(decode, step_seconds) ? gap_max : decode.due_seconds;
        const double behind = std::max(0.0, decode.tpot_seconds - due);
        const double steps = std::min<double>(kStepsToCatchUp, 1.0 + decode.answer_tokens_max);
        allowed.normal = std::min(allowed.normal, decode.tpot_seconds - behind / steps);
        allowed.stretch =
            std::min(allowed.stretch, std::max(std::min(due, gap_max), decode.tpot_seconds - behind / steps));
    }
    return allowed;
}

/// For how long it has waited too long; 0 or less: it has not. Who has comes before all who can still be in time. So
/// one that is late waits the longer the longer it was willing to wait: most find a moment in which nobody is in a
/// hurry.
double overdue_seconds(const PlanCandidate& prompt, double wait_seconds) {
    const double waited = prompt.waited_seconds - wait_seconds;
    if (prompt.due_seconds == kNever) { return waited; }
    const double target = prompt.waited_seconds + prompt.due_seconds;
    return std::min(waited, -prompt.due_seconds - kLateTargets * target);
}

/// Prompts of one step, in the order in which they are computed, and what their deadlines ask of it.
class PromptOrder {
public:
    PromptOrder(std::span<const PlanCandidate> candidates, const PlanLimits& limits) : candidates_(candidates) {
        for (std::uint32_t index = 0; index < candidates.size(); ++index) {
            if (is_decode(candidates[index])) { continue; }
            (overdue_seconds(candidates[index], limits.prompt_wait_seconds) > 0 ? overdue_ : rest_).push_back(index);
        }
        if (overdue_.size() > 1) {
            std::stable_sort(overdue_.begin(), overdue_.end(), [&](std::uint32_t a, std::uint32_t b) {
                return overdue_seconds(candidates_[a], limits.prompt_wait_seconds) >
                       overdue_seconds(candidates_[b], limits.prompt_wait_seconds);
            });
        }
        if (rest_.size() < 2) { return; }
        std::stable_sort(rest_.begin(), rest_.end(), [this](std::uint32_t a, std::uint32_t b) {
            return candidates_[a].due_seconds < candidates_[b].due_seconds;
        });
    }

    /// Leaves out, as many as must be, those that cannot be in time when prompts get `share` of all time.
    void keep_feasible(const base::StepCost& cost, double share) {
        std::vector<std::uint32_t> kept;
        double seconds = 0;
        for (const std::uint32_t index : overdue_) {
            seconds += work_seconds(cost, index);
        }
        for (const std::uint32_t index : rest_) {
            kept.push_back(index);
            seconds += work_seconds(cost, index);
            const double due = candidates_[index].due_seconds;
            if (due == kNever || seconds <= share * due) { continue; }
            const auto longest = std::max_element(kept.begin(), kept.end(), [&](std::uint32_t a, std::uint32_t b) {
                return work_seconds(cost, a) < work_seconds(cost, b);
            });
            seconds -= work_seconds(cost, *longest);
            late_.push_back(*longest);
            kept.erase(longest);
        }
        std::sort(late_.begin(), late_.end());
        rest_ = std::move(kept);
    }

    /// The shortest step with which all (that are left) are in time, when a share of kTimeUsed of it is planned for and
    /// `decode_seconds` of it are not theirs. At most kNever.
    double seconds_needed(const base::StepCost& cost, double decode_seconds) const {
        double needed = 0;
        double work = 0;
        for (const std::uint32_t index : rest_) {
            work += work_seconds(cost, index);
            const double due = candidates_[index].due_seconds;
            if (due == kNever) { break; }
            const double share_left = kTimeUsed - work / due;
            needed = std::max(needed, share_left > 0 ? decode_seconds / share_left : kNever);
        }
        return needed;
    }

    std::vector<std::uint32_t> indices() const {
        std::vector<std::uint32_t> all = overdue_;
        all.insert(all.end(), rest_.begin(), rest_.end());
        all.insert(all.end(), late_.begin(), late_.end());
        return all;
    }
    bool has_overdue() const { return !overdue_.empty(); }

private:
    double work_seconds(const base::StepCost& cost, std::uint32_t index) const {
        const PlanCandidate& prompt = candidates_[index];
        return base::prefill_seconds(cost.prefill, 0, prompt.tokens_left,
                                     base::context_sum(prompt.context_tokens, prompt.tokens_left));
    }

    std::span<const PlanCandidate> candidates_;
    std::vector<std::uint32_t> overdue_;
    std::vector<std::uint32_t> rest_;
    std::vector<std::uint32_t> late_;
};

/// Prompt tokens of one prompt that take at most `seconds`.
std::uint32_t tokens_within(const base::PrefillCost& cost, const PlanCandidate& prompt, double seconds) {
    if (seconds <= 0) { return 0; }
    // context_sum is about tokens * (context + tokens / 2): a quadratic equation in the number of tokens.
    const double linear = cost.token_seconds + cost.context_seconds * prompt.context_tokens;
    const double square = cost.context_seconds / 2;
    const double tokens = square > 0   ? (std::sqrt(linear * linear + 4 * square * seconds) - linear) / (2 * square)
                          : linear > 0 ? seconds / linear
                                       : kNever;
    return static_cast<std::uint32_t>(std::min<double>(tokens, prompt.tokens_left));
}

/// At most `decodes_max` of them, one token each.
std::vector<PlanEntry> plan_decodes(std::span<const PlanCandidate> candidates, std::uint32_t decodes_max,
                                    std::uint32_t rotation) {
    const auto count = static_cast<std::uint32_t>(candidates.size());
    std::vector<PlanEntry> decodes;
    decodes.reserve(count);
    std::uint32_t index = rotation % std::max(1u, count);
    for (std::uint32_t i = 0; i < count; ++i) {
        CHECK(candidates[index].tokens_left > 0);
        if (is_decode(candidates[index])) { decodes.push_back({index, 1}); }
        if (++index == count) { index = 0; }
    }
    if (decodes.size() <= decodes_max) { return decodes; }
    std::stable_sort(decodes.begin(), decodes.end(), [&](const PlanEntry& a, const PlanEntry& b) {
        return candidates[a.candidate].due_seconds < candidates[b.candidate].due_seconds;
    });
    decodes.resize(decodes_max);
    return decodes;
}

/// What a step has left for tokens that are computed as those of prompts are.
struct Room {
    std::uint32_t tokens = 0;
    double seconds = kNever;
};

/// Takes what fits of what is left of `prompt`; `least` tokens of it whatever the time, where there are as many.
std::uint32_t take(Room& room, const PlanLimits& limits, const PlanCandidate& prompt, std::uint32_t least) {
    std::uint32_t share = std::min(room.tokens, prompt.tokens_left);
    if (room.seconds != kNever) {
        const base::PrefillCost& cost = limits.cost->prefill;
        share = std::min(share, std::max(least, tokens_within(cost, prompt, room.seconds)));
        room.seconds -= base::prefill_seconds(cost, 0, share, base::context_sum(prompt.context_tokens, share));
    }
    room.tokens -= share;
    return share;
}

/// What `decodes` have left behind the one token of each: from half of the room where prompts wait for it, too.
void add_forced(std::vector<PlanEntry>& decodes, std::span<const PlanCandidate> candidates, const PlanLimits& limits,
                Room& room, bool has_prompt) {
    const Room given = has_prompt ? Room{room.tokens / 2, room.seconds / 2} : room;
    Room left = given;
    for (PlanEntry& entry : decodes) {
        PlanCandidate rest = candidates[entry.candidate];
        if (--rest.tokens_left == 0) { continue; }
        ++rest.context_tokens;
        entry.tokens += take(left, limits, rest, 0);
    }
    room.tokens -= given.tokens - left.tokens;
    if (room.seconds != kNever) { room.seconds -= given.seconds - left.seconds; }
}

}  // namespace

std::vector<PlanEntry> plan_batch(std::span<const PlanCandidate> candidates, const PlanLimits& limits) {
    CHECK(limits.sequences_max > 0 && limits.tokens_max > 0 && limits.chunk_tokens_max > 0);
    const bool has_prompt = std::any_of(candidates.begin(), candidates.end(),
                                        [](const PlanCandidate& candidate) { return !is_decode(candidate); });
    std::uint32_t decodes_max = std::min(limits.sequences_max, limits.tokens_max);
    if (has_prompt && decodes_max > 1) { --decodes_max; }  // decodes alone could fill every step for ever
    std::vector<PlanEntry> plan = plan_decodes(candidates, decodes_max, limits.decode_rotation);
    const bool has_forced = std::any_of(
        plan.begin(), plan.end(), [&](const PlanEntry& entry) { return candidates[entry.candidate].tokens_left > 1; });
    if (!has_prompt && !has_forced) { return plan; }

    PromptOrder prompts(candidates, limits);
    const bool decodes = !plan.empty();
    Room room{limits.tokens_max - static_cast<std::uint32_t>(plan.size()), kNever};
    const bool all_have_targets = std::all_of(plan.begin(), plan.end(), [&](const PlanEntry& entry) {
        return candidates[entry.candidate].tpot_seconds != kNever;
    });
    if (decodes && !all_have_targets) { room.tokens = std::min(room.tokens, limits.chunk_tokens_max); }
    if (decodes && !limits.cost && all_have_targets) {
        // Who waited too long has its turn even where nobody knows what that costs the others.
        const std::uint32_t least = prompts.has_overdue() ? kChunkTokensMin : 0;
        room.tokens = std::min({room.tokens, limits.chunk_tokens_max, std::max(least, limits.chunk_tokens_learning)});
    }
    if (limits.cost) {
        const double beside = decodes ? decode_seconds(*limits.cost, candidates, plan) * limits.cost_ratio : 0;
        const TimeAllowed allowed = time_allowed(candidates, plan, beside);
        const double share = decodes ? std::max(0.0, kTimeUsed - beside / std::max(beside, allowed.stretch)) : 1;
        prompts.keep_feasible(*limits.cost, share);
        if (allowed.normal != kNever) {
            const double needed = prompts.seconds_needed(*limits.cost, beside);
            const double step = std::max(allowed.normal, std::min(kHurry * needed, allowed.stretch));
            room.seconds = (kTimeUsed * step - beside) / limits.cost_ratio;
        }
    }
    if (has_forced) { add_forced(plan, candidates, limits, room, has_prompt); }
    bool takes_turn = prompts.has_overdue();
    for (const std::uint32_t index : prompts.indices()) {
        if (room.tokens == 0 || plan.size() == limits.sequences_max) { break; }
        const std::uint32_t least = std::exchange(takes_turn, false) ? kChunkTokensMin : 0;
        const std::uint32_t share = take(room, limits, candidates[index], least);
        if (share == 0) { break; }
        plan.push_back({index, share});
    }
    CHECK(!plan.empty());  // without decodes no time is set
    return plan;
}

std::vector<PlanEntry> plan_texts(std::span<const PlanCandidate> candidates, const PlanLimits& limits) {
    CHECK(limits.sequences_max > 0 && limits.tokens_max > 0);
    std::vector<PlanEntry> plan;
    std::uint32_t room = limits.tokens_max;
    for (std::uint32_t index = 0; index < candidates.size() && room > 0 && plan.size() < limits.sequences_max;
         ++index) {
        const std::uint32_t tokens = candidates[index].tokens_left;
        CHECK(tokens > 0 && tokens <= limits.tokens_max, tokens << " tokens, at most " << limits.tokens_max);
        if (tokens > room) { continue; }
        plan.push_back({index, tokens});
        room -= tokens;
    }
    return plan;
}

}  // namespace worker
