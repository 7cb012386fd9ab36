#include "engine/model/fit_to_checkpoint.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

#include "base/gguf_model.h"
#include "engine/model/model_config.h"
#include "engine/model/read_file.h"
#include "engine/model/weights.h"

namespace engine {
namespace {

using base::ErrorCode;
using base::ModelShape;

constexpr std::string_view kEmbedding = "model.embed_tokens.weight";
constexpr std::string_view kHead = "lm_head.weight";
constexpr std::size_t kConfigBytesMax = 4u << 20;
constexpr std::string_view kLayers = "model.layers.";

/// Tables that older releases of transformers stored and every reader makes itself.
constexpr std::string_view kTables[] = {".rotary_emb.inv_freq", ".rotary_emb.cos_cached", ".rotary_emb.sin_cached"};
/// Of checkpoints in FP8: scales of activations and of the KV cache. Neither is rounded to FP8 by these scales here
/// (read_quantization() in model_config.cpp).
constexpr std::string_view kActivationScales[] = {".input_scale", ".output_scale", ".k_scale",         ".v_scale",
                                                  ".q_scale",     ".prob_scale",   ".activation_scale"};

bool ends_in_one_of(std::string_view name, std::span<const std::string_view> endings) {
    return std::any_of(endings.begin(), endings.end(),
                       [name](std::string_view ending) { return name.ends_with(ending); });
}

/// Of the text model itself, rather than of a tower or a task beside it.
bool is_of_text_model(std::string_view name) {
    for (const std::string_view prefix :
         {kLayers, std::string_view("model.norm."), std::string_view("model.embed_"), std::string_view("lm_head.")}) {
        if (name.starts_with(prefix)) { return true; }
    }
    return false;
}

/// The layer that a tensor belongs to.
std::optional<std::uint32_t> layer_of(std::string_view name) {
    if (!name.starts_with(kLayers)) { return std::nullopt; }
    name.remove_prefix(kLayers.size());
    std::uint32_t layer = 0;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), layer);
    if (error != std::errc() || end == name.data() + name.size() || *end != '.') { return std::nullopt; }
    return layer;
}

bool is_equal(const Checkpoint& checkpoint, const Tensor& one, const Tensor& other) {
    if (one.dtype != other.dtype || one.shape != other.shape) { return false; }
    constexpr std::size_t kPieceBytes = 8u << 20;
    for (std::size_t at = 0; at < one.bytes.size(); at += kPieceBytes) {
        const std::size_t size = std::min(kPieceBytes, one.bytes.size() - at);
        const auto here = one.bytes.subspan(at, size);
        const auto there = other.bytes.subspan(at, size);
        const bool is_same = std::memcmp(here.data(), there.data(), size) == 0;
        checkpoint.let_go(here);
        checkpoint.let_go(there);
        if (!is_same) { return false; }
    }
    return true;
}

bool is_all_zero(const Tensor& tensor) {
    return std::all_of(tensor.bytes.begin(), tensor.bytes.end(), [](std::byte byte) { return byte == std::byte{0}; });
}

UnusedTensor judge(const Checkpoint& checkpoint, const ModelShape& shape, const std::string& name,
                   const Tensor& tensor) {
    using Kind = UnusedTensor::Kind;
    const auto as = [&](Kind kind, std::string why) {
        return UnusedTensor{name, tensor.bytes.size(), kind, std::move(why)};
    };
    const std::string source(checkpoint.shape_source());
    if (ends_in_one_of(name, kTables)) { return as(Kind::harmless, "made from " + source); }
    if (ends_in_one_of(name, kActivationScales)) {
        return as(Kind::harmless, "a scale of activations, which are not rounded to it");
    }
    if (name == kHead && shape.tied_embeddings) {
        const Tensor* embedding = checkpoint.find(kEmbedding);
        if (embedding != nullptr && is_equal(checkpoint, tensor, *embedding)) {
            return as(Kind::harmless, "equal to " + std::string(kEmbedding));
        }
        return as(Kind::contradicts, "differs from " + std::string(kEmbedding) + ", to which " + source + " ties it");
    }
    if (!is_of_text_model(name)) { return as(Kind::aside, "no part of the text model"); }
    if (const auto layer = layer_of(name); layer && *layer >= shape.layers) {
        return as(Kind::contradicts, source + " has only " + std::to_string(shape.layers) + " layers");
    }
    if (name.ends_with(".bias") && is_all_zero(tensor)) { return as(Kind::harmless, "all zeros"); }
    return as(Kind::contradicts, source + " does not ask for it");
}

}  // namespace

