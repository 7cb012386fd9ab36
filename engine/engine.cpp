#include "engine/engine.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <span>
#include <stop_token>
#include <thread>
#include <utility>

#include "base/block_hash.h"
#include "base/check.h"
#include "device/cuda/cuda_device.h"
#include "device/device.h"
#include "engine/kernels/backend.h"
#include "engine/kv_sizing.h"
#include "engine/model/checkpoint.h"
#include "engine/model/decoder.h"
#include "engine/model/model_config.h"
#include "engine/model/packed_file.h"
#include "engine/model/rope.h"
#include "engine/model/weight_upload.h"
#include "engine/model/weights.h"
#include "engine/step.h"
#include "kv_cache/kv_store.h"

namespace engine {
namespace {

using base::ErrorCode;
using base::ModelShape;
using base::Result;

/// Raised whenever the graph or the sampler gives other numbers from the same operators.
constexpr std::uint32_t kGraphVersion = 1;

/// Everything that a step reads, in a place that does not change. Built by load_engine().
struct Model {
    ModelShape shape;
    PackedFile packed;        // of a model on the host
    device::Buffer uploaded;  // of a model on a GPU
    base::BlockHash content;  // of the weights (PackedFile::content)
    Weights weights;
    RopeTable rope;
    std::unique_ptr<Backend> backend;
    std::optional<kv_cache::KvStore> kv;
    std::optional<Decoder> decoder;
};

/// The engine of a model that is whole and on this machine's processors (design 4.4).
/// Two threads: the step thread calls, the coordinator computes (with the backend's own threads). They meet in
/// `state_`; the rest of the hand-over belongs to whoever's turn it is.
class LocalEngine final : public Engine {
public:
    LocalEngine(const EngineOptions& options, std::unique_ptr<Model> model, NumericsId numerics_id,
                std::string description)
        : options_(options),
          model_(std::move(model)),
          numerics_id_(numerics_id),
          description_(std::move(description)),
          runner_(*model_->decoder, model_->shape.vocabulary, options.layer_group),
          coordinator_([this](const std::stop_token& stop) { coordinate(stop); }) {}

    const ModelShape& shape() const override { return model_->shape; }
    const kv_cache::KvLayout& layout() const override { return model_->kv->layout(); }
    kv_cache::KvStore& kv_store() override { return *model_->kv; }
    std::uint32_t blocks_total() const override { return model_->kv->blocks_total(); }
    NumericsId numerics_id() const override { return numerics_id_; }
    std::string describe() const override { return description_; }

    Ticket launch(Batch batch, LayersDone layers_done, StepDone done) override {
        check_bounds(batch);
        CHECK(state_.load(std::memory_order_acquire) == State::idle, "a ticket is still open");
        batch_ = std::move(batch);
        layers_done_ = std::move(layers_done);
        done_ = std::move(done);
        set_state(State::launched);
        return Ticket{++ticket_};
    }

    bool ready(Ticket ticket) const override {
        check_open(ticket);
        return state_.load(std::memory_order_acquire) >= State::ended;
    }

