#pragma once

#include <cstdint>
#include <string>

namespace base {

/// How rotary angles are scaled for long contexts (config.json `rope_scaling`).
struct RopeScaling {
    enum class Kind { none, linear, llama3 };
    Kind kind = Kind::none;
    double factor = 1.0;                             // linear, llama3
    double low_freq_factor = 1.0;                    // llama3
    double high_freq_factor = 4.0;                   // llama3
    std::uint32_t original_max_position_tokens = 0;  // llama3
    bool operator==(const RopeScaling&) const = default;
};

/// What a decoder-only transformer looks like: everything that sizes memory or chooses the graph, nothing that holds
/// weights. Read from config.json by engine/model; sent between processes so that each can check that it talks about
/// the same model.
struct ModelShape {
    std::string architecture;  // config.json `architectures[0]`, e.g. "LlamaForCausalLM"
    std::uint32_t layers = 0;
    std::uint32_t hidden = 0;
    std::uint32_t intermediate = 0;
    std::uint32_t heads_q = 0;
    std::uint32_t heads_kv = 0;  // divides heads_q
    std::uint32_t head_dim = 0;
    std::uint32_t vocabulary = 0;
    std::uint32_t context_tokens = 0;  // max_position_embeddings
    double rms_norm_eps = 1e-5;
    double rope_theta = 10000.0;
    RopeScaling rope_scaling;
    bool tied_embeddings = false;
    bool qkv_bias = false;             // Qwen2
    bool output_bias = false;          // attention_bias of Llama configs covers o_proj too
    bool qk_norm = false;              // Qwen3: RMS norm of each head of q and k before RoPE
    std::uint32_t sliding_window = 0;  // 0: full attention everywhere

    bool operator==(const ModelShape&) const = default;

    /// Elements of K plus V of one token over all layers.
    std::uint64_t kv_elements_per_token() const { return 2ull * layers * heads_kv * head_dim; }
    /// Matrix weights of the transformer blocks and the head, each counted once; norms and biases left out.
    std::uint64_t parameters() const;
};

}  // namespace base
