// A GPU and its link as far as they take time, on a virtual clock.
#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include "base/check.h"
#include "bench/switching_machine.h"
#include "sim/modelled_mover.h"
#include "sim/virtual_clock.h"

namespace bench {
namespace {

constexpr std::uint32_t kBlockTokens = 16;
constexpr std::uint32_t kVocabulary = 32000;

/// A step takes what its matrices need of the GPU's operations or of its memory, whichever is more; its tokens are
/// numbers without meaning.
class ModelledEngine final : public engine::Engine {
public:
    ModelledEngine(const ModelledGpu& gpu, std::uint32_t blocks, std::uint32_t context_tokens, sim::VirtualClock& clock)
        : gpu_(gpu),
          clock_(clock),
          shape_(make_shape(context_tokens)),
          layout_(kv_cache::KvLayout::make(shape_, {}, kBlockTokens).value()),
          store_(kv_cache::KvStore::make(device::host_device(), layout_, blocks).value()) {}

    const base::ModelShape& shape() const override { return shape_; }
    const kv_cache::KvLayout& layout() const override { return layout_; }
    kv_cache::KvStore& kv_store() override { return store_; }
    std::uint32_t blocks_total() const override { return store_.blocks_total(); }
    engine::NumericsId numerics_id() const override { return engine::NumericsId{1}; }
    std::string describe() const override { return "modelled"; }

    engine::Ticket launch(engine::Batch batch, engine::LayersDone, engine::StepDone done) override {
        CHECK(!batch_);
        began_ = clock_.now();
        ends_ = began_ + sim::duration_of(seconds_of(batch));
        batch_ = std::move(batch);
        done_ = std::move(done);
        return engine::Ticket{++tickets_};
    }
    bool ready(engine::Ticket) const override { return clock_.now() >= ends_; }
    base::Result<engine::StepResult> collect(engine::Ticket, base::TimePoint, const std::stop_token&) override {
        CHECK(batch_ && clock_.now() >= ends_);
        engine::StepResult result;
        for (const engine::BatchEntry& entry : batch_->entries()) {
            engine::EntryResult row;
            row.sequence = entry.sequence;
            if (entry.sample) {
                const std::uint64_t position = entry.position + entry.tokens.size();
                engine::SampledToken token;
                token.token =
                    static_cast<base::TokenId>((base::raw(entry.sequence) * 7919 + position * 31) % kVocabulary);
                row.sampled = token;
            }
            result.entries.push_back(std::move(row));
        }
        result.batch = std::move(*batch_);
        batch_.reset();
        result.began = began_;
        result.ended = ends_;
        if (done_) { std::exchange(done_, {})(); }
        return result;
    }
    base::Result<void> truncate(base::SequenceId, std::uint32_t) override { return {}; }

    std::optional<base::TimePoint> step_ends() const { return batch_ ? std::optional(ends_) : std::nullopt; }

private:
    static base::ModelShape make_shape(std::uint32_t context_tokens) {
        base::ModelShape shape;  // as small as one can be: nobody looks at these bytes
        shape.architecture = "Modelled";
        shape.layers = shape.heads_q = shape.heads_kv = 1;
        shape.head_dim = 2;
        shape.hidden = shape.intermediate = 8;
        shape.vocabulary = kVocabulary;
        shape.context_tokens = context_tokens;
        return shape;
    }

    double seconds_of(const engine::Batch& batch) const {
        double tokens = 0;
        double context = 0;  // whose KV is read
        double attended = 0;
        for (const engine::BatchEntry& entry : batch.entries()) {
            const auto count = static_cast<double>(entry.tokens.size());
            tokens += count;
            context += entry.position + count;
            attended += count * (entry.position + count / 2);
        }
        const double bytes = 2 * gpu_.parameters + context * gpu_.block_bytes(kBlockTokens) / kBlockTokens;
        const double width = static_cast<double>(gpu_.layers) * gpu_.kv_heads * gpu_.head_dim;
        const double operations =
            2 * gpu_.parameters * tokens + 4 * 4 * width * attended;  // four heads share a KV head
        return gpu_.step_seconds +
               std::max(bytes / (gpu_.bytes_per_second * gpu_.used), operations / (gpu_.flops * gpu_.used));
    }

