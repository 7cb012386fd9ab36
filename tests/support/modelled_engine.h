#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <random>
#include <stop_token>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/clock.h"
#include "base/step_cost.h"
#include "engine/engine.h"
#include "kv_cache/kv_store.h"

namespace test_support {

/// An engine that computes nothing: its steps take what a cost model says, on a clock that stands still until the test
/// moves it to ends_at(). One thread.
class ModelledEngine final : public engine::Engine {
public:
    struct Options {
        base::StepCost cost;
        double noise = 0;  // steps take up to this share longer or shorter than the model says
        std::uint32_t seed = 0;
        std::uint32_t context_tokens = 4096;
        std::uint32_t blocks_total = 4096;
        std::uint32_t vocabulary = 100;
        base::TokenId token = 1;                                         // that is always chosen
        std::function<base::Duration(const engine::Batch&)> takes = {};  // asked instead of `cost`, where it is set
    };
    ModelledEngine(const Options& options, const base::Clock& clock)
        : options_(options),
          clock_(clock),
          random_(options.seed),
          layout_(
              kv_cache::KvLayout::make(make_shape(options), {kv_cache::KvDtype::f32, kv_cache::TileOrder::lanes}, 16)
                  .value()),
          store_(kv_cache::KvStore::make(device::host_device(), layout_, options.blocks_total).value()),
          shape_(make_shape(options)) {}

    const base::ModelShape& shape() const override { return shape_; }
    const kv_cache::KvLayout& layout() const override { return layout_; }
    kv_cache::KvStore& kv_store() override { return store_; }
    std::uint32_t blocks_total() const override { return store_.blocks_total(); }
    engine::NumericsId numerics_id() const override { return engine::NumericsId{7}; }
    std::string describe() const override { return "modelled"; }

    engine::Ticket launch(engine::Batch batch, engine::LayersDone, engine::StepDone) override {
        base::StepWork work;
        result_ = {};
        for (const engine::BatchEntry& entry : batch.entries()) {
            const auto tokens = static_cast<double>(entry.tokens.size());
            if (tokens == 1 && entry.sample) {
                work.decode_sequences += 1;
                work.decode_context += entry.position;
            } else {
                work.prefill_tokens += tokens;
                work.prefill_context += base::context_sum(entry.position, tokens);
            }
            engine::EntryResult row;
            row.sequence = entry.sequence;
            if (entry.sample) { row.sampled.emplace().token = options_.token; }
            result_.entries.push_back(std::move(row));
        }
        const double noise = options_.noise * std::uniform_real_distribution<double>(-1, 1)(random_);
        const double seconds = base::step_seconds(options_.cost, work) * (1 + noise) * slower_ *
                               (work.prefill_tokens > 0 && work.decode_sequences > 0 ? slower_mixed_ : 1);
        result_.began = clock_.now();
        result_.ended =
            result_.began + (options_.takes
                                 ? options_.takes(batch)
                                 : std::chrono::duration_cast<base::Duration>(std::chrono::duration<double>(seconds)));
        result_.batch = std::move(batch);
        return engine::Ticket{++steps_};
    }
    bool ready(engine::Ticket) const override { return clock_.now() >= result_.ended; }
    base::Result<engine::StepResult> collect(engine::Ticket ticket, base::TimePoint, const std::stop_token&) override {
        CHECK(ready(ticket));
        return std::move(result_);
    }
    base::Result<void> truncate(base::SequenceId, std::uint32_t) override { return {}; }

    /// From the next step on, each takes so many times what `cost` says.
    void slow_down(double factor) { slower_ = factor; }
    /// Steps with prompts and decodes in them besides.
    void slow_down_mixed(double factor) { slower_mixed_ = factor; }

    base::TimePoint ends_at() const { return result_.ended; }
    std::uint64_t steps() const { return steps_; }

private:
    static base::ModelShape make_shape(const Options& options) {
        base::ModelShape shape;
        shape.architecture = "Modelled";
        shape.layers = 1;
        shape.hidden = 8;
        shape.intermediate = 8;
        shape.heads_q = 1;
        shape.heads_kv = 1;
        shape.head_dim = 2;
        shape.vocabulary = options.vocabulary;
        shape.context_tokens = options.context_tokens;
        return shape;
    }

    const Options options_;
    const base::Clock& clock_;
    std::mt19937 random_;
    const kv_cache::KvLayout layout_;
    kv_cache::KvStore store_;
    const base::ModelShape shape_;
    engine::StepResult result_;
    std::uint64_t steps_ = 0;
    double slower_ = 1;
    double slower_mixed_ = 1;
};

}  // namespace test_support
