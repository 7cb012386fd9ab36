// gpu_bench: what the device can do at most (measured), each CUDA operator at Llama-3.1-8B shapes as a share of that,
// and whole synthetic steps made of the operators. Random weights; the engine is not involved.
//   gpu_bench [--json FILE] [--layers N] [--quick 1]
// Exit: 0, 2 on an error of the runtime, 77 without a device. Builds alone: see scripts/gpu-check.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "bench/gpu/measuring.h"
#include "bench/gpu/synthetic_step.h"
#include "engine/kernels/cuda/dependent_launch.h"

namespace {

namespace cuda = engine::cuda;
using gpu_bench::DeviceMemory;
using gpu_bench::Limits;
using gpu_bench::Operator;
using gpu_bench::Products;
using gpu_bench::Record;
using gpu_bench::StepShape;
using gpu_bench::SyntheticModel;
using gpu_bench::Timer;

struct Work {
    double flops = 0;
    double bytes = 0;
};

bool is_product_of_layer(Operator which) {
    return which == Operator::qkv || which == Operator::output || which == Operator::gate_up || which == Operator::down;
}

/// What an operator must do at least, per layer. `element_bytes`: of the operands of a layer's products.
Work work_of(Operator which, const StepShape& s, double rows, double context, double element_bytes) {
    const double hidden = s.hidden;
    const double bytes = is_product_of_layer(which) ? element_bytes : 2;
    const auto product = [&](double outputs, double inputs, double output_bytes) {
        return Work{2 * rows * outputs * inputs,
                    bytes * outputs * inputs + rows * (bytes * inputs + output_bytes * outputs)};
    };
    const double kv_bytes = 4.0 * s.heads_kv * s.head_dim;  // K and V of a token
    switch (which) {
        case Operator::norm:
            return {0, rows * hidden * 6};
        case Operator::qkv:
            return product(s.qkv_width(), hidden, 2);
        case Operator::rope_append:
            return {0, rows * 4 * s.qkv_width()};
        case Operator::attention_decode:
            return {4 * rows * context * s.q_width(), rows * (context * kv_bytes + 4.0 * s.q_width())};
        case Operator::attention_prefill:
        case Operator::attention_hopper:
            return {2 * rows * rows * s.q_width(), rows * (kv_bytes + 4.0 * s.q_width())};
        case Operator::output:
            return product(hidden, s.q_width(), 8);
        case Operator::gate_up:
            return product(2.0 * s.intermediate, hidden, 2);
        case Operator::swiglu:
            return {0, rows * 6 * s.intermediate};
        case Operator::down:
            return product(hidden, s.intermediate, 8);
        case Operator::head:
            return product(s.vocabulary, hidden, 4);
    }
    return {};
}

const char* name_of(Operator which) {
    switch (which) {
        case Operator::norm:
            return "norm";
        case Operator::qkv:
            return "qkv";
        case Operator::rope_append:
            return "rope_append";
        case Operator::attention_decode:
        case Operator::attention_prefill:
        case Operator::attention_hopper:
            return "attention";
        case Operator::output:
            return "output";
        case Operator::gate_up:
            return "gate_up";
        case Operator::swiglu:
            return "swiglu";
        case Operator::down:
            return "down";
        case Operator::head:
            return "head";
    }
    return "";
}

/// Each operator of a step: microseconds per layer, floor, share. Then the step.
class StepBench {
public:
    StepBench(Timer& timer, const Limits& limits, SyntheticModel& model, Record& record)
        : timer_(timer), limits_(limits), model_(model), record_(record) {
        BENCH_REQUIRE(cuda::can_launch_dependently(&can_depend_));
    }

    void decode(std::int32_t batch, std::int32_t context) {
        std::vector<std::int32_t> tokens(static_cast<std::size_t>(batch));
        std::vector<std::int32_t> sequence(tokens.size());
        for (std::int32_t i = 0; i < batch; ++i) {
            tokens[static_cast<std::size_t>(i)] = i * 7919 % model_.shape().vocabulary;
            sequence[static_cast<std::size_t>(i)] = i;
        }
        BENCH_REQUIRE(model_.set_rows(tokens, sequence, std::vector<std::int32_t>(tokens.size(), context - 1)));
        const StepShape& s = model_.shape();
        // Speed of light: weights once, KV once.
        const double floor_s = (element_bytes() * layer_weights() + 2.0 * head_weights() +
                                static_cast<double>(batch) * context * static_cast<double>(s.kv_bytes_per_token())) /
                               limits_.read_bytes_per_s;
        run("decode batch " + std::to_string(batch) + " context " + std::to_string(context),
            "decode." + std::to_string(batch) + "." + std::to_string(context), Operator::attention_decode, batch, batch,
            context, floor_s, [&](cudaStream_t stream) { return model_.decode(batch, context, stream); });
    }

