// load_engine(): from options and a folder to an engine that can run.
#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "base/block_hash.h"
#include "base/log.h"
#include "device/cuda/cuda_device.h"
#include "device/device.h"
#include "engine/decoder_model.h"
#include "engine/encoder_model.h"
#include "engine/engine.h"
#include "engine/host_fit.h"
#include "engine/kernels/backend.h"
#include "engine/kv_sizing.h"
#include "engine/local_engine.h"
#include "engine/model/checkpoint.h"
#include "engine/model/decoder.h"
#include "engine/model/encoder_config.h"
#include "engine/model/fit_to_checkpoint.h"
#include "engine/model/model_config.h"
#include "engine/model/packed_file.h"
#include "engine/model/rope.h"
#include "engine/model/weight_upload.h"
#include "engine/model/weights.h"
#include "engine/query_watch.h"
#include "kv_cache/kv_store.h"

namespace engine {
namespace {

using base::ErrorCode;
using base::ModelShape;
using base::Result;

/// Raised whenever the graph or the sampler gives other numbers from the same operators.
constexpr std::uint32_t kGraphVersion = 1;

Result<void> check_options(const EngineOptions& options) {
    const auto wrong = [](const std::string& what) { return base::fail(ErrorCode::invalid_argument, what); };
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
                          .prefill_attention = options.prefill_attention,
                          .dependent_launch = options.dependent_launch,
                          .weight_format = options.weight_format,
                          .kv_dtype = options.kv_dtype};
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
    if (!place->is_cuda) { return chosen; }
    chosen.family = "cuda";
    chosen.device_index = place->index;
    return chosen;
}

Result<kv_cache::KvStore> make_kv(const EngineOptions& options, const ModelShape& shape, kv_cache::KvDtype dtype,
                                  Backend& backend) {
    kv_cache::KvFormat kv_format;
    kv_format.dtype = dtype;
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

/// Equal on all ranks of one engine: they hold parts of the same numbers.
NumericsId make_numerics_id(const DecoderParts& model, WeightFormat format, const ShardSpec& shard) {
    const kv_cache::KvLayout& layout = model.kv->layout();
    std::string text = "graph " + std::to_string(kGraphVersion) + "\n" + format_model_config(model.shape, "");
    for (const std::uint64_t number :
         {model.content.high, model.content.low, std::uint64_t{model.backend->numerics_version()},
          std::uint64_t{layout.block_tokens()}, std::uint64_t{shard.ranks}}) {
        text += std::to_string(number) + "\n";
    }
    text += std::string(name_of(format)) + "\n" + model.backend->numerics_name() + "\n" + layout.format().name();
    return NumericsId{base::keyed_hash({}, std::as_bytes(std::span(text))).low};
}

std::string describe_model(const DecoderParts& model, WeightFormat format, const EngineOptions& options) {
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
                          std::uint64_t packed_bytes_max,
                          const std::function<void(std::uint64_t, std::uint64_t)>& progress, DecoderParts& model) {
    if (plan.order == WeightOrder::panels) {
        auto packed = open_packed_file(checkpoint, plan, packed_dir, progress, packed_bytes_max);
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

/// A model's files as they are before anything is packed, and how the backend will keep it.
struct OpenedModel {
    FittedModel fitted;  // its shape, and what a person should know
    Checkpoint checkpoint;
    ModelFormats formats;
    PackingPlan plan;
    Decoder::Limits limits;
    std::uint64_t scratch_bytes = 0;  // the decoder's and the backend's

    const ModelShape& shape() const { return fitted.shape; }
    std::uint64_t kv_token_bytes() const {
        return shape().kv_elements_per_token() * kv_cache::element_bytes(formats.kv);
    }
};

Result<OpenedModel> open_model(const EngineOptions& options, const Backend& backend) {
    const auto configured = read_model_config(options.model_dir);
    if (!configured) { return base::pass_on(configured); }
    auto checkpoint = Checkpoint::open(options.model_dir);
    if (!checkpoint) { return base::pass_on(checkpoint); }
    PackingPlan plan = plan_packing(*configured, WeightFormat::f32);
    if (auto checked = check_tensors(*checkpoint, plan); !checked) { return base::pass_on(checked, options.model_dir); }
    auto fitted = fit_to_checkpoint(*configured, *checkpoint, options.model_dir);
    if (!fitted) { return base::pass_on(fitted); }
    const ModelShape& shape = fitted->shape;
    plan = plan_packing(shape, WeightFormat::f32);
    if (auto checked = check_tensors(*checkpoint, plan); !checked) { return base::pass_on(checked, options.model_dir); }
    const ModelFormats formats = backend.choose_formats(stored_format(*checkpoint, plan));
    plan = plan_packing(shape, formats.weights, backend.weight_order());
    if (auto checked = check_fp8_widths(plan); !checked) { return base::pass_on(checked, options.model_dir); }
    const Decoder::Limits limits{.batch_tokens = options.batch_tokens_max,
                                 .batch_sequences = options.batch_sequences_max,
                                 .logit_rows = options.batch_sequences_max};
    // A backend keeps rows and logits of its own, never more than the decoder's.
    const std::uint64_t scratch = 2 * Decoder::scratch_bytes(shape, backend, limits);
    return OpenedModel{std::move(*fitted), std::move(*checkpoint), formats, std::move(plan), limits, scratch};
}

/// The KV pool's size, in memory that has room for the engine. Error: resource_exhausted, with the figures.
Result<std::uint64_t> size_kv_pool(const EngineOptions& options, const OpenedModel& opened,
                                   const device::Device& device) {
    const MemoryUse use{.weight_bytes = opened.plan.file_bytes,
                        .scratch_bytes = opened.scratch_bytes,
                        .kv_token_bytes = opened.kv_token_bytes()};
    if (!device.is_host_memory()) {
        if (options.kv_pool_bytes > 0) { return options.kv_pool_bytes; }
        return choose_kv_bytes(device, options.gpu_memory_share, use);
    }
    const auto memory = host_memory_of(options.host_memory_bytes);
    if (!memory) {  // nobody knows
        return options.kv_pool_bytes > 0 ? options.kv_pool_bytes
                                         : choose_kv_bytes(device, options.gpu_memory_share, use);
    }
    HostUse host{.name = options.model_dir, .needs = {}};
    host.needs.shape = opened.shape();
    host.needs.weights = opened.formats.weights;
    host.needs.weight_bytes = use.weight_bytes;
    host.needs.scratch_bytes = use.scratch_bytes;
    host.needs.kv_token_bytes = use.kv_token_bytes;
    host.needs.kv_pool_bytes = options.kv_pool_bytes;
    const auto pools = fit_on_host({&host, 1}, *memory);
    if (!pools) { return base::pass_on(pools); }
    return pools->front();
}

}  // namespace

Result<EngineNeeds> inspect_model(const EngineOptions& given) {
    EngineOptions options = given;
    options.threads = 1;  // nothing is computed
    options.cpus.clear();
    if (auto checked = check_options(options); !checked) { return base::pass_on(checked); }
    auto choice = choose_backend(options);
    if (!choice) { return base::pass_on(choice); }
    EngineNeeds needs;
    needs.on_host = choice->family != "cuda";
    if (!needs
             .on_host) {  // whose device is not to be touched for this; there all is bf16, or fp8 where it is asked for
        *choice = BackendOptions{.family = "reference", .threads = 1, .cpus = {}, .weight_format = "bf16"};
    }
    const auto backend = make_backend(*choice);
    if (!backend) { return base::pass_on(backend); }
    const auto opened = open_model(options, **backend);
    if (!opened) { return base::pass_on(opened); }
    needs.shape = opened->shape();
    needs.weights = opened->formats.weights;
    needs.kv = opened->formats.kv;
    needs.checkpoint_bytes = opened->checkpoint.bytes();
    needs.weight_bytes = opened->plan.file_bytes;
    if (needs.on_host) { needs.scratch_bytes = opened->scratch_bytes; }
    needs.kv_token_bytes = opened->kv_token_bytes();
    needs.kv_pool_bytes = options.kv_pool_bytes;
    needs.block_tokens = options.block_tokens;
    for (const UnusedTensor& tensor : opened->fitted.unused) {
        needs.unused_tensors.push_back(tensor.name);
    }
    return needs;
}

namespace {

Result<std::unique_ptr<Engine>> load(const EngineOptions& given,
                                     const std::function<void(std::uint64_t, std::uint64_t)>& progress,
                                     QueryWatch watch) {
    EngineOptions options = given;
    if (auto checked = check_options(options); !checked) { return base::pass_on(checked); }
    const auto architecture = read_architecture(options.model_dir);
    if (!architecture) { return base::pass_on(architecture); }
    if (is_encoder(*architecture)) {
        if (watch) { return base::fail(ErrorCode::unimplemented, "an encoder has no queries that can be watched"); }
        return load_encoder(options, progress);
    }
    auto model = std::make_unique<DecoderParts>();

    // What can be refused cheaply is refused before gigabytes are packed.
    const auto choice = choose_backend(options);
    if (!choice) { return base::pass_on(choice); }
    auto backend = make_backend(*choice);
    if (!backend) { return base::pass_on(backend); }
    model->backend = std::move(*backend);
    if (watch && !model->backend->device().is_host_memory()) {
        return base::fail(ErrorCode::unimplemented, "queries can be watched on the host alone: take the device host");
    }
    const auto opened = open_model(options, *model->backend);
    if (!opened) { return base::pass_on(opened); }
    const auto& [fitted, checkpoint, formats, plan, limits, scratch_bytes] = *opened;
    const ModelShape& shape = fitted.shape;
    for (const std::string& warning : fitted.warnings) {
        spdlog::warn("{}", warning);
    }
    model->shape = shape;
    if (options.layer_group == 0) { options.layer_group = (shape.layers + 3) / 4; }
    const auto kv_pool_bytes = size_kv_pool(options, *opened, model->backend->device());
    if (!kv_pool_bytes) { return base::pass_on(kv_pool_bytes); }
    options.kv_pool_bytes = *kv_pool_bytes;
    auto kv = make_kv(options, shape, formats.kv, *model->backend);
    if (!kv) { return base::pass_on(kv); }
    model->kv.emplace(std::move(*kv));
    if (options.kv_prefault && model->backend->device().is_host_memory()) {
        const kv_cache::BlockRun all{kv_cache::BlockId{0}, model->kv->blocks_total()};
        model->prefault.emplace(model->kv->run(all));
    }

    const auto packed_dir = prepare_packed_dir(options.packed_dir);
    if (!packed_dir) { return base::pass_on(packed_dir, "folder for packed weights"); }
    if (auto loaded = load_weights(checkpoint, plan, *packed_dir, options.packed_bytes_max, progress, *model);
        !loaded) {
        return base::pass_on(loaded);
    }

    const std::uint64_t capacity = std::uint64_t{model->kv->blocks_total()} * options.block_tokens;
    if (capacity < shape.context_tokens) {
        spdlog::warn(
            "{}: a sequence has room for {} tokens, not for the {} of the model's context: the KV pool has "
            "only so many (engine.kv_pool_bytes {})",
            options.model_dir, capacity, shape.context_tokens, options.kv_pool_bytes);
    }
    model->rope =
        make_rope_table(shape, static_cast<std::uint32_t>(std::min<std::uint64_t>(shape.context_tokens, capacity)));
    auto decoder = Decoder::make(model->shape, model->weights, model->rope, *model->backend, *model->kv, limits);
    if (!decoder) { return base::pass_on(decoder); }
    model->decoder.emplace(std::move(*decoder));
    model->decoder->watch_queries(std::move(watch));

    const NumericsId numerics_id = make_numerics_id(*model, formats.weights, options.shard);
    std::string description = describe_model(*model, formats.weights, options);
    const LocalEngine::Limits engine_limits{.batch_tokens_max = options.batch_tokens_max,
                                            .batch_sequences_max = options.batch_sequences_max};
    return std::make_unique<LocalEngine>(engine_limits,
                                         std::make_unique<DecoderModel>(std::move(model), options.layer_group),
                                         numerics_id, std::move(description));
}

}  // namespace

Result<std::unique_ptr<Engine>> load_engine(const EngineOptions& options,
                                            const std::function<void(std::uint64_t, std::uint64_t)>& progress) {
    return load(options, progress, {});
}

Result<std::unique_ptr<Engine>> load_watched_engine(const EngineOptions& options, QueryWatch watch) {
    return load(options, {}, std::move(watch));
}

}  // namespace engine
