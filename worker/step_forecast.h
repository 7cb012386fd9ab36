#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "base/clock.h"
#include "base/step_fit.h"
#include "worker/plan_batch.h"
#include "worker/sequence_trace.h"
#include "worker/step_reporter.h"

namespace worker {

/// What this worker's steps take, learned from its own: what the planner of the next step goes by. Step thread only.
class StepForecast {
public:
    void note_step(std::span<const StepShare> shares, base::Duration duration);
    void note_step(const base::StepWork& work, base::Duration duration);

    /// Empty until enough steps were seen.
    std::optional<base::StepCost> cost() const { return fit_.cost(); }
    /// The same of prompts and of decodes by themselves.
    KnownCosts known() const;
    /// Prompt tokens of a step that decodes for those who were promised a TPOT, until there is a cost: none until
    /// decodes are known, of which mixed steps teach nothing, then few.
    std::uint32_t chunk_tokens_learning() const { return fit_.decode_is_fitted() ? kChunkTokensMin : 0; }
    /// measured / predicted of steps with prompts and decodes in them, lately: what the sum of both models is off.
    double mixed_ratio() const { return fit_.mixed_ratio(); }
    /// What computing the KV of `tokens` tokens behind `computed_tokens` takes in steps of at most `step_tokens`; empty
    /// while too little is known.
    std::optional<base::Duration> predict_prefill(std::uint32_t computed_tokens, std::uint32_t tokens,
                                                  std::uint32_t step_tokens) const;
    /// Zero while nothing is known.
    base::Duration predict(std::span<const StepShare> shares) const;

private:
    base::StepFit fit_;
};

/// The step that computes these shares.
base::StepWork work_of(std::span<const StepShare> shares);

}  // namespace worker