    void prefill(std::int32_t count) {
        std::vector<std::int32_t> tokens(static_cast<std::size_t>(count));
        std::vector<std::int32_t> position(tokens.size());
        for (std::int32_t i = 0; i < count; ++i) {
            tokens[static_cast<std::size_t>(i)] = i * 7919 % model_.shape().vocabulary;
            position[static_cast<std::size_t>(i)] = i;
        }
        BENCH_REQUIRE(model_.set_rows(tokens, std::vector<std::int32_t>(tokens.size(), 0), position));
        const std::int32_t tile = cuda::prefill_tile_tokens(model_.shape().heads_q, model_.shape().heads_kv);
        std::vector<cuda::PrefillTile> tiles;
        for (std::int32_t r = 0; r < count; r += tile) {
            tiles.push_back({r, std::min(tile, count - r), r, 0});
        }
        std::reverse(tiles.begin(), tiles.end());  // the longest first
        BENCH_REQUIRE(model_.set_tiles(tiles));
        const StepShape& s = model_.shape();
        const double floor_s = 2.0 * count * layer_weights() / layer_flops_per_s() +
                               2.0 * count * count * s.q_width() * s.layers / limits_.matrix_flops_per_s;
        const auto run_with = [&](const std::string& title, const std::string& key, Operator attention) {
            run(title + std::to_string(count), key + std::to_string(count), attention, count, 1, count, floor_s,
                [&](cudaStream_t stream) { return model_.prefill(count, attention, stream); });
        };
        run_with("prefill ", "prefill.", Operator::attention_prefill);
        if (model_.has_hopper_attention()) {
            run_with("prefill with attention by wgmma ", "prefill_wgmma.", Operator::attention_hopper);
        }
    }

private:
    double element_bytes() const { return model_.is_fp8() ? 1 : 2; }
    double head_weights() const {
        return static_cast<double>(model_.shape().hidden) * static_cast<double>(model_.shape().vocabulary);
    }
    double layer_weights() const { return static_cast<double>(model_.shape().weights()) - head_weights(); }
    double layer_flops_per_s() const {
        const bool has_limit = model_.is_fp8() && limits_.fp8_matrix_flops_per_s > 0;
        return has_limit ? limits_.fp8_matrix_flops_per_s : limits_.matrix_flops_per_s;
    }

    void run(const std::string& title, const std::string& name, Operator attention, std::int32_t rows,
             std::int32_t head_rows, std::int32_t context, double step_floor_s,
             const std::function<cudaError_t(cudaStream_t)>& step) {
        const std::string key = (model_.is_fp8() ? "fp8_" : "") + name;
        std::printf("\n%s%s\n  %-14s %10s %10s %7s  (us per layer, floor, share of the limit)\n", title.c_str(),
                    model_.is_fp8() ? ", FP8 weights" : "", "operator", "us", "floor", "share");
        const std::int32_t layers = model_.shape().layers;
        double sum_ms = 0;
        // A whole step first: operators read what the one before left, and memory that nobody has written is zeros, on
        // which matrix products are faster.
        BENCH_REQUIRE(step(timer_.stream()));
        BENCH_REQUIRE(cudaStreamSynchronize(timer_.stream()));
        for (const Operator which : {Operator::norm, Operator::qkv, Operator::rope_append, attention, Operator::output,
                                     Operator::gate_up, Operator::swiglu, Operator::down, Operator::head}) {
            const bool head = which == Operator::head;
            const std::int32_t count = head ? 1 : layers;
            const std::int32_t operator_rows = head ? head_rows : rows;
            const double ms = timer_.graph_median_ms(10, [&](cudaStream_t stream) {
                return model_.run_in_all_layers(which, operator_rows, context, stream);
            });
            const double us = ms * 1e3 / count;
            const Work work = work_of(which, model_.shape(), operator_rows, context, element_bytes());
            const double flops_per_s = is_product_of_layer(which) ? layer_flops_per_s() : limits_.matrix_flops_per_s;
            const double floor_us = 1e6 * std::max(work.flops / flops_per_s, work.bytes / limits_.read_bytes_per_s);
            std::printf("  %-14s %10.2f %10.2f %6.0f%%\n", name_of(which), us, floor_us, 100 * floor_us / us);
            record_.add(key + "." + name_of(which) + ".us", us);
            record_.add(key + "." + name_of(which) + ".share", floor_us / us);
            sum_ms += ms * (which == Operator::norm ? 2 : 1);
        }
        const double ms = timer_.graph_median_ms(10, step);
        std::printf("  step %.3f ms (operators alone %.3f ms), floor %.3f ms: %.0f %% of the limit\n", ms, sum_ms,
                    step_floor_s * 1e3, 100 * step_floor_s * 1e3 / ms);
        record_.add(key + ".step_ms", ms);
        record_.add(key + ".operators_ms", sum_ms);
        record_.add(key + ".share", step_floor_s * 1e3 / ms);
        if (attention == Operator::attention_decode && can_depend_) {
            const double dependent_ms = timer_.graph_median_ms(10, [&](cudaStream_t stream) {
                const cuda::DependentLaunches launches(true);
                return step(stream);
            });
            std::printf("  step with dependent launches %.3f ms (%.2f times)\n", dependent_ms, dependent_ms / ms);
            record_.add(key + ".dependent_step_ms", dependent_ms);
        }
        model_.set_products(Products::fixed_order);
        const double fixed_ms = timer_.graph_median_ms(5, step);
        model_.set_products(Products::fastest);
        std::printf("  deterministic mode: %.3f ms (%.2f times)\n", fixed_ms, fixed_ms / ms);
        record_.add(key + ".fixed_order_step_ms", fixed_ms);
    }

