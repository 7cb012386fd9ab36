#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>

#include "base/clock.h"
#include "base/model_shape.h"
#include "base/result.h"
#include "engine/engine.h"
#include "engine/loaded_model.h"
#include "kv_cache/kv_store.h"

namespace engine {

/// The engine of a model that is whole and on this machine's processors or on one GPU (design 4.4).
/// Two threads: the step thread calls, the coordinator computes (with the backend's own threads). They meet in
/// `state_`; the rest of the hand-over belongs to whoever's turn it is.
class LocalEngine final : public Engine {
public:
    struct Limits {
        std::uint32_t batch_tokens_max = 0;
        std::uint32_t batch_sequences_max = 0;
    };
    LocalEngine(const Limits& limits, std::unique_ptr<LoadedModel> model, NumericsId numerics_id,
                std::string description);

    const base::ModelShape& shape() const override { return model_->shape(); }
    const kv_cache::KvLayout& layout() const override { return store().layout(); }
    kv_cache::KvStore& kv_store() override { return store(); }
    std::uint32_t blocks_total() const override { return model_->kv() == nullptr ? 0 : model_->kv()->blocks_total(); }
    NumericsId numerics_id() const override { return numerics_id_; }
    std::string describe() const override { return description_; }

    Ticket launch(Batch batch, LayersDone layers_done, StepDone done) override;
    bool ready(Ticket ticket) const override;
    base::Result<StepResult> collect(Ticket ticket, base::TimePoint deadline, const std::stop_token& stop) override;
    base::Result<void> truncate(base::SequenceId sequence, std::uint32_t tokens) override;

private:
    /// In the order in which a step goes through them; told: done_ has returned.
    enum class State : std::uint32_t { idle, launched, ended, told };

    kv_cache::KvStore& store() const;
    void check_open(Ticket ticket) const;
    void check_bounds(const Batch& batch) const;
    void coordinate(const std::stop_token& stop);
    void set_state(State state);
    /// Until the step has come to `state` or further. Spins for a moment (a wake-up takes about as long), then sleeps.
    /// False when asked to stop, or at `deadline`.
    bool wait_for(State state, const std::stop_token& stop, std::optional<base::TimePoint> deadline);

    const Limits limits_;
    const std::unique_ptr<LoadedModel> model_;  // computes on the coordinator
    const NumericsId numerics_id_;
    const std::string description_;
    std::uint64_t ticket_ = 0;  // step thread

    std::mutex mutex_;  // for sleeping on state_ only
    std::condition_variable_any changed_;
    std::atomic<State> state_{State::idle};
    Batch batch_;                      // launched to told: the coordinator's; else the step thread's
    LayersDone layers_done_;           // the same
    StepDone done_;                    // the same
    base::Result<StepResult> result_;  // the same
    std::jthread coordinator_;         // last: it uses all of the above
};

}  // namespace engine
