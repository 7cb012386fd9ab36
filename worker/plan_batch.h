#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace worker {

/// What the plan needs to know of a sequence that may run, in order of arrival.
struct PlanCandidate {
    std::uint32_t tokens_left = 0;  // > 0; 1: a decode step, more: a prompt (or what is left of one)
};

/// Bounds of one step.
struct PlanLimits {
    std::uint32_t sequences_max = 0;     // > 0
    std::uint32_t tokens_max = 0;        // > 0; new tokens of the step, decodes included
    std::uint32_t chunk_tokens_max = 0;  // > 0; prompt tokens of a step that also decodes
    std::uint32_t decode_rotation = 0;   // index from which decodes are taken when not all fit; the caller advances it
};

/// One sequence's share of the step.
struct PlanEntry {
    std::uint32_t candidate = 0;  // index into the candidates
    std::uint32_t tokens = 0;     // > 0; from the first token whose KV is missing
    bool operator==(const PlanEntry&) const = default;
};

/// The next step: every decode that fits (one token each), then prompts in order of arrival in chunks until the token
/// budget is used. With decodes in the batch the prompts get `chunk_tokens_max` at most, so that a long prompt does not
/// stall the running streams (Sarathi-Serve, Agrawal et al., OSDI 2024). Pure.
std::vector<PlanEntry> plan_batch(std::span<const PlanCandidate> candidates, const PlanLimits& limits);

}  // namespace worker
