#pragma once

#include <memory>
#include <string_view>

#include "engine/kernels/backend.h"
#include "engine/kernels/cpu/kernel_table.h"
#include "engine/kernels/scratch.h"
#include "engine/kernels/thread_pool.h"

namespace engine {

/// The fast CPU backends: one instruction set's kernels, and how their work is divided among threads.
class CpuBackend final : public Backend, private EncoderOperators {
public:
    /// `kernels`: what this processor can run; lives as long as the program. Of `options` the formats.
    CpuBackend(std::string_view family, const KernelTable& kernels, ThreadPool::Options threads,
               const BackendOptions& options);

    std::string_view family() const override { return family_; }
    std::uint32_t numerics_version() const override { return numerics_version_; }
    kv_cache::TileOrder tile_order() const override { return kv_cache::TileOrder::lanes; }
    std::uint32_t threads() const override { return pool_.threads(); }
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
    void mlp(const MlpArgs& args) override;
    void rope_and_append(const base::ModelShape& shape, const AppendArgs& args) override;
    void attention(const base::ModelShape& shape, const AttentionArgs& args) override;

private:
    // cpu_encoder.cpp
    void add_layer_norm(float* x, const float* delta, const LayerNorm& norm, std::uint32_t rows,
                        std::uint32_t width) override;
    void gelu(float* x, Gelu kind, std::uint32_t rows, std::uint32_t width) override;
    void attend_within(const TextAttention& args) override;

    /// Rows as the products by `w` want them; in `scratch` until it is asked for again.
    const std::byte* pack(const PackedMatrix& w, const float* x, std::uint32_t rows, Scratch& scratch);
    /// linear() of rows that are packed.
    void multiply(const PackedMatrix& w, const void* packed, std::uint32_t rows, const float* bias, float* y);
    /// Divides panels [0, panels) among the threads: function(begin, end).
    template <class Function>
    void for_panels(std::uint32_t panels, std::uint32_t step, std::size_t work, const Function& function);

    const WeightKernels& kernels_of(WeightFormat format) const;
    const KvKernels& kernels_of(kv_cache::KvDtype dtype) const;
    /// Calls function(row_begin, row_end) over [0, rows), on all threads when the work (`row_cost` elements a row) is
    /// worth it.
    template <class Function>
    void for_rows(std::uint32_t rows, std::size_t row_cost, const Function& function) {
        if (rows == 0) { return; }
        const std::uint32_t tasks = tasks_of(rows, row_cost);
        pool_.parallel(tasks, [&](std::uint32_t task) {
            const auto begin = static_cast<std::uint32_t>(std::uint64_t{rows} * task / tasks);
            const auto end = static_cast<std::uint32_t>(std::uint64_t{rows} * (task + 1) / tasks);
            function(begin, end);
        });
    }
    std::uint32_t tasks_of(std::uint32_t rows, std::size_t row_cost) const;

    std::string_view family_;
    const KernelTable& kernels_;
    const BackendOptions options_;
    std::uint32_t numerics_version_;
    ThreadPool pool_;
    Scratch activations_;  // packed rows of linear()
    Scratch gated_;        // the same of mlp(), between its products
    Scratch partials_;     // of attention() when partitions are spread over threads
};

}  // namespace engine
