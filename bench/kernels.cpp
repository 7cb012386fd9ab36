#include "bench/kernels.h"

#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "base/check.h"
#include "bench/machine.h"
#include "device/device.h"
#include "engine/exact_math.h"
#include "engine/kernels/backend.h"
#include "engine/kernels/float_formats.h"
#include "engine/kernels/scratch.h"
#include "kv_cache/kv_store.h"

namespace bench {
namespace {

/// Times calls by the wall clock or by this thread's processor time.
class Timer {
public:
    explicit Timer(bool processor_time) : clock_(processor_time ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC) {}

    /// Median seconds of a call, over at least `least` calls and 0.25 s.
    template <class Call>
    double median(std::size_t least, const Call& call) const {
        std::vector<double> samples;
        call();
        const double begin = now();
        while (samples.size() < least || now() - begin < 0.25) {
            const double start = now();
            call();
            samples.push_back(now() - start);
        }
        std::sort(samples.begin(), samples.end());
        return samples[samples.size() / 2];
    }

private:
    double now() const {
        timespec time{};
        clock_gettime(clock_, &time);
        return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
    }
    clockid_t clock_;
};

std::vector<float> normals(std::size_t count, float deviation = 1.0f) {
    std::mt19937 random{1};
    std::normal_distribution<float> normal{0.0f, deviation};
    std::vector<float> values(count);
    for (float& value : values) {
        value = normal(random);
    }
    return values;
}

/// A packed matrix of random weights.
struct Weights {
    Weights(engine::WeightFormat format, std::uint32_t outputs, std::uint32_t inputs) {
        const std::size_t bytes = engine::packed_bytes(format, outputs, inputs);
        std::byte* data = memory.at_least(bytes);
        static const std::vector<float> noise = normals(4096, 0.02f);
        for (std::size_t i = 0; i < bytes / 4; ++i) {
            const float value = noise[i * 7 % 4096];
            const auto pair = static_cast<std::uint32_t>(engine::bf16_from_float(value)) * 0x10001u;
            std::memcpy(data + i * 4, format == engine::WeightFormat::f32 ? static_cast<const void*>(&value) : &pair,
                        4);
        }
        packed = {.format = format, .outputs = outputs, .inputs = inputs, .data = data};
    }
    engine::Scratch memory;
    engine::PackedMatrix packed;
    std::size_t bytes() const { return engine::packed_bytes(packed.format, packed.outputs, packed.inputs); }
};

struct Limits {
    double dram = 0;  // GB/s
    double rate = 0;  // Gop/s of the format
};

void bench_linear(engine::Backend& backend, engine::WeightFormat format, const Limits& limits, const Timer& timer) {
    struct Shape {
        std::uint32_t inputs;
        std::uint32_t outputs;
    };
    std::printf(
        "\ny = x W^T        rows     GFLOP/s  (%% of peak)      GB/s  (%% of DRAM)  %% of the limit that binds\n");
    for (const Shape shape : {Shape{768, 768}, Shape{768, 2048}, Shape{2048, 2048}}) {
        // Few rows: as in a model, every product meets weights that the caches have lost.
        std::vector<std::unique_ptr<Weights>> matrices;
        std::size_t bytes = 0;
        while (bytes < std::size_t{192} << 20) {
            matrices.push_back(std::make_unique<Weights>(format, shape.outputs, shape.inputs));
            bytes += matrices.back()->bytes();
        }
        for (const std::uint32_t rows : {1u, 2u, 4u, 8u, 12u, 16u, 32u, 64u, 512u}) {
            const std::vector<float> x = normals(std::size_t{rows} * shape.inputs);
            std::vector<float> y(std::size_t{rows} * shape.outputs);
            const std::size_t count = rows >= 64 ? std::min<std::size_t>(matrices.size(), 8) : matrices.size();
            const double seconds = timer.median(3, [&] {
                for (std::size_t i = 0; i < count; ++i) {
                    backend.linear(matrices[i]->packed, x.data(), rows, nullptr, y.data(), engine::Activation::delta);
                }
            }) / static_cast<double>(count);
            const double flops = 2.0 * rows * shape.inputs * shape.outputs / seconds / 1e9;
            const double read = static_cast<double>(matrices[0]->bytes()) / seconds / 1e9;
            const double binds = std::max(flops / limits.rate, read / limits.dram);
            std::printf("%5u x %-5u     %5u    %8.1f      (%3.0f)  %8.1f      (%3.0f)   %3.0f\n", shape.inputs,
                        shape.outputs, rows, flops, 100 * flops / limits.rate, read, 100 * read / limits.dram,
                        100 * binds);
        }
    }
}

base::ModelShape shape_110m() {
    base::ModelShape shape;
    shape.layers = 12;
    shape.hidden = 768;
    shape.intermediate = 2048;
    shape.heads_q = 12;
    shape.heads_kv = 12;
    shape.head_dim = 64;
    shape.vocabulary = 32000;
    shape.context_tokens = 4096;
    return shape;
}

/// The operators of one step of a model, with weights that mean nothing.
class Model {
public:
    Model(engine::Backend& backend, const base::ModelShape& shape, engine::WeightFormat format, std::uint32_t rows)
        : backend_(backend), shape_(shape), rows_max_(rows) {
        const std::uint32_t q_width = shape.heads_q * shape.head_dim;
        const std::uint32_t kv_width = shape.heads_kv * shape.head_dim;
        for (std::uint32_t i = 0; i < shape.layers; ++i) {
            qkv_.push_back(std::make_unique<Weights>(format, q_width + 2 * kv_width, shape.hidden));
            output_.push_back(std::make_unique<Weights>(format, shape.hidden, q_width));
            gate_up_.push_back(std::make_unique<Weights>(format, 2 * shape.intermediate, shape.hidden));
            down_.push_back(std::make_unique<Weights>(format, shape.hidden, shape.intermediate));
        }
        head_ = std::make_unique<Weights>(format, shape.vocabulary, shape.hidden);
        const auto dtype = format == engine::WeightFormat::bf16 ? kv_cache::KvDtype::bf16 : kv_cache::KvDtype::f32;
        const auto layout = kv_cache::KvLayout::make(shape, {.dtype = dtype, .order = backend.tile_order()}, 16);
        CHECK(layout.has_value());
        auto store = kv_cache::KvStore::make(device::host_device(), *layout, shape.context_tokens / 16);
        CHECK(store.has_value());
        kv_ = std::make_unique<kv_cache::KvStore>(std::move(*store));
        for (std::uint32_t i = 0; i < shape.context_tokens / 16; ++i) {
            blocks_.push_back(base::BlockId{i});
        }
        rope_.head_dim = shape.head_dim;
        for (std::uint32_t p = 0; p < shape.context_tokens; ++p) {
            for (std::uint32_t i = 0; i < shape.head_dim / 2; ++i) {
                const auto both = engine::exact::sine_cosine(p * engine::exact::pow(1e4, -2.0 * i / shape.head_dim));
                rope_.cosines.push_back(static_cast<float>(both.cosine));
                rope_.sines.push_back(static_cast<float>(both.sine));
            }
        }
        norm_.assign(shape.hidden, 1.0f);
        residual_.resize(std::size_t{rows} * shape.hidden);
        hidden_ = delta_ = residual_;
        fused_.resize(std::size_t{rows} * (q_width + 2 * kv_width));
        q_.resize(std::size_t{rows} * q_width);
        attended_ = q_;
        gates_.resize(std::size_t{rows} * 2 * shape.intermediate);
        activated_.resize(std::size_t{rows} * shape.intermediate);
        logits_.resize(shape.vocabulary);
    }