    const ModelledGpu gpu_;
    sim::VirtualClock& clock_;
    const base::ModelShape shape_;
    const kv_cache::KvLayout layout_;
    kv_cache::KvStore store_;
    std::optional<engine::Batch> batch_;
    engine::StepDone done_;
    base::TimePoint began_{};
    base::TimePoint ends_{};
    std::uint64_t tickets_ = 0;
};

/// Copies beside the steps (sim::ModelledMover), or by the step thread itself, which moves the clock.
class SwitchingMover final : public kv_transfer::TierMover {
public:
    SwitchingMover(const ModelledGpu& gpu, SwapMode mode, sim::VirtualClock& clock, SwitchingMachine::OnEvent on_event)
        : costs_{.block_bytes = gpu.block_bytes(kBlockTokens),
                 .load_bytes_per_second = gpu.link_bytes_per_second,
                 .save_bytes_per_second = gpu.link_bytes_per_second,
                 .launch_seconds = gpu.launch_seconds,
                 .copies_per_block = mode == SwapMode::paged ? 2 * gpu.layers : 0},
          copies_itself_(mode == SwapMode::paged || mode == SwapMode::groups),
          clock_(clock),
          on_event_(std::move(on_event)),
          beside_(costs_, kJobsMax, clock, on_event_) {}

    bool submit(kv_transfer::TierJob job) override {
        if (!copies_itself_) { return beside_.submit(std::move(job)); }
        kv_transfer::TierEvent event;
        event.id = job.id;
        event.blocks_done = static_cast<std::uint32_t>(job.hashes.size());
        event.duration = sim::duration_of(counts_.add(job, costs_));
        copied_.push_back({clock_.now(), clock_.now() + event.duration});
        clock_.set(clock_.now() + event.duration);
        on_event_(std::move(event));
        return true;
    }
    std::uint32_t blocks_loading() const override { return beside_.blocks_loading(); }

    std::optional<base::TimePoint> next_end() const { return beside_.next_end(); }
    void deliver() { beside_.deliver(); }
    SwapCounts counts() const {
        sim::CopyCounts all = counts_;
        all += beside_.counts();
        return {.copies_out = all.copies_out,
                .copies_in = all.copies_in,
                .blocks_out = all.blocks_out,
                .blocks_in = all.blocks_in,
                .saves = all.saves,
                .loads = all.loads,
                .seconds = all.seconds};
    }
    base::Duration copied_between(base::TimePoint from, base::TimePoint to) {
        base::Duration sum{};
        for (const auto& [begin, end] : copied_) {
            sum += std::max(base::Duration{}, std::min(end, to) - std::max(begin, from));
        }
        std::erase_if(copied_, [&](const auto& copy) { return copy.second <= to; });
        return sum;
    }

private:
    static constexpr std::uint32_t kJobsMax = 1u << 20;  // every mode moves all that it is asked to

    const sim::CopyCosts costs_;
    const bool copies_itself_;
    sim::VirtualClock& clock_;
    const SwitchingMachine::OnEvent on_event_;
    sim::ModelledMover beside_;
    std::vector<std::pair<base::TimePoint, base::TimePoint>> copied_;  // by the step thread
    sim::CopyCounts counts_;                                           // the same
};

class ModelledMachine final : public SwitchingMachine {
public:
    ModelledMachine(const ModelledGpu& gpu, std::uint32_t pool_blocks, std::uint32_t tier_slots,
                    std::uint32_t context_tokens)
        : gpu_(gpu), tier_slots_(tier_slots), engine_(gpu, pool_blocks, context_tokens, clock_) {}

    engine::Engine& engine() override { return engine_; }
    const base::Clock& clock() const override { return clock_; }
    std::uint32_t tier_slots() const override { return tier_slots_; }
    std::size_t block_bytes() const override { return static_cast<std::size_t>(gpu_.block_bytes(kBlockTokens)); }
    base::Result<void> begin(SwapMode mode, OnEvent on_event) override {
        mover_.emplace(gpu_, mode, clock_, std::move(on_event));
        return {};
    }
    void end() override {}
    kv_transfer::TierMover& mover() override { return *mover_; }
    bool copies_pending() const override { return mover_->next_end().has_value(); }
    void wait(base::TimePoint until, const std::function<void(base::TimePoint)>&) override {
        if (const auto ends = engine_.step_ends()) { until = std::min(until, *ends); }
        if (const auto ends = mover_->next_end()) { until = std::min(until, *ends); }
        clock_.set(std::max(clock_.now(), until));
        mover_->deliver();
    }
    SwapCounts counts() const override { return mover_->counts(); }
    base::Duration copied_between(base::TimePoint from, base::TimePoint to) override {
        return mover_->copied_between(from, to);
    }

private:
    const ModelledGpu gpu_;
    const std::uint32_t tier_slots_;
    sim::VirtualClock clock_;
    ModelledEngine engine_;
    std::optional<SwitchingMover> mover_;
};

}  // namespace

std::unique_ptr<SwitchingMachine> modelled_machine(const ModelledGpu& gpu, std::uint32_t pool_blocks,
                                                   std::uint32_t tier_slots, std::uint32_t context_tokens) {
    return std::make_unique<ModelledMachine>(gpu, pool_blocks, tier_slots, context_tokens);
}

}  // namespace bench