    Timer& timer_;
    const Limits& limits_;
    SyntheticModel& model_;
    Record& record_;
    bool can_depend_ = false;  // engine/kernels/cuda/dependent_launch.h
};

/// The products of a layer at one number of rows in FP8 against BF16, activations quantised in the time.
void measure_fp8(Timer& timer, cuda::MatmulLibrary& library, const StepShape& s, Record& record) {
    if (!library.has_fp8()) {
        std::printf("\nno FP8 products with scales per row and per output here\n");
        return;
    }
    std::printf("\nFP8 (e4m3, one scale per row and per output; time includes quantising the rows)\n");
    const std::pair<std::int32_t, std::int32_t> shapes[] = {
        {s.qkv_width(), s.hidden}, {2 * s.intermediate, s.hidden}, {s.hidden, s.intermediate}};
    for (const auto& [outputs, inputs] : shapes) {
        for (const std::int32_t rows : {1, 8, 16, 32, 128, 2048}) {
            DeviceMemory memory;
            const auto w_count = static_cast<std::size_t>(outputs) * static_cast<std::size_t>(inputs);
            const auto x_count = static_cast<std::size_t>(rows) * static_cast<std::size_t>(inputs);
            const cuda::DeviceMatrix w{memory.allocate_random(w_count, 0.02f), outputs, inputs};
            const cuda::Bf16* x = memory.allocate_random(x_count, 1);
            auto* w8 = memory.allocate<std::uint8_t>(w_count);
            auto* w_scales = memory.allocate<float>(static_cast<std::size_t>(outputs));
            auto* x8 = memory.allocate<std::uint8_t>(x_count);
            auto* x_scales = memory.allocate<float>(static_cast<std::size_t>(rows));
            void* y = memory.allocate<cuda::Bf16>(static_cast<std::size_t>(rows) * static_cast<std::size_t>(outputs));
            BENCH_REQUIRE(memory.error());
            BENCH_REQUIRE(cuda::quantize_rows_fp8(w.data, outputs, inputs, w8, w_scales, timer.stream()));
            const cuda::DeviceMatrixFp8 matrix{w8, w_scales, outputs, inputs};
            const bool streams = rows <= cuda::kStreamingRows;  // by own kernels, as the engine does
            const double bf16_ms = timer.median_ms(20, [&](cudaStream_t stream) {
                if (streams) { return cuda::linear_fixed_order(w, x, rows, cuda::LinearOutput::bf16, y, stream); }
                return library.linear(w, x, rows, cuda::LinearOutput::bf16, y, stream);
            });
            const double fp8_ms = timer.median_ms(20, [&](cudaStream_t stream) {
                const cudaError_t error = cuda::quantize_rows_fp8(x, rows, inputs, x8, x_scales, stream);
                if (error != cudaSuccess) { return error; }
                if (streams) {
                    return cuda::linear_fixed_order(matrix, x8, x_scales, rows, cuda::LinearOutput::bf16, y, stream);
                }
                return library.linear(matrix, x8, x_scales, rows, cuda::LinearOutput::bf16, y, stream);
            });
            const bool floats = library.prepare(matrix, rows, cuda::LinearOutput::f32) == cudaSuccess;
            std::printf("  %6dx%-6d rows %5d: bf16 %8.2f us, fp8 %8.2f us (%.2f times as fast)%s\n", outputs, inputs,
                        rows, bf16_ms * 1e3, fp8_ms * 1e3, bf16_ms / fp8_ms,
                        floats ? "" : "; the library writes no floats");
            record.add("fp8." + std::to_string(outputs) + "x" + std::to_string(inputs) + "." + std::to_string(rows) +
                           ".speedup",
                       bf16_ms / fp8_ms);
        }
    }
}

}  // namespace

