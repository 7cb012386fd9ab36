#include "engine/local_engine.h"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <span>
#include <utility>

#include "base/check.h"

namespace engine {

using base::ErrorCode;
using base::Result;

LocalEngine::LocalEngine(const Limits& limits, std::unique_ptr<LoadedModel> model, NumericsId numerics_id,
                         std::string description)
    : limits_(limits),
      model_(std::move(model)),
      numerics_id_(numerics_id),
      description_(std::move(description)),
      coordinator_([this](const std::stop_token& stop) { coordinate(stop); }) {}

Ticket LocalEngine::launch(Batch batch, LayersDone layers_done, StepDone done) {
    check_bounds(batch);
    CHECK(state_.load(std::memory_order_acquire) == State::idle, "a ticket is still open");
    batch_ = std::move(batch);
    layers_done_ = std::move(layers_done);
    done_ = std::move(done);
    set_state(State::launched);
    return Ticket{++ticket_};
}

bool LocalEngine::ready(Ticket ticket) const {
    check_open(ticket);
    return state_.load(std::memory_order_acquire) >= State::ended;
}

Result<StepResult> LocalEngine::collect(Ticket ticket, base::TimePoint deadline, const std::stop_token& stop) {
    check_open(ticket);
    if (!wait_for(State::ended, stop, deadline)) {
        return base::fail(stop.stop_requested() ? ErrorCode::cancelled : ErrorCode::deadline_exceeded,
                          "step " + std::to_string(base::raw(ticket)) + " has not ended yet");
    }
    wait_for(State::told, {}, std::nullopt);
    Result<StepResult> result = std::move(result_);
    result_ = StepResult{};
    batch_ = {};
    layers_done_ = {};
    done_ = {};
    set_state(State::idle);
    return result;
}

Result<void> LocalEngine::truncate(base::SequenceId sequence, std::uint32_t tokens) {
    CHECK(state_.load(std::memory_order_acquire) == State::idle,
          "sequence " << base::raw(sequence) << " back to " << tokens << " tokens while a ticket is open");
    if (!keeps_kv()) { return {}; }
    for (const kv_cache::KvGroup& group : layout().groups()) {  // nothing is kept here of such layers
        CHECK(group.kind == kv_cache::KvGroup::Kind::full_attention);
    }
    return {};
}

kv_cache::KvStore& LocalEngine::store() const {
    kv_cache::KvStore* const kv = model_->kv();
    CHECK(kv != nullptr, "an encoder keeps no KV");
    return *kv;
}

void LocalEngine::check_open(Ticket ticket) const {
    CHECK(base::raw(ticket) == ticket_ && state_.load(std::memory_order_acquire) != State::idle,
          "ticket " << base::raw(ticket) << " is not open");
}

void LocalEngine::check_bounds(const Batch& batch) const {
    std::size_t tokens = 0;
    const std::span<const BatchEntry> entries = batch.entries();
    CHECK(!entries.empty() && entries.size() <= limits_.batch_sequences_max,
          entries.size() << " entries, at most " << limits_.batch_sequences_max);
    for (const BatchEntry& entry : entries) {
        tokens += entry.tokens.size();
        const std::size_t end = entry.position + entry.tokens.size();
        CHECK(!entry.tokens.empty(), "sequence " << base::raw(entry.sequence));
        CHECK(end <= model_->shape().context_tokens,
              end << " tokens, the context has " << model_->shape().context_tokens);
        model_->check(entry);
    }
    CHECK(tokens <= limits_.batch_tokens_max, tokens << " tokens, at most " << limits_.batch_tokens_max);
}

void LocalEngine::coordinate(const std::stop_token& stop) {
    pthread_setname_np(pthread_self(), "engine");
    while (wait_for(State::launched, stop, std::nullopt)) {
        const base::TimePoint began = std::chrono::steady_clock::now();
        auto entries = model_->run(batch_, layers_done_);
        if (entries) {
            result_ = StepResult{std::move(*entries), std::move(batch_), began, std::chrono::steady_clock::now()};
        } else {
            result_ = base::pass_on(entries);
        }
        if (done_) {
            set_state(State::ended);
            done_();
        }
        set_state(State::told);
    }
}

void LocalEngine::set_state(State state) {
    {
        const std::lock_guard lock(mutex_);
        state_.store(state, std::memory_order_release);
    }
    changed_.notify_all();
}

bool LocalEngine::wait_for(State state, const std::stop_token& stop, std::optional<base::TimePoint> deadline) {
    const auto reached = [&] {
        const State now = state_.load(std::memory_order_acquire);
        return state == State::launched ? now == state : now >= state;
    };
    const base::TimePoint begin = std::chrono::steady_clock::now();
    const base::TimePoint spin_end = begin + std::chrono::microseconds(40);
    for (base::TimePoint now = begin; now < (deadline ? std::min(spin_end, *deadline) : spin_end);
         now = std::chrono::steady_clock::now()) {
        for (int i = 0; i < 32; ++i) {
            if (reached()) { return true; }
#if defined(__x86_64__)
            __builtin_ia32_pause();
#endif
        }
    }
    std::unique_lock lock(mutex_);
    return deadline ? changed_.wait_until(lock, stop, *deadline, reached) : changed_.wait(lock, stop, reached);
}

}  // namespace engine
