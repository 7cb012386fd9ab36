#pragma once

#include "engine/kernels/backend.h"

namespace engine {

/// The oracle: plain loops over one element at a time, sums in double, one thread. Activations are never rounded; K and
/// V are, to the KV format. Works with both tile orders and asks for token_major.
class ReferenceBackend final : public Backend, private EncoderOperators {
public:
    /// Of `options` the formats.
    explicit ReferenceBackend(const BackendOptions& options) : options_(options) {}

    std::string_view family() const override { return "reference"; }
    std::uint32_t numerics_version() const override { return 1; }
    kv_cache::TileOrder tile_order() const override { return kv_cache::TileOrder::token_major; }
    std::uint32_t threads() const override { return 1; }
    ModelFormats choose_formats(WeightFormat stored) const override { return choose_host_formats(options_, stored); }

    EncoderOperators* encoder() override { return this; }

    void embed(const PackedMatrix& table, std::span<const base::TokenId> tokens, void* out) override;
    void rms_norm(const void* x, const float* weight, float eps, std::uint32_t rows, std::uint32_t width,
                  void* out) override;
    void add_rms_norm(void* residual, const void* delta, const float* weight, float eps, std::uint32_t rows,
                      std::uint32_t width, void* out) override;
    void linear(const PackedMatrix& w, const void* x, std::uint32_t rows, const float* bias, void* y,
                Activation kind) override;
    void swiglu(const void* gate_up, std::uint32_t rows, std::uint32_t width, void* out) override;
    void rope_and_append(const base::ModelShape& shape, const AppendArgs& args) override;
    void attention(const base::ModelShape& shape, const AttentionArgs& args) override;

private:
    // reference_encoder.cpp
    void add_layer_norm(float* x, const float* delta, const LayerNorm& norm, std::uint32_t rows,
                        std::uint32_t width) override;
    void gelu(float* x, Gelu kind, std::uint32_t rows, std::uint32_t width) override;
    void attend_within(const TextAttention& args) override;

    BackendOptions options_;
};

}  // namespace engine