int main(int argc, char** argv) {
    const char* json = nullptr;
    StepShape shape;
    bool quick = false;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (std::strcmp(argv[i], "--json") == 0) {
            json = argv[i + 1];
        } else if (std::strcmp(argv[i], "--layers") == 0) {
            shape.layers = std::atoi(argv[i + 1]);
        } else if (std::strcmp(argv[i], "--quick") == 0) {
            quick = std::atoi(argv[i + 1]) != 0;
        } else {
            std::printf("unknown argument %s\n", argv[i]);
            return 2;
        }
    }
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
        std::printf("no CUDA device: nothing was measured\n");
        return 77;
    }
    cudaDeviceProp properties;
    int runtime = 0;
    int driver = 0;
    BENCH_REQUIRE(cudaGetDeviceProperties(&properties, 0));
    BENCH_REQUIRE(cudaRuntimeGetVersion(&runtime));
    BENCH_REQUIRE(cudaDriverGetVersion(&driver));
    std::printf("%s, %d multiprocessors, %.0f GiB, runtime %d, driver %d\n", properties.name,
                properties.multiProcessorCount, static_cast<double>(properties.totalGlobalMem) / (1 << 30), runtime,
                driver);
    Record record;
    record.text("device", properties.name);
    record.add("runtime", runtime);
    record.add("driver", driver);
    record.add("layers", shape.layers);

    cudaError_t error = cudaSuccess;
    const auto library = cuda::MatmulLibrary::make(std::size_t{64} << 20, &error);
    BENCH_REQUIRE(error);
    Timer timer;
    const Limits limits = measure_limits(timer, *library, record);
    measure_copies(timer, limits, shape, record);
    measure_fp8(timer, *library, shape, record);

    SyntheticModel::Options options;
    options.shape = shape;
    options.rows_max = 4096;
    options.sequences = 128;
    options.context_tokens_max = 4096;
    std::size_t free_bytes = 0;
    std::size_t total_bytes = 0;
    BENCH_REQUIRE(cudaMemGetInfo(&free_bytes, &total_bytes));
    const std::size_t weight_bytes =
        2 * shape.weights() + 2 * static_cast<std::size_t>(shape.vocabulary) * static_cast<std::size_t>(shape.hidden);
    constexpr std::size_t kReserve = std::size_t{4} << 30;  // activations, logits, scratch
    if (free_bytes < weight_bytes + 2 * kReserve) {
        std::printf("too little memory: %zu bytes free\n", free_bytes);
        return 2;
    }
    options.pool_bytes_max = free_bytes - weight_bytes - kReserve;
    std::printf("\nLlama-3.1-8B shapes, %d layers, random weights, blocks of 16 tokens in shuffled order\n",
                shape.layers);
    const bool takes_fp8 = properties.major * 10 + properties.minor >= 89;
    for (const bool fp8 : {false, true}) {
        if (fp8 && !takes_fp8) { continue; }
        options.fp8 = fp8;
        const auto model = SyntheticModel::make(options, *library, &error);
        BENCH_REQUIRE(error);
        StepBench bench(timer, limits, *model, record);
        for (const std::int32_t context : {1024, 4096}) {
            for (const std::int32_t batch : {1, 8, 32, 128}) {
                if ((quick || fp8) && (context == 4096 || (quick && batch == 8))) { continue; }
                bench.decode(batch, context);
            }
        }
        for (const std::int32_t count : {128, 256, 512, 1024, 2048, 4096}) {
            if ((quick || fp8) && count != 128 && count != 2048) { continue; }
            bench.prefill(count);
        }
    }
    if (json != nullptr && !record.write(json)) {
        std::printf("cannot write %s\n", json);
        return 2;
    }
    return 0;
}