    std::size_t weight_bytes() const {
        std::size_t bytes = head_->bytes();
        for (std::uint32_t i = 0; i < shape_.layers; ++i) {
            bytes += qkv_[i]->bytes() + output_[i]->bytes() + gate_up_[i]->bytes() + down_[i]->bytes();
        }
        return bytes;
    }
    double layer_products() const {
        double sum = 0;
        for (const Weights* w : {qkv_[0].get(), output_[0].get(), gate_up_[0].get(), down_[0].get()}) {
            sum += 1.0 * w->packed.inputs * w->packed.outputs;
        }
        return sum * shape_.layers;
    }

    /// One sequence's `rows` tokens from `position` on, logits of the last one.
    void step(std::uint32_t rows, std::uint32_t position) {
        CHECK(rows <= rows_max_);
        const std::vector<base::TokenId> tokens(rows, 17);
        const std::vector<engine::SequenceRows> sequences{
            {.row_begin = 0, .rows = rows, .position = position, .blocks = blocks_}};
        constexpr float kEps = 1e-5f;
        backend_.embed(head_->packed, tokens, residual_.data());
        backend_.rms_norm(residual_.data(), norm_.data(), kEps, rows, shape_.hidden, hidden_.data());
        for (std::uint32_t layer = 0; layer < shape_.layers; ++layer) {
            backend_.linear(qkv_[layer]->packed, hidden_.data(), rows, nullptr, fused_.data(), engine::Activation::qkv);
            backend_.rope_and_append(shape_, {.qkv = fused_.data(),
                                              .rows = rows,
                                              .sequences = sequences,
                                              .rope = &rope_,
                                              .layer = layer,
                                              .q = q_.data(),
                                              .kv = kv_.get()});
            attend(rows, position, layer);
            backend_.linear(output_[layer]->packed, attended_.data(), rows, nullptr, delta_.data(),
                            engine::Activation::delta);
            backend_.add_rms_norm(residual_.data(), delta_.data(), norm_.data(), kEps, rows, shape_.hidden,
                                  hidden_.data());
            backend_.linear(gate_up_[layer]->packed, hidden_.data(), rows, nullptr, gates_.data(),
                            engine::Activation::gate_up);
            backend_.swiglu(gates_.data(), rows, shape_.intermediate, activated_.data());
            backend_.linear(down_[layer]->packed, activated_.data(), rows, nullptr, delta_.data(),
                            engine::Activation::delta);
            backend_.add_rms_norm(residual_.data(), delta_.data(), norm_.data(), kEps, rows, shape_.hidden,
                                  hidden_.data());
        }
        backend_.linear(head_->packed, hidden_.data() + std::size_t{rows - 1} * shape_.hidden, 1, nullptr,
                        logits_.data(), engine::Activation::logits);
    }

