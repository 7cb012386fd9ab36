#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <vector>

#include "base/step_cost.h"

namespace worker {

/// No target: whenever it comes.
inline constexpr double kNever = std::numeric_limits<double>::infinity();

/// What the plan needs to know of a sequence that may run, in order of arrival. Seconds count from when the step
/// begins.
struct PlanCandidate {
    std::uint32_t tokens_left = 0;     // > 0; 1: a decode step, more: a prompt (or what is left of one), or `decodes`
    bool decodes = false;              // all that is left came with its last step: tokens that a grammar has forced
    std::uint32_t context_tokens = 0;  // whose KV is there
    double due_seconds = kNever;       // its next token is due then, by its TTFT or TPOT target; negative: it is late
    double tpot_seconds = kNever;      // target for the mean gap of its later tokens
    std::uint32_t answer_tokens_max = 0;  // that may follow the next one
    double waited_seconds = 0;            // since it was accepted
};

/// Bounds of one step.
struct PlanLimits {
    std::uint32_t sequences_max = 0;  // > 0
    std::uint32_t tokens_max = 0;     // > 0; new tokens of the step, decodes included
    /// > 0; prompt tokens of a step that also decodes, where a decoding sequence has no TPOT target.
    std::uint32_t chunk_tokens_max = 0;
    /// The same where all have one, but the cost of steps is not known yet.
    std::uint32_t chunk_tokens_learning = 0;
    std::uint32_t decode_rotation = 0;  // index from which decodes are taken when not all fit; the caller advances it
    std::optional<base::StepCost> cost = {};  // what a step takes
    double cost_ratio = 1;                    // measured / predicted of mixed steps lately
    /// A prompt that waited longer, and is late by more than kLateTargets where it has a deadline, goes first and gets
    /// kChunkTokensMin.
    double prompt_wait_seconds = kNever;
};

/// A prompt that is late by no more than so many of its TTFT targets has not waited too long.
inline constexpr double kLateTargets = 4;
/// A prompt whose turn it is gets so many tokens of every step, whatever the others have been promised.
inline constexpr std::uint32_t kChunkTokensMin = 16;
/// No gap between two tokens is planned longer than so many TPOT targets; with what steps vary it stays below two.
inline constexpr double kGapTargetsMax = 1.8;
/// Share of the time allowed that is planned for: steps vary.
inline constexpr double kTimeUsed = 0.95;

/// One sequence's share of the step.
struct PlanEntry {
    std::uint32_t candidate = 0;  // index into the candidates
    std::uint32_t tokens = 0;     // > 0; from the first token whose KV is missing
    bool operator==(const PlanEntry&) const = default;
};

/// The next step: one token of every decode that fits (the soonest due first), then prompts in chunks. Pure.
///
/// Order of prompts: those that waited too long, longest first; those that can still be in time, earliest deadline
/// first, as many of them as possible (Moore 1968: where not all can, the longest is left out); all others. Ties in
/// order of arrival.
///
/// Prompt tokens beside decodes: as many as fit in the time that the decoding sequences have. That is one TPOT target
/// of each, or less for who is behind its schedule (unless it cannot catch up any more). A prompt that would miss its
/// deadline at that pace takes what sequences are ahead of their schedules, too: of each at most what it has saved, and
/// never a gap beyond kGapTargetsMax. So a long prompt stretches nobody's mean gap beyond the target, and steps are as
/// full as that allows: with targets of 20 ms no decode batch runs at 12 ms while prompts wait. Where there are no
/// targets or no cost is known, `chunk_tokens_max` bounds the prompts (Sarathi-Serve, Agrawal et al., OSDI 2024).
///
/// The other tokens of decodes to which a grammar gave several at once count as prompt tokens and go before prompts,
/// but leave them half of tokens and time: nobody's gap grows for a run of somebody else, and one that finds no room is
/// computed over several steps, one token in each at least.
std::vector<PlanEntry> plan_batch(std::span<const PlanCandidate> candidates, const PlanLimits& limits);

/// Whether plan_batch() of so many decodes with one token each, and nobody else, takes all of them, in order from
/// `decode_rotation` on: then nothing is to be weighed.
inline bool takes_every_decode(std::uint32_t decodes, std::uint32_t sequences_max, std::uint32_t tokens_max) {
    return decodes <= sequences_max && decodes <= tokens_max;
}

/// The next step of an encoder: texts, each whole, in order of arrival, as many as fit; one that does not fit lets
/// later, shorter ones go first, and is the first of the next step. `candidates`: tokens of each text, at most
/// tokens_max. Pure.
std::vector<PlanEntry> plan_texts(std::span<const PlanCandidate> candidates, const PlanLimits& limits);

}  // namespace worker
