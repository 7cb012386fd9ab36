#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/model_shape.h"
#include "base/result.h"

namespace scheduler::planner {

/// How a model is divided over the GPUs of one worker.
struct Split {
    std::uint32_t tensor = 1;    // every layer over so many
    std::uint32_t pipeline = 1;  // the layers over so many stages
    std::uint32_t gpus() const { return tensor * pipeline; }
    bool operator==(const Split&) const = default;
};

/// What of a transformer costs time or memory, for models that Sluice runs and for those that it only plans: dense,
/// with grouped queries, and with experts (mixture of experts, MoE).
struct Model {
    std::string name;           // architecture
    base::ModelShape shape;     // `intermediate` of a dense layer
    bool has_gated_mlp = true;  // three matrices (LLaMA) instead of two (OPT)
    std::uint32_t experts = 0;  // 0: dense
    std::uint32_t experts_per_token = 0;
    std::uint32_t expert_intermediate = 0;
    std::uint32_t weight_bits = 16;
    std::uint32_t kv_bits = 16;

    bool is_moe() const { return experts > 0; }
    /// All weights; embeddings and head counted apart unless tied.
    double parameters() const;
    double weight_bytes() const { return parameters() * weight_bits / 8; }
    /// K and V of one token, all layers, all GPUs together.
    double kv_bytes_per_token() const { return static_cast<double>(shape.kv_elements_per_token()) * kv_bits / 8; }
    /// Weights that the GPU with the most of them holds; the embeddings are on the first stage, the head on the last.
    double weight_bytes_per_gpu(const Split& split) const;
    /// KV of one token on one GPU. Where there are more GPUs than KV heads, heads are held twice.
    double kv_bytes_per_token_per_gpu(const Split& split) const;
    /// Experts of a layer that a batch of `tokens` touches, when each token picks its own at random.
    double experts_touched(double tokens) const;
    /// Floating-point operations of one token in all matrices (no attention).
    double flops_per_token() const;
};

/// Reads a Hugging Face config.json: LLaMA's names and OPT's, and the experts of Mixtral and Qwen3-MoE.
/// Error: invalid_argument that names the field. Pure.
base::Result<Model> read_model(std::string_view config_json);

/// Whether a layer can be divided so: heads and widths by `tensor`, layers by `pipeline`. Error: invalid_argument
/// that says what does not divide.
base::Result<void> check_split(const Model& model, const Split& split);

}  // namespace scheduler::planner
