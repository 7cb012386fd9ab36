#include "engine/fault_engine.h"

#include <string>
#include <utility>

#include "base/check.h"

namespace engine {
namespace {

class FaultEngine final : public Engine {
public:
    FaultEngine(std::unique_ptr<Engine> inner, std::uint64_t steps) : inner_(std::move(inner)), steps_left_(steps) {}

    const base::ModelShape& shape() const override { return inner_->shape(); }
    const kv_cache::KvLayout& layout() const override { return inner_->layout(); }
    kv_cache::KvStore& kv_store() override { return inner_->kv_store(); }
    std::uint32_t blocks_total() const override { return inner_->blocks_total(); }
    NumericsId numerics_id() const override { return inner_->numerics_id(); }
    std::string describe() const override { return inner_->describe(); }

    Ticket launch(Batch batch, LayersDone layers_done, StepDone done) override {
        is_lost_ = steps_left_ == 0;
        if (is_lost_) {
            if (done) { done(); }
            return Ticket{0};
        }
        --steps_left_;
        return inner_->launch(std::move(batch), std::move(layers_done), std::move(done));
    }
    bool ready(Ticket ticket) const override { return is_lost_ || inner_->ready(ticket); }
    base::Result<StepResult> collect(Ticket ticket, base::TimePoint deadline, const std::stop_token& stop) override {
        if (is_lost_) { return base::fail(base::ErrorCode::internal, "the device is lost, by configuration"); }
        return inner_->collect(ticket, deadline, stop);
    }
    base::Result<void> truncate(base::SequenceId sequence, std::uint32_t tokens) override {
        return inner_->truncate(sequence, tokens);
    }

private:
    const std::unique_ptr<Engine> inner_;
    std::uint64_t steps_left_;
    bool is_lost_ = false;  // the running step
};

}  // namespace

std::unique_ptr<Engine> make_fault_engine(std::unique_ptr<Engine> inner, std::uint64_t steps) {
    CHECK(inner != nullptr && steps > 0);
    return std::make_unique<FaultEngine>(std::move(inner), steps);
}

}  // namespace engine
