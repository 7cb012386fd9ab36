#pragma once

#include "engine/kernels/backend.h"

namespace engine {

/// The oracle: plain loops over one element at a time, sums in double, one thread. Activations are never rounded; K and
/// V are, to the KV format. Works with both tile orders and asks for token_major.
class ReferenceBackend final : public Backend {
public:
    std::string_view family() const override { return "reference"; }
    std::uint32_t numerics_version() const override { return 1; }
    kv_cache::TileOrder tile_order() const override { return kv_cache::TileOrder::token_major; }
    std::uint32_t threads() const override { return 1; }

    void embed(const PackedMatrix& table, std::span<const base::TokenId> tokens, float* out) override;
    void rms_norm(const float* x, const float* weight, float eps, std::uint32_t rows, std::uint32_t width,
                  float* out) override;
    void add_rms_norm(float* residual, const float* delta, const float* weight, float eps, std::uint32_t rows,
                      std::uint32_t width, float* out) override;
    void linear(const PackedMatrix& w, const float* x, std::uint32_t rows, const float* bias, float* y) override;
    void swiglu(const float* gate_up, std::uint32_t rows, std::uint32_t width, float* out) override;
    void rope_and_append(const base::ModelShape& shape, const AppendArgs& args) override;
    void attention(const base::ModelShape& shape, const AttentionArgs& args) override;
};

}  // namespace engine
