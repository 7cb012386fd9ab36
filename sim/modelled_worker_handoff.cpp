// Decode parts: room for KV that comes from elsewhere; the contract stands in modelled_worker.h.
#include "sim/modelled_worker.h"

#include <algorithm>

namespace sim {

using worker::SequenceState;

void ModelledWorker::want_room(AttemptKey key, std::uint32_t kv_tokens, base::TimePoint now) {
    Sequence* sequence = find(key);
    if (sequence == nullptr || sequence->state != SequenceState::awaiting_kv || sequence->kv || sequence->room) {
        return;
    }
    expect_no_quiet_steps();
    sequence->room = worker::RoomWish{kv_tokens, next_room_turn_++};
    sequence->waits_since = now;
}

void ModelledWorker::go_on(AttemptKey key, std::uint32_t generated_tokens, base::TimePoint now) {
    Sequence* sequence = find(key);
    if (sequence == nullptr || sequence->has_continued) { return; }
    expect_no_quiet_steps();
    sequence->has_continued = true;
    sequence->told = generated_tokens;
    sequence->tokens = sequence->start.prompt_tokens + generated_tokens;
    if (sequence->start.tpot > base::Duration::zero()) { sequence->schedule = {now, generated_tokens}; }
    if (sequence->kv_is_here && sequence->state == SequenceState::awaiting_kv) { take_kv(*sequence); }
}

void ModelledWorker::delay_next_step(double seconds) {
    if (seconds <= 0) { return; }
    expect_no_quiet_steps();  // they do not know of it
    delay_seconds_ += seconds;
}

bool ModelledWorker::kv_arrived(AttemptKey key) {
    Sequence* sequence = find(key);
    if (sequence == nullptr || sequence->state != SequenceState::awaiting_kv || !sequence->kv) { return false; }
    expect_no_quiet_steps();
    sequence->kv_is_here = true;
    if (sequence->has_continued) { take_kv(*sequence); }
    return true;
}

/// Until the first token was seen, too, nobody finds what has arrived (DecodePart::proceed).
void ModelledWorker::take_kv(Sequence& sequence) {
    sequence.computed = sequence.start.prompt_tokens + sequence.start.generated_tokens;
    publish(sequence);
    make_running(sequence);
}

void ModelledWorker::recompute(AttemptKey key, base::TimePoint now) {
    Sequence* sequence = find(key);
    if (sequence == nullptr || sequence->state != SequenceState::awaiting_kv || !sequence->has_continued) { return; }
    expect_no_quiet_steps();
    // With memory it goes on in it, from the prefix hit that it got with it, as DecodePart::proceed.
    if (!sequence->kv) { return make_waiting(*sequence, now); }
    publish(*sequence);
    make_running(*sequence);
}

std::uint32_t ModelledWorker::kv_awaited() const {
    return static_cast<std::uint32_t>(std::count_if(sequences_.begin(), sequences_.end(), [](const auto& sequence) {
        return sequence->state == SequenceState::awaiting_kv && sequence->lacks_kv_only();
    }));
}

bool ModelledWorker::awaits_kv(AttemptKey key) const {
    const Sequence* sequence = find(key);
    return sequence != nullptr && sequence->state == SequenceState::awaiting_kv && !sequence->kv_is_here;
}

}  // namespace sim
