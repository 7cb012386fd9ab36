#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/clock.h"
#include "engine/engine.h"
#include "worker/role_part.h"
#include "worker/sequence.h"

namespace worker {

/// One sequence's share of a step.
struct StepEntry {
    Sequence* sequence = nullptr;  // lives until the step is collected (RunningStep::ended)
    std::uint32_t tokens = 0;      // > 0; from the first token whose KV will be missing when the step begins
    bool samples = false;          // the step chooses the token after them; never of a text to encode
};

/// One step from its plan to its result: what the engine computes, and who has to outlive it. A value that may be moved
/// at any time. Belongs to the step thread; the engine's threads read `chunks` between launch and collect.
struct RunningStep {
    std::vector<StepEntry> entries;            // in the order of the batch
    std::vector<engine::BatchEntry> prepared;  // of the batch, all but their tokens; moved into it by fill_tokens()
    engine::Batch batch;                       // the engine's from the launch on
    std::vector<LaunchedChunk> chunks;
    std::vector<std::unique_ptr<Sequence>> ended;  // while it ran: it still writes their blocks
    std::uint32_t rotation = 0;                    // PlanLimits::decode_rotation of the plan after this one
    base::TimePoint launched{};
    base::Duration predicted{};  // from its launch to its result; 0: not known
};

/// The step of these entries, as far as it can be known before the running one (if any) has given its tokens: each
/// sequence stands where that one will leave it. Memory for what is computed must be reserved. `spare` is filled again.
/// `prefill_part` (may be null) says which hand-offs wait for the chunks.
RunningStep build_step(std::vector<StepEntry> entries, engine::Batch&& spare, const RolePart* prefill_part);

/// Puts the tokens in, which must all be there now: between finish and launch, so short. `vocabulary`: of the model.
void fill_tokens(RunningStep& step, std::uint32_t vocabulary);

}  // namespace worker
