#include "worker/running_step.h"

#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "base/check.h"

namespace worker {
namespace {

/// Log-probabilities of the prompt are wanted, and this chunk holds tokens that have a successor in it.
bool scores_prompt(const Sequence& sequence) {
    return sequence.wants_prompt_scores() && sequence.computed_after_step() + 1 < sequence.prompt_tokens &&
           sequence.generated_after_step() == 0;
}

std::shared_ptr<const engine::LateMask> only(base::TokenId token, std::uint32_t vocabulary) {
    auto mask = std::make_shared<engine::LateMask>(vocabulary);
    std::vector<std::uint32_t> words((std::size_t{vocabulary} + 31) / 32);
    words[static_cast<std::uint32_t>(token) / 32] = 1U << (static_cast<std::uint32_t>(token) % 32);
    mask->set(std::move(words));
    return mask;
}

/// What the next token may be; null: anything. `generated` are the sequence's.
std::shared_ptr<const engine::LateMask> mask_of(Sequence& sequence, std::span<const base::TokenId> generated,
                                                std::uint32_t vocabulary) {
    if (!sequence.reasoning) {
        return sequence.grammar == nullptr ? nullptr : sequence.grammar->next(generated, std::nullopt);
    }
    const base::ReasoningState& reasoning = *sequence.reasoning;
    if (const auto token = reasoning.forced()) { return only(*token, vocabulary); }
    if (sequence.grammar == nullptr || reasoning.is_inside()) { return nullptr; }
    const auto also = reasoning.may_begin() ? std::optional(sequence.request.reasoning->begin) : std::nullopt;
    return sequence.grammar->next(generated.subspan(reasoning.answer_begin()), also);
}

/// Before the answer that a grammar is about has begun it must not end.
bool may_not_end(const Sequence& sequence) {
    const bool reasons_first = sequence.grammar != nullptr && sequence.reasoning && sequence.reasoning->is_inside();
    return reasons_first || sequence.generated_tokens() < sequence.request.stop.new_tokens_min;
}

}  // namespace

RunningStep build_step(std::vector<StepEntry> entries, engine::Batch&& spare, const RolePart* prefill_part) {
    RunningStep step;
    step.entries = std::move(entries);
    step.batch = std::move(spare);
    step.batch.clear();
    step.prepared.reserve(step.entries.size());
    for (const StepEntry& planned : step.entries) {
        const Sequence& sequence = *planned.sequence;
        const std::uint32_t position = sequence.computed_after_step();
        const std::uint32_t end = position + planned.tokens;
        engine::BatchEntry& entry = step.prepared.emplace_back();
        entry.sequence = sequence.id;
        entry.position = position;
        if (sequence.encodes()) {
            entry.pooling = engine::Pooling::own;
            continue;
        }
        entry.set_blocks(sequence.kv->blocks());
        entry.sample = planned.samples;
        if (scores_prompt(sequence)) {
            // The last token of the prompt has no successor in it: its score is of a stand-in and is not kept.
            entry.score = true;
            const auto first = sequence.tokens.begin() + position;
            entry.score_targets.assign(first + 1, first + planned.tokens);
            entry.score_targets.push_back(end < sequence.prompt_tokens ? sequence.tokens[end] : sequence.tokens.back());
        }
        if (sequence.request.part != Part::prefill || prefill_part == nullptr) { continue; }
        if (const auto handoff = prefill_part->handoff_of(sequence)) {
            step.chunks.push_back({*handoff, position, end});
        }
    }
    return step;
}

void fill_tokens(RunningStep& step, std::uint32_t vocabulary) {
    for (std::size_t i = 0; i < step.entries.size(); ++i) {
        Sequence& sequence = *step.entries[i].sequence;
        engine::BatchEntry& entry = step.prepared[i];
        const std::uint32_t count = step.entries[i].tokens;
        const bool is_whole = sequence.tokens_left() == count;
        const bool ends = entry.sample || sequence.encodes();
        CHECK(sequence.computed_tokens == entry.position && is_whole == ends && sequence.tokens_left() >= count,
              "sequence " << base::raw(sequence.id) << " stands at " << sequence.computed_tokens << " of "
                          << sequence.tokens.size() << " tokens, planned were " << count << " from " << entry.position);
        const std::span<const base::TokenId> tokens(sequence.tokens);
        const auto news = tokens.subspan(entry.position, count);
        entry.tokens.assign(news.begin(), news.end());
        if (sequence.encodes()) {
            step.batch.add() = std::move(entry);
            continue;
        }
        engine::SamplerContext sampler{.params = &sequence.request.sampling,
                                       .position = tokens.size(),
                                       .prompt = tokens.first(sequence.prompt_tokens),
                                       .generated = tokens.subspan(sequence.prompt_tokens)};
        if (sequence.request.reasoning) {
            if (!sequence.reasoning) { sequence.reasoning.emplace(*sequence.request.reasoning); }
            sequence.reasoning->follow(sampler.generated);
        }
        if (may_not_end(sequence)) { sampler.masked_tokens = sequence.request.stop.stop_tokens; }
        entry.sampler.assign(sampler);
        if (entry.sample) { entry.mask = mask_of(sequence, sampler.generated, vocabulary); }
        step.batch.add() = std::move(entry);
    }
}

}  // namespace worker