std::vector<UnusedTensor> unused_tensors(const Checkpoint& checkpoint, const ModelShape& shape) {
    std::set<std::string, std::less<>> used;
    for (const PackedItem& item : plan_packing(shape, WeightFormat::f32).items) {
        for (const auto& source : item.sources) {
            used.insert(source.tensor);
            const Tensor* tensor = checkpoint.find(source.tensor);
            if (tensor != nullptr && tensor->dtype == "F8_E4M3") { used.insert(source.tensor + "_scale"); }
        }
    }
    std::vector<UnusedTensor> unused;
    for (const auto& [name, tensor] : checkpoint.tensors()) {
        if (!used.contains(name)) { unused.push_back(judge(checkpoint, shape, name, tensor)); }
    }
    return unused;
}

std::string describe_unused(std::span<const UnusedTensor> unused, UnusedTensor::Kind kind) {
    constexpr std::size_t kShown = 3;
    std::string text;
    std::size_t count = 0;
    std::uint64_t bytes = 0;
    for (const UnusedTensor& tensor : unused) {
        if (tensor.kind != kind) { continue; }
        if (count < kShown) { text += (count == 0 ? "" : ", ") + tensor.name; }
        ++count;
        bytes += tensor.bytes;
    }
    if (count > kShown) { text += " and " + std::to_string(count - kShown) + " more"; }
    return count == 0 ? text : text + " (" + std::to_string(bytes) + " bytes)";
}

base::Result<FittedModel> fit_to_checkpoint(const ModelShape& shape, const Checkpoint& checkpoint,
                                            const std::string& model_dir) {
    using Kind = UnusedTensor::Kind;
    FittedModel fitted{.shape = shape, .unused = unused_tensors(checkpoint, shape), .warnings = {}};
    const auto head = std::find_if(fitted.unused.begin(), fitted.unused.end(), [](const UnusedTensor& tensor) {
        return tensor.name == kHead && tensor.kind == Kind::contradicts;
    });
    if (head != fitted.unused.end()) {
        fitted.shape.tied_embeddings = false;
        fitted.unused.erase(head);
        fitted.warnings.push_back(model_dir + ": config.json has tie_word_embeddings true, but " + std::string(kHead) +
                                  " in the files differs from " + std::string(kEmbedding) +
                                  ": the files' head is used (set tie_word_embeddings to false to say so)");
    }
    const auto contradicts = [](const UnusedTensor& tensor) { return tensor.kind == Kind::contradicts; };
    const auto first = std::find_if(fitted.unused.begin(), fitted.unused.end(), contradicts);
    if (first != fitted.unused.end()) {
        return base::fail(ErrorCode::data_loss,
                          model_dir + ": the files hold tensors that would be ignored and change the model: " +
                              describe_unused(fitted.unused, Kind::contradicts) + "; of " + first->name + ": " +
                              first->why + ". Put " + std::string(checkpoint.shape_source()) +
                              " right, or take them out of the files");
    }
    if (const std::string aside = describe_unused(fitted.unused, Kind::aside); !aside.empty()) {
        fitted.warnings.push_back(model_dir + ": not used, as no part of the text model: " + aside);
    }
    if (!base::is_gguf(model_dir)) {
        const auto config = read_file(std::filesystem::path(model_dir) / "config.json", kConfigBytesMax);
        for (const std::string& warning : model_config_warnings(config.value_or(""))) {
            fitted.warnings.push_back(model_dir + ": " + warning);
        }
    }
    std::error_code ignored;
    if (std::filesystem::exists(std::filesystem::path(model_dir) / "adapter_config.json", ignored)) {
        fitted.warnings.push_back(model_dir +
                                  ": the adapter of adapter_config.json is not applied; merge it into the weights");
    }
    return fitted;
}

}  // namespace engine