    void attend(std::uint32_t rows, std::uint32_t position, std::uint32_t layer) {
        const std::vector<engine::SequenceRows> sequences{
            {.row_begin = 0, .rows = rows, .position = position, .blocks = blocks_}};
        backend_.attention(shape_, {.q = q_.data(),
                                    .sequences = sequences,
                                    .layer = layer,
                                    .scale = 1.0f / std::sqrt(static_cast<float>(shape_.head_dim)),
                                    .kv = kv_.get(),
                                    .out = attended_.data()});
    }
    std::size_t kv_bytes_per_token_and_layer() const { return kv_->layout().bytes_per_token() / shape_.layers; }

private:
    engine::Backend& backend_;
    base::ModelShape shape_;
    std::uint32_t rows_max_;
    std::vector<std::unique_ptr<Weights>> qkv_, output_, gate_up_, down_;
    std::unique_ptr<Weights> head_;
    std::unique_ptr<kv_cache::KvStore> kv_;
    std::vector<base::BlockId> blocks_;
    engine::RopeTable rope_;
    std::vector<float> norm_, residual_, hidden_, delta_, fused_, q_, attended_, gates_, activated_, logits_;
};

void bench_attention(engine::Backend& backend, engine::WeightFormat format, const Limits& limits, const Timer& timer) {
    std::printf(
        "\nattention            heads q/kv x dim   keys    GFLOP/s  (%% of peak)      GB/s of KV  (%% of DRAM)\n");
    struct Heads {
        std::uint32_t q, kv, dim;
    };
    for (const Heads heads : {Heads{12, 12, 64}, Heads{32, 8, 64}, Heads{16, 8, 128}}) {
        base::ModelShape shape = shape_110m();
        shape.layers = 8;
        shape.hidden = 64;
        shape.intermediate = 64;
        shape.vocabulary = 64;
        shape.heads_q = heads.q;
        shape.heads_kv = heads.kv;
        shape.head_dim = heads.dim;
        Model model{backend, shape, format, 512};
        for (std::uint32_t position = 0; position < 4096; position += 512) {
            model.step(512, position);
        }
        for (const std::uint32_t keys : {512u, 4096u}) {
            double seconds = timer.median(3, [&] {
                for (std::uint32_t layer = 0; layer < 8; ++layer) {
                    model.attend(512, keys - 512, layer);
                }
            }) / 8;
            const double pairs = 512.0 * (keys - 512) + 512.0 * 513 / 2;
            const double flops = 4.0 * pairs * heads.q * heads.dim / seconds / 1e9;
            std::printf("prefill of 512       %5u/%u x %-5u     %7u   %8.1f      (%3.0f)\n", heads.q, heads.kv,
                        heads.dim, keys, flops, 100 * flops / limits.rate);
            seconds = timer.median(3, [&] {
                for (std::uint32_t layer = 0; layer < 8; ++layer) {
                    model.attend(1, keys - 1, layer);
                }
            }) / 8;
            const double read = static_cast<double>(model.kv_bytes_per_token_and_layer()) * keys / seconds / 1e9;
            std::printf("decode               %5u/%u x %-5u     %7u   %8s       %3s   %8.1f        (%3.0f)\n", heads.q,
                        heads.kv, heads.dim, keys, "", "", read, 100 * read / limits.dram);
        }
    }
}

void bench_model(engine::Backend& backend, engine::WeightFormat format, const Limits& limits, const Timer& timer) {
    const base::ModelShape shape = shape_110m();
    Model model{backend, shape, format, 512};
    std::printf("\n110M parameters (12 layers, hidden 768, 12 heads, intermediate 2048, vocabulary 32000), %.0f MB\n",
                static_cast<double>(model.weight_bytes()) / 1e6);
    double seconds = timer.median(3, [&] { model.step(512, 0); });
    const double head_products = 1.0 * shape.hidden * shape.vocabulary;
    const double flops = (2.0 * (512 * model.layer_products() + head_products) +
                          4.0 * 512 * 513 / 2 * shape.layers * shape.heads_q * shape.head_dim) /
                         seconds / 1e9;
    std::printf("prefill of 512: %7.1f ms  %8.1f tokens/s  %8.1f GFLOP/s (%3.0f%% of peak)\n", seconds * 1e3,
                512 / seconds, flops, 100 * flops / limits.rate);
    for (const std::uint32_t position : {128u, 511u, 2047u}) {
        if (position > 511) {
            for (std::uint32_t p = 512; p < 2048; p += 512) {
                model.step(512, p);
            }
        }
        seconds = timer.median(5, [&] { model.step(1, position); });
        const double bytes = static_cast<double>(model.weight_bytes()) +
                             static_cast<double>(model.kv_bytes_per_token_and_layer()) * shape.layers * (position + 1);
        const double read = bytes / seconds / 1e9;
        std::printf("decode at %5u: %7.2f ms  %8.1f tokens/s  %8.1f GB/s (%3.0f%% of DRAM)\n", position, seconds * 1e3,
                    1 / seconds, read, 100 * read / limits.dram);
    }
}

}  // namespace

int bench_kernels_main(const KernelsBenchOptions& options) {
    auto backend = engine::make_backend({.family = options.family, .threads = options.threads, .cpus = {}});
    if (!backend) {
        std::fprintf(stderr, "bench kernels: %s\n", backend.error().message.c_str());
        return 1;
    }
    if (!(*backend)->device().is_host_memory()) {
        std::fprintf(stderr, "bench kernels: measures processors; scripts/gpu-check bench measures a GPU\n");
        return 1;
    }
    MachineBenchOptions machine;
    machine.threads = options.threads;
    machine.quick = true;
    machine.processor_time = options.processor_time;
    const Timer timer{options.processor_time};
    const MachineReport report = measure_machine(machine);
    const bool bf16 = options.format == "bf16";
    const std::string_view family = (*backend)->family();
    const char* rate = family == "amx" && bf16      ? "bf16_tiles_amx"
                       : family == "avx512" && bf16 ? "bf16_dot_avx512"
                       : family == "avx2"           ? "f32_fma_avx2"
                                                    : "f32_fma_avx512";
    const Limits limits{.dram = figure_of(report, "read", "DRAM", options.threads),
                        .rate = figure_of(report, rate, "", options.threads)};
    std::printf("%s, %u threads, %s, %s: DRAM %.1f GB/s, %s %.1f Gop/s; round trip %.0f ns (%s)\n",
                report.processor.c_str(), options.threads, std::string((*backend)->family()).c_str(),
                options.format.c_str(), limits.dram, rate, limits.rate, report.round_trip_ns_after,
                round_trip_state(report.round_trip_ns_after));
    const auto format = bf16 ? engine::WeightFormat::bf16 : engine::WeightFormat::f32;
    if (options.only.empty() || options.only == "linear") { bench_linear(**backend, format, limits, timer); }
    if (options.only.empty() || options.only == "attention") { bench_attention(**backend, format, limits, timer); }
    if (options.only.empty() || options.only == "model") { bench_model(**backend, format, limits, timer); }
    return 0;
}

}  // namespace bench
