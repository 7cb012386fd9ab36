#include "scheduler/backlog.h"

#include <algorithm>
#include <cmath>
#include <tuple>

namespace scheduler {
namespace {

using Seconds = std::chrono::duration<double>;

/// A report that shows fewer requests than were sent may have left before the newest came; older ones have ended, and
/// the gateway's word of it is on its way.
constexpr base::Duration kOnItsWay = std::chrono::seconds(1);
/// Answers that the mean of their lengths remembers, and how many are needed for it.
constexpr double kAnswersRemembered = 64;
constexpr double kAnswersNeeded = 4;
constexpr std::size_t kCacheLine = 64;
constexpr std::size_t kLinesExpected = 2;  // of a slot, that expect() reads
/// Probes in vain that make the pause before the next one twice as long.
constexpr int kProbesMax = 4;

}  // namespace

Backlog::Slot& Backlog::slot_at(std::uint32_t slot) {
    if (slot >= slots_.size()) {
        slots_.resize(slot + 1);
        lives_.resize(slot + 1);
    }
    return slots_[slot];
}

Backlog::Slot* Backlog::slot_of(std::uint32_t slot, std::uint64_t life) {
    return lives_.at(slot) == life ? &slots_[slot] : nullptr;
}

void Backlog::placed(Number number, std::uint32_t prefill_slot, std::uint32_t decode_slot,
                     std::uint32_t uncached_tokens, std::uint32_t prompt_tokens, base::TimePoint now,
                     const Promise& promise) {
    slot_at(std::max(prefill_slot, decode_slot));
    Slot& slot = slots_[prefill_slot];
    if (slot.prompts.empty()) { slot.turned = now; }
    Prompt& prompt = slot.prompts[number];
    prompt = {.tokens = static_cast<double>(uncached_tokens), .placed = now};
    if (std::isfinite(promise.ttft_seconds_left)) {
        prompt.due = now + std::chrono::duration_cast<base::Duration>(Seconds(promise.ttft_seconds_left));
        slot.due = std::min(slot.due, prompt.due);
    }
    slot.count_prompts();
    slot.prompt_tokens += uncached_tokens;
    Slot& decodes = slots_[decode_slot];
    if (decodes.decoding > 0 || decodes.coming > 0) {
        decodes.joined = now;
        decodes.probes = promise.is_probe ? std::min(decodes.probes + 1, kProbesMax) : 0;
    }
    ++decodes.coming;
    slot.busy = decodes.busy = now;
    if (std::isfinite(promise.tpot_seconds)) {
        ++decodes.targets[promise.tpot_seconds];
        decodes.strictest = decodes.targets.begin()->first;
    }
    placed_[number] = {.prefill_slot = prefill_slot,
                       .decode_slot = decode_slot,
                       .prefill_life = lives_[prefill_slot],
                       .decode_life = lives_[decode_slot],
                       .prompt_tokens = prompt_tokens,
                       .tpot_seconds_target = promise.tpot_seconds,
                       .began = std::nullopt};
}

/// A prompt has been computed, or is not wanted any more.
void Backlog::take_prompt(Slot& slot, Number number, bool is_computed, base::TimePoint now) {
    const auto prompt = slot.prompts.find(number);
    if (prompt == slot.prompts.end()) { return; }
    const double tokens = prompt->second.tokens;
    slot.prompt_tokens -= tokens;
    if (is_computed || prompt == slot.prompts.begin()) { slot.computed_tokens -= tokens; }
    slot.computed_tokens = std::clamp(slot.computed_tokens, 0.0, std::max(0.0, slot.prompt_tokens));
    const base::TimePoint due = prompt->second.due;
    slot.prompts.erase(prompt);
    if (due == slot.due) {
        slot.due = base::TimePoint::max();
        for (const auto& [other, waiting] : slot.prompts) {
            slot.due = std::min(slot.due, waiting.due);
        }
    }
    slot.count_prompts();
    slot.turned = slot.busy = now;
}

void Backlog::first_token(Number number, base::TimePoint now) {
    const auto at = placed_.find(number);
    if (at == placed_.end() || at->second.began) { return; }
    Placed& placed = at->second;
    placed.began = now;
    if (Slot* slot = slot_of(placed.prefill_slot, placed.prefill_life)) { take_prompt(*slot, number, true, now); }
    if (Slot* slot = slot_of(placed.decode_slot, placed.decode_life)) {
        --slot->coming;
        slot->decoding += 1;
        slot->busy = now;
        slot->decode_context += placed.prompt_tokens;
    }
}

void Backlog::ended(Number number, base::TimePoint now) {
    const auto at = placed_.find(number);
    if (at == placed_.end()) { return; }
    const Placed& placed = at->second;
    if (!placed.began) {
        if (Slot* slot = slot_of(placed.prefill_slot, placed.prefill_life)) { take_prompt(*slot, number, false, now); }
        if (Slot* slot = slot_of(placed.decode_slot, placed.decode_life)) { --slot->coming; }
    } else {
        const double seconds = Seconds(now - *placed.began).count();
        const double keep = 1 - 1 / kAnswersRemembered;
        answers_ = answers_ * keep + 1;
        answer_seconds_ = answer_seconds_ * keep + seconds;
        answer_squares_ = answer_squares_ * keep + seconds * seconds;
        residual_seconds_ = residual_seconds().value_or(0);
        if (Slot* slot = slot_of(placed.decode_slot, placed.decode_life); slot != nullptr && slot->decoding > 0) {
            const double share = std::min(1.0, 1 / slot->decoding);
            slot->decode_context *= 1 - share;
            slot->decoding = std::max(0.0, slot->decoding - 1);
            slot->busy = now;
        }
    }
    if (Slot* slot = slot_of(placed.decode_slot, placed.decode_life)) {
        const auto target = slot->targets.find(placed.tpot_seconds_target);
        if (target != slot->targets.end() && --target->second == 0) {
            slot->targets.erase(target);
            slot->strictest =
                slot->targets.empty() ? std::numeric_limits<double>::infinity() : slot->targets.begin()->first;
        }
    }
    placed_.erase(at);
}

bool Backlog::reported(std::uint32_t number, const ReportedLoad& load, base::TimePoint now) {
    Slot& slot = slot_at(number);
    const auto work = [&slot] {
        return std::tuple(slot.computed_tokens, slot.unknown_tokens, slot.unknown_prompts, slot.decoding,
                          slot.decode_context);
    };
    const auto before = work();
    const double held = static_cast<double>(load.requests_waiting) + load.requests_running;
    const double known = static_cast<double>(slot.prompts.size()) + slot.decoding;
    // Prompts that the report does not know: the newest.
    double missing = std::max(0.0, known - held);
    double known_tokens = slot.prompt_tokens;
    double known_prompts = static_cast<double>(slot.prompts.size());
    for (auto prompt = slot.prompts.rbegin();
         prompt != slot.prompts.rend() && missing >= 1 && now - prompt->second.placed < kOnItsWay; ++prompt) {
        missing -= 1;
        known_tokens -= prompt->second.tokens;
        known_prompts -= 1;
    }
    const auto queued = static_cast<double>(load.prefill_tokens_queued);
    slot.computed_tokens = std::max(0.0, known_tokens - queued);
    slot.unknown_tokens = std::max(0.0, queued - known_tokens);
    slot.unknown_prompts = slot.unknown_tokens > 0 ? std::max(1.0, load.requests_waiting - known_prompts) : 0;
    // Whose first token is known and whose KV is on its way decodes there as soon as it comes: behind a slow link it
    // would else be nobody's, and the worker look as if it had nothing to do.
    const double before_each = slot.decoding > 0 ? slot.decode_context / slot.decoding : 0;
    const double each = load.decode_sequences > 0
                            ? static_cast<double>(load.decode_context_tokens) / load.decode_sequences
                            : before_each;
    slot.decoding = static_cast<double>(load.decode_sequences) + load.kv_awaited;
    slot.decode_context = static_cast<double>(load.decode_context_tokens) + each * load.kv_awaited;
    slot.turned = now;
    if (held > 0 || slot.busy == base::TimePoint{}) { slot.busy = now; }  // the first report of a life: not idle yet
    if (slot.joined == base::TimePoint{}) { slot.joined = now; }
    return !slot.prompts.empty() || work() != before;
}

void Backlog::clear(std::uint32_t number) {
    slot_at(number) = {};
    ++lives_[number];
}

void Backlog::fetch(std::uint32_t number) const {
    if (number >= slots_.size()) { return; }
    const auto* const slot = reinterpret_cast<const char*>(&slots_[number]);
    for (std::size_t line = 0; line < kLinesExpected; ++line) {
        __builtin_prefetch(slot + line * kCacheLine);
    }
}

/// A worker computes them after all others (worker/plan_batch.h).
LatePrompts Backlog::late(const std::map<Number, Prompt>& prompts, base::TimePoint now) {
    LatePrompts late;
    for (const auto& [number, prompt] : prompts) {
        if (prompt.due > now) {
            if (late.next_tokens == 0) { late.next_tokens = prompt.tokens; }
            continue;
        }
        late.prompts += 1;
        late.tokens += prompt.tokens;
    }
    return late;
}

void Backlog::expect(std::uint32_t number, base::TimePoint now, ExpectedLoad& load) const {
    load = {};
    if (number >= slots_.size()) { return; }
    const Slot& slot = slots_[number];
    load.prompts = slot.waiting + slot.unknown_prompts;
    load.prompt_tokens = std::max(0.0, slot.prompt_tokens - slot.computed_tokens) + slot.unknown_tokens;
    if (slot.waiting > 0) {
        load.first_tokens = std::clamp(slot.first_tokens - slot.computed_tokens, 0.0, load.prompt_tokens);
        load.first_since_seconds = std::max(0.0, Seconds(now - slot.turned).count());
    }
    if (slot.due <= now) { load.late = late(slot.prompts, now); }
    load.decoding = slot.decoding;
    load.decode_context = slot.decode_context;
    load.coming = slot.coming;
    load.tpot_seconds_strictest = slot.strictest;
    load.residual_seconds = residual_seconds_;
    if (load.prompts == 0 && load.prompt_tokens == 0 && load.decoding == 0 && load.coming == 0) {
        load.idle_seconds = slot.busy == base::TimePoint{} ? 0 : std::max(0.0, Seconds(now - slot.busy).count());
    }
    if (slot.joined != base::TimePoint{}) {
        load.unjoined_seconds = std::max(0.0, Seconds(now - slot.joined).count()) / (1 << slot.probes);
    }
}

std::optional<double> Backlog::residual_seconds() const {
    if (answers_ < kAnswersNeeded || answer_seconds_ <= 0) { return std::nullopt; }
    return answer_squares_ / (2 * answer_seconds_);
}

}  // namespace scheduler