    Result<StepResult> collect(Ticket ticket, base::TimePoint deadline, const std::stop_token& stop) override {
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

private:
    /// In the order in which a step goes through them; told: done_ has returned.
    enum class State : std::uint32_t { idle, launched, ended, told };

    void check_open(Ticket ticket) const {
        CHECK(base::raw(ticket) == ticket_ && state_.load(std::memory_order_acquire) != State::idle,
              "ticket " << base::raw(ticket) << " is not open");
    }

    void check_bounds(const Batch& batch) const {
        std::size_t tokens = 0;
        const std::span<const BatchEntry> entries = batch.entries();
        CHECK(!entries.empty() && entries.size() <= options_.batch_sequences_max,
              entries.size() << " entries, at most " << options_.batch_sequences_max);
        for (const BatchEntry& entry : entries) {
            tokens += entry.tokens.size();
            const std::size_t end = entry.position + entry.tokens.size();
            CHECK(!entry.tokens.empty(), "sequence " << base::raw(entry.sequence));
            CHECK(end <= model_->shape.context_tokens,
                  end << " tokens, the context has " << model_->shape.context_tokens);
            CHECK(entry.block_tables.size() == layout().groups().size());
            CHECK(entry.block_tables[0].size() * layout().block_tokens() >= end,
                  entry.block_tables[0].size() << " blocks for " << end << " tokens");
            for (const base::BlockId block : entry.block_tables[0]) {
                CHECK(base::raw(block) < blocks_total(), "block " << base::raw(block) << " of " << blocks_total());
            }
            CHECK(!entry.score || entry.score_targets.size() == entry.tokens.size());
        }
        CHECK(tokens <= options_.batch_tokens_max, tokens << " tokens, at most " << options_.batch_tokens_max);
    }

    void coordinate(const std::stop_token& stop) {
        pthread_setname_np(pthread_self(), "engine");
        while (wait_for(State::launched, stop, std::nullopt)) {
            const base::TimePoint began = std::chrono::steady_clock::now();
            auto entries = runner_.run(batch_, layers_done_);
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

    void set_state(State state) {
        {
            const std::lock_guard lock(mutex_);
            state_.store(state, std::memory_order_release);
        }
        changed_.notify_all();
    }

    /// Until the step has come to `state` or further. Spins for a moment (a wake-up takes about as long), then sleeps.
    /// False when asked to stop, or at `deadline`.
    bool wait_for(State state, const std::stop_token& stop, std::optional<base::TimePoint> deadline) {
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

    const EngineOptions options_;
    const std::unique_ptr<Model> model_;
    const NumericsId numerics_id_;
    const std::string description_;
    std::uint64_t ticket_ = 0;  // step thread

    std::mutex mutex_;  // for sleeping on state_ only
    std::condition_variable_any changed_;
    std::atomic<State> state_{State::idle};
    Batch batch_;                // launched to told: the coordinator's; else the step thread's
    LayersDone layers_done_;     // the same
    StepDone done_;              // the same
    Result<StepResult> result_;  // the same
    StepRunner runner_;          // coordinator
    std::jthread coordinator_;   // last: it uses all of the above
};

Result<void> check_options(const EngineOptions& options) {
    const auto wrong = [](const std::string& what) { return base::fail(ErrorCode::invalid_argument, what); };
    const auto among = [](const std::string& value, std::initializer_list<const char*> values) {
        return std::any_of(values.begin(), values.end(), [&](const char* name) { return value == name; });
    };
    if (!among(options.weight_format, {"auto", "f32", "bf16", "fp8"})) {
        return wrong("weight_format is '" + options.weight_format + "', must be auto, f32, bf16 or fp8");
    }
    if (!among(options.kv_dtype, {"auto", "f32", "bf16"})) {
        return wrong("kv_dtype is '" + options.kv_dtype + "', must be auto, f32 or bf16");
    }
    if (!among(options.prefill_attention, {"auto", "mma", "wgmma"})) {
        return wrong("prefill_attention is '" + options.prefill_attention + "', must be auto, mma or wgmma");
    }
    if (options.batch_tokens_max == 0 || options.batch_tokens_max > 65536) {
        return wrong("batch_tokens_max is " + std::to_string(options.batch_tokens_max) + ", must be in [1, 65536]");
    }
    if (options.batch_sequences_max == 0 || options.batch_sequences_max > options.batch_tokens_max) {
        return wrong("batch_sequences_max is " + std::to_string(options.batch_sequences_max) +
                     ", must be in [1, batch_tokens_max (" + std::to_string(options.batch_tokens_max) + ")]");
    }
    if (!(options.gpu_memory_share > 0 && options.gpu_memory_share <= 1)) {
        return wrong("gpu_memory_share is " + std::to_string(options.gpu_memory_share) + ", must be in (0, 1]");
    }
    if (options.threads == 0 || options.threads > 1024) {
        return wrong("threads is " + std::to_string(options.threads) + ", must be in [1, 1024]");
    }
    if (options.shard != ShardSpec{}) {
        return base::fail(ErrorCode::unimplemented, "shard " + std::to_string(options.shard.rank) + " of " +
                                                        std::to_string(options.shard.ranks) +
                                                        ": only whole models are supported");
    }
    return {};
}

/// Where the model shall run. A family of CPU kernels by name means the host.
/// Error: invalid_argument where device and kernels contradict each other; unavailable or unimplemented where a GPU is
/// asked for that cannot be used.
Result<BackendOptions> choose_backend(const EngineOptions& options) {
    BackendOptions chosen{.family = options.kernels,
                          .threads = options.threads,
                          .cpus = options.cpus,
                          .device_index = 0,
                          .deterministic = options.deterministic,
                          .prefill_by_wgmma = options.prefill_attention == "wgmma",
                          .dependent_launch = options.dependent_launch};
    const auto place = device::parse_device(options.device);
    if (!place) { return base::pass_on(place); }
    const bool names_cpu = options.kernels != "auto" && options.kernels != "cuda";
    if (options.kernels == "cuda" && !place->is_cuda) {
        if (options.device == "host") {
            return base::fail(ErrorCode::invalid_argument, "kernels is 'cuda', but device is 'host'");
        }
        const device::CudaReport report = device::cuda_report();
        return base::fail(ErrorCode::unavailable,
                          "kernels is 'cuda', but " + report.problem + "; to change that: " + report.remedy);
    }
    if (place->is_cuda && names_cpu) {
        if (options.device != "auto") {
            return base::fail(ErrorCode::invalid_argument,
                              "kernels is '" + options.kernels + "', but device is '" + options.device + "'");
        }
        return chosen;
    }
    if (!place->is_cuda && chosen.prefill_by_wgmma) {
        return base::fail(ErrorCode::invalid_argument,
                          "prefill_attention is 'wgmma', which Hopper GPUs have and the host has not: set it to auto");
    }
    if (!place->is_cuda && chosen.dependent_launch) {
        return base::fail(
            ErrorCode::invalid_argument,
            "dependent_launch is true, which Hopper GPUs and newer ones have and the host has not: set it "
            "to false");
    }
    if (!place->is_cuda) { return chosen; }
    if (chosen.prefill_by_wgmma && options.deterministic) {
        return base::fail(ErrorCode::invalid_argument,
                          "prefill_attention is 'wgmma', whose bits are not those of decode: set it to auto, or "
                          "deterministic to false");
    }
    chosen.family = "cuda";
    chosen.device_index = place->index;
    const auto only_bf16 = [](const std::string& value, const char* name) -> Result<void> {
        if (value != "f32") { return {}; }
        return base::fail(ErrorCode::invalid_argument,
                          std::string(name) + " is 'f32', CUDA computes in bf16: set it to auto, or device to 'host'");
    };
    if (auto checked = only_bf16(options.weight_format, "weight_format"); !checked) { return base::pass_on(checked); }
    if (auto checked = only_bf16(options.kv_dtype, "kv_dtype"); !checked) { return base::pass_on(checked); }
    return chosen;
}

kv_cache::KvDtype kv_dtype_of(const EngineOptions& options, WeightFormat format) {
    const bool bf16 = options.kv_dtype == "auto" ? format != WeightFormat::f32 : options.kv_dtype == "bf16";
    return bf16 ? kv_cache::KvDtype::bf16 : kv_cache::KvDtype::f32;
}

Result<kv_cache::KvStore> make_kv(const EngineOptions& options, const ModelShape& shape, WeightFormat format,
                                  Backend& backend) {
    kv_cache::KvFormat kv_format;
    kv_format.dtype = kv_dtype_of(options, format);
    kv_format.order = backend.tile_order();
    const auto layout = kv_cache::KvLayout::make(shape, kv_format, options.block_tokens);
    if (!layout) { return base::pass_on(layout); }
    const std::uint64_t blocks = std::min<std::uint64_t>(options.kv_pool_bytes / layout->block_bytes(), 0xffffffffu);
    if (blocks == 0) {
        return base::fail(ErrorCode::invalid_argument, "kv_pool_bytes is " + std::to_string(options.kv_pool_bytes) +
                                                           ", one block of " + std::to_string(options.block_tokens) +
                                                           " tokens has " + std::to_string(layout->block_bytes()));
    }
    return kv_cache::KvStore::make(backend.device(), *layout, static_cast<std::uint32_t>(blocks));
}

NumericsId make_numerics_id(const Model& model, WeightFormat format, const ShardSpec& shard) {
    const kv_cache::KvLayout& layout = model.kv->layout();
    std::string text = "graph " + std::to_string(kGraphVersion) + "\n" + format_model_config(model.shape, "");
    for (const std::uint64_t number :
         {model.content.high, model.content.low, std::uint64_t{model.backend->numerics_version()},
          std::uint64_t{layout.block_tokens()}, std::uint64_t{shard.rank}, std::uint64_t{shard.ranks}}) {
        text += std::to_string(number) + "\n";
    }
    text += std::string(name_of(format)) + "\n" + model.backend->numerics_name() + "\n" + layout.format().name();
    return NumericsId{base::keyed_hash({}, std::as_bytes(std::span(text))).low};
}

std::string describe_model(const Model& model, WeightFormat format, const EngineOptions& options) {
    const kv_cache::KvLayout& layout = model.kv->layout();
    const bool on_host = model.backend->device().is_host_memory();
    const std::string kernels =
        on_host ? std::string(model.backend->family()) + " kernels on " + std::to_string(options.threads) +
                      (options.threads == 1 ? " thread" : " threads")
                : model.backend->numerics_name() + " kernels on " + std::string(model.backend->device().name());
    return model.shape.architecture + " with " + std::to_string(model.shape.layers) + " layers, " +
           std::string(name_of(format)) + " weights" +
           (on_host ? " in " + model.packed.path : " of " + std::to_string(model.uploaded.size() >> 20) + " MiB") +
           ", " + kernels + ", " + layout.format().name() + " KV, " + std::to_string(model.kv->blocks_total()) +
           " blocks of " + std::to_string(layout.block_tokens()) + " tokens";
}

/// Packs and maps the weights, or uploads them. Error: as open_packed_file() and upload_weights().
Result<void> load_weights(const Checkpoint& checkpoint, const PackingPlan& plan, const std::string& packed_dir,
                          const std::function<void(std::uint64_t, std::uint64_t)>& progress, Model& model) {
    if (plan.order == WeightOrder::panels) {
        auto packed = open_packed_file(checkpoint, plan, packed_dir, progress);
        if (!packed) { return base::pass_on(packed); }
        model.packed = std::move(*packed);
        model.content = model.packed.content;
        model.weights = bind_weights(model.shape, plan, model.packed.file.bytes().data());
        return {};
    }
    const auto content = content_of(checkpoint, plan, packed_dir);
    if (!content) { return base::pass_on(content); }
    model.content = *content;
    const auto quantize = [&model](const std::byte* rows, std::uint32_t count, std::uint32_t width, std::byte* out,
                                   float* scales, device::Stream& stream) {
        return model.backend->quantize_rows(rows, count, width, out, scales, stream);
    };
    auto uploaded = upload_weights(checkpoint, plan, model.backend->device(), quantize, progress);
    if (!uploaded) { return base::pass_on(uploaded); }
    model.uploaded = std::move(*uploaded);
    model.weights = bind_weights(model.shape, plan, model.uploaded.data());
    return {};
}

}  // namespace

Result<StepResult> run_to_end(Engine& engine, Batch batch, LayersDone layers_done) {
    const Ticket ticket = engine.launch(std::move(batch), std::move(layers_done));
    return engine.collect(ticket, std::chrono::steady_clock::now() + std::chrono::minutes(10));
}

Result<std::unique_ptr<Engine>> load_engine(const EngineOptions& given,
                                            const std::function<void(std::uint64_t, std::uint64_t)>& progress) {
    EngineOptions options = given;
    if (auto checked = check_options(options); !checked) { return base::pass_on(checked); }
    auto model = std::make_unique<Model>();
    auto shape = read_model_config(options.model_dir);
    if (!shape) { return base::pass_on(shape); }
    model->shape = *shape;
    if (options.layer_group == 0) { options.layer_group = (shape->layers + 3) / 4; }

    // What can be refused cheaply is refused before gigabytes are packed.
    const auto choice = choose_backend(options);
    if (!choice) { return base::pass_on(choice); }
    auto backend = make_backend(*choice);
    if (!backend) { return base::pass_on(backend); }
    model->backend = std::move(*backend);
    const bool wants_fp8 = options.weight_format == "fp8";
    if (wants_fp8) {
        if (auto checked = model->backend->check_weight_format(WeightFormat::fp8); !checked) {
            return base::pass_on(checked);
        }
    }
    const auto checkpoint = Checkpoint::open(options.model_dir);
    if (!checkpoint) { return base::pass_on(checkpoint); }
    PackingPlan plan = plan_packing(*shape, WeightFormat::f32);
    if (auto checked = check_tensors(*checkpoint, plan); !checked) { return base::pass_on(checked, options.model_dir); }
    const WeightOrder order = model->backend->weight_order();
    const WeightFormat format = wants_fp8 ? WeightFormat::fp8
                                : order == WeightOrder::row_major || options.weight_format == "bf16"
                                    ? WeightFormat::bf16
                                : options.weight_format == "auto" ? stored_format(*checkpoint, plan)
                                                                  : WeightFormat::f32;
    plan = plan_packing(*shape, format, order);
    if (auto checked = check_fp8_widths(plan); !checked) { return base::pass_on(checked, options.model_dir); }
    const Decoder::Limits limits{.batch_tokens = options.batch_tokens_max,
                                 .batch_sequences = options.batch_sequences_max,
                                 .logit_rows = options.batch_sequences_max};
    if (options.kv_pool_bytes == 0) {
        // A backend keeps rows and logits of its own, never more than the decoder's.
        const std::uint64_t element = kv_dtype_of(options, format) == kv_cache::KvDtype::bf16 ? 2 : 4;
        const MemoryUse use{.weight_bytes = plan.file_bytes,
                            .scratch_bytes = 2 * Decoder::scratch_bytes(*shape, *model->backend, limits),
                            .kv_token_bytes = shape->kv_elements_per_token() * element};
        const auto chosen = choose_kv_bytes(model->backend->device(), options.gpu_memory_share, use);
        if (!chosen) { return base::pass_on(chosen); }
        options.kv_pool_bytes = *chosen;
    }
    auto kv = make_kv(options, *shape, format, *model->backend);
    if (!kv) { return base::pass_on(kv); }
    model->kv.emplace(std::move(*kv));

    const auto packed_dir = prepare_packed_dir(options.packed_dir);
    if (!packed_dir) { return base::pass_on(packed_dir, "folder for packed weights (packed_dir)"); }
    if (auto loaded = load_weights(*checkpoint, plan, *packed_dir, progress, *model); !loaded) {
        return base::pass_on(loaded);
    }

    const std::uint64_t capacity = std::uint64_t{model->kv->blocks_total()} * options.block_tokens;
    model->rope =
        make_rope_table(*shape, static_cast<std::uint32_t>(std::min<std::uint64_t>(shape->context_tokens, capacity)));
    auto decoder = Decoder::make(model->shape, model->weights, model->rope, *model->backend, *model->kv, limits);
    if (!decoder) { return base::pass_on(decoder); }
    model->decoder.emplace(std::move(*decoder));

    const NumericsId numerics_id = make_numerics_id(*model, format, options.shard);
    std::string description = describe_model(*model, format, options);
    return std::make_unique<LocalEngine>(options, std::move(model), numerics_id, std::move(description));
}

}  // namespace engine
