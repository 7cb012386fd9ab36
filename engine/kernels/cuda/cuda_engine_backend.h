#pragma once

// The inside of make_cuda_backend(): cuda_backend.cpp has the operators, cuda_step.cpp what happens around a step,
// cuda_choose.cpp sampling, cuda_fp8.cpp FP8 weights.

#include <cuda_runtime_api.h>

#include <deque>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "device/device.h"
#include "engine/kernels/backend.h"
#include "engine/kernels/cuda/kv_pool_map.h"
#include "engine/kernels/cuda/launch.h"
#include "engine/kernels/cuda/linear.h"
#include "engine/kernels/cuda/sampling.h"
#include "engine/kernels/cuda/step_buffers.h"

namespace engine {

/// Memory that grows when more of it is asked for; what it held is then lost.
class GrowingBuffer {
public:
    /// Error: resource_exhausted.
    base::Result<std::byte*> at_least(std::size_t bytes, device::Device& device, bool on_host);
    std::byte* data() { return buffer_.data(); }

private:
    device::Buffer buffer_;
};

/// One step's graph of kernels, recorded for a number of rows and a longest context.
struct RecordedStep {
    RecordedStep() = default;
    ~RecordedStep() {
        if (executable != nullptr) { static_cast<void>(cudaGraphExecDestroy(executable)); }
    }
    RecordedStep(const RecordedStep&) = delete;
    RecordedStep& operator=(const RecordedStep&) = delete;

    cudaGraphExec_t executable = nullptr;
    bool has_run = false;     // once without recording: the library has chosen its algorithms
    bool is_refused = false;  // recording has failed; never again
};

/// See Backend. All work of a step goes to one stream; the host waits for it in read_rows(), choose() and end_step().
class CudaBackend final : public Backend {
public:
    static base::Result<std::unique_ptr<Backend>> make(const BackendOptions& options);

    std::string_view family() const override { return "cuda"; }
    std::string numerics_name() const override { return numerics_name_; }
    std::uint32_t numerics_version() const override;
    kv_cache::TileOrder tile_order() const override { return kv_cache::TileOrder::token_major; }
    std::uint32_t threads() const override { return 1; }
    device::Device& device() override { return *device_; }
    WeightOrder weight_order() const override { return WeightOrder::row_major; }
    std::size_t element_bytes(Activation kind) const override;
    ModelFormats choose_formats(WeightFormat stored) const override;
    base::Result<void> quantize_rows(const std::byte* rows, std::uint32_t count, std::uint32_t width, std::byte* out,
                                     float* scales, device::Stream& stream) override;

    base::Result<void> prepare(const ModelLimits& limits) override;
    base::Result<StepPlan> begin_step(const StepRows& step) override;
    void run(const std::function<void()>& operators) override;
    void when_done(std::function<void()> news) override;
    base::Result<void> end_step() override;

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
    void keep_wanted(const StepRows& step, Activation kind, void* rows, std::uint32_t width) override;

    base::Result<std::span<const float>> read_rows(const void* rows, Activation kind, std::uint32_t count,
                                                   std::uint32_t width) override;
    base::Result<bool> choose(const void* logits, std::uint32_t vocabulary, std::span<const RowChoice> choices,
                              std::vector<base::Result<SampledToken>>& chosen) override;

private:
    struct News {
        std::unique_ptr<device::Event> event;
        std::function<void()> tell;
    };
    /// What choose() sends and gets, in pinned memory and on the device.
    struct Sampling {
        GrowingBuffer host_in, device_in, host_out, device_out;
    };

    CudaBackend(device::Device& device, const BackendOptions& options) : device_(&device), options_(options) {}

    /// Keeps the first failure of a step. `what`: the operator.
    void note(cudaError_t code, const char* what);
    void note(const base::Result<void>& result);
    bool has_failed() const { return failed_.has_value(); }
    /// Waits for the news that are due, in order, and tells them.
    base::Result<void> tell_news();
    /// tell_news(), then waits for all of the stream. Error: what has failed.
    base::Result<void> wait_for_all();
    base::Result<void> allocate_scratch(const ModelLimits& limits);
    void record(RecordedStep& recorded, const std::function<void()>& operators);
    cuda::KvLayer kv_layer(const kv_cache::KvStore& kv, std::uint32_t layer) const;
    /// Error: unimplemented where FP8 weights are asked for on a GPU that has no FP8.
    base::Result<void> check_fp8() const;
    /// Room for the rounded rows of any product. Error: resource_exhausted.
    base::Result<void> prepare_fp8(const ModelLimits& limits);
    /// Where an operator whose output only goes into products leaves it in FP8 too; nowhere without FP8 weights.
    cuda::QuantizedRows quantized_rows(const void* out);
    cudaError_t linear_fp8(const PackedMatrix& w, const void* x, std::uint32_t rows, cuda::LinearOutput output,
                           void* y);
    /// By the library, of what is in fp8_rows_. Error: cudaErrorNotSupported where it has no such product.
    cudaError_t library_fp8(const cuda::DeviceMatrixFp8& w, std::int32_t rows, cuda::LinearOutput output, void* y);

    device::Device* device_;
    BackendOptions options_;
    std::string numerics_name_;
    std::uint32_t sm_ = 0;  // compute capability: 90
    std::unique_ptr<device::Stream> stream_owner_;
    cudaStream_t stream_ = nullptr;
    std::unique_ptr<cuda::MatmulLibrary> library_;  // null: own products only

    // Since prepare().
    ModelLimits limits_;
    device::Buffer rope_;  // cosines, then sines
    const float* cosines_ = nullptr;
    const float* sines_ = nullptr;
    std::optional<cuda::KvPoolMap> pool_map_;  // where attention of chunks is by wgmma
    std::optional<cuda::StepBuffers> buffers_;
    device::Buffer fp8_product_;    // bf16 [batch_tokens, hidden]: for a library without float output; else empty
    device::Buffer fp8_;            // of fp8_rows_; empty without FP8 weights
    cuda::QuantizedRows fp8_rows_;  // rows of the product that comes next, at a fixed place: it is recorded
    device::Buffer attention_scratch_;
    device::Buffer kept_rows_;        // of keep_wanted()
    device::Buffer changed_logits_;   // [logit_rows, vocabulary], of choose()
    device::Buffer host_rows_;        // pinned, [logit_rows] of logits or of normed hidden states
    std::vector<float> host_floats_;  // the latter as floats
    Sampling sampling_;
    std::map<std::pair<std::uint32_t, std::uint32_t>, RecordedStep> recorded_;  // by rows and longest context

    // Of the present step.
    std::optional<base::Error> failed_;
    cuda::StepShape shape_;
    cuda::DeviceStep step_;
    std::deque<News> news_;
    const void* fp8_source_ = nullptr;   // whose rows fp8_rows_ holds; null: none that a product may take from there
    const float* qkv_bias_ = nullptr;    // of the last product into qkv: added by rope_and_append()
    const float* delta_bias_ = nullptr;  // of the last product into delta: added by add_rms_norm()
};

}  // namespace engine
