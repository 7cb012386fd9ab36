#pragma once

#include <optional>
#include <span>
#include <string>
#include <unordered_map>

#include "base/ids.h"
#include "kv_cache/kv_cache.h"
#include "kv_transfer/sender.h"
#include "prefill_worker/ports.h"
#include "worker/options.h"
#include "worker/role_part.h"

namespace prefill_worker {

/// The prefill role: as soon as a prompt has KV memory it asks the decode worker for room, pushes layer groups while
/// they are computed, and ends the sequence when the KV has arrived or cannot (design 4.3, steps 3 to 6).
///
/// Step thread, except layers_done (engine's compute thread, while the step thread goes on) and on_event (any thread).
class PrefillPart final : public worker::RolePart {
public:
    /// `layers`: of the model. All references must outlive this.
    PrefillPart(const worker::WorkerOptions& options, std::uint32_t layers, base::Incarnation incarnation,
                worker::StepControl& control, KvSenderPort& sender);

    /// What the sender says: moves the event to the step thread.
    void on_event(kv_transfer::SenderEvent event);

    void admitted(worker::Sequence& sequence) override;
    void loaded(worker::Sequence& sequence, std::uint32_t tokens_before) override;
    void sampled(worker::Sequence& sequence) override;
    void closing(worker::Sequence& sequence) override;
    bool may_preempt(const worker::Sequence& sequence) const override;
    void tick() override;
    std::optional<base::TimePoint> next_tick() const override;
    bool busy() const override { return !handoffs_.empty(); }
    std::optional<kv_transfer::HandoffKey> handoff_of(const worker::Sequence& sequence) const override;
    void layers_done(std::span<const worker::LaunchedChunk> chunks, std::uint32_t layer_begin,
                     std::uint32_t layer_end) override;

private:
    /// Lives until the sender has released the blocks, also when the sequence is long gone.
    struct Handoff {
        kv_transfer::HandoffKey key;
        kv_cache::BlockHold hold;                          // the transfer reads these blocks
        bool is_over = false;                              // completed or failed
        base::TimePoint give_up = base::TimePoint::max();  // from the first token on: how long decode may take
        std::optional<base::Error> error;                  // failed
    };

    void apply(const kv_transfer::SenderEvent& event);

    const worker::WorkerOptions options_;
    const std::uint32_t layers_;
    const base::Incarnation incarnation_;
    worker::StepControl& control_;
    KvSenderPort& sender_;
    std::unordered_map<worker::RequestKey, Handoff> handoffs_;
    std::unordered_map<worker::RequestKey, base::Error> not_opened_;  // sequences whose hand-off could not begin
};

}  // namespace prefill_worker
