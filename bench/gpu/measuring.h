#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "bench/gpu/synthetic_step.h"

// What gpu_bench measures with and writes down in.

#define BENCH_REQUIRE(call)                                                                             \
    do {                                                                                                \
        const cudaError_t bench_error = (call);                                                         \
        if (bench_error != cudaSuccess) {                                                               \
            std::printf("%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(bench_error)); \
            std::exit(2);                                                                               \
        }                                                                                               \
    } while (false)

namespace gpu_bench {

/// The figures, also as one JSON object: name -> value.
class Record {
public:
    void add(const std::string& name, double value) { values_.emplace_back(name, value); }
    void text(const std::string& name, const std::string& value) { texts_.emplace_back(name, value); }
    bool write(const char* path) const {
        std::FILE* file = std::fopen(path, "w");
        if (file == nullptr) { return false; }
        std::fprintf(file, "{\n");
        for (const auto& [name, value] : texts_) {
            std::fprintf(file, "  \"%s\": \"%s\",\n", name.c_str(), value.c_str());
        }
        for (std::size_t i = 0; i < values_.size(); ++i) {
            std::fprintf(file, "  \"%s\": %.6g%s\n", values_[i].first.c_str(), values_[i].second,
                         i + 1 < values_.size() ? "," : "");
        }
        std::fprintf(file, "}\n");
        return std::fclose(file) == 0;
    }

private:
    std::vector<std::pair<std::string, double>> values_;
    std::vector<std::pair<std::string, std::string>> texts_;
};

struct Limits {
    double read_bytes_per_s = 0;
    double copy_bytes_per_s = 0;        // read plus written
    double matrix_flops_per_s = 0;      // bf16
    double fp8_matrix_flops_per_s = 0;  // 0: the library has no FP8
    double to_device_bytes_per_s = 0;
    double to_host_bytes_per_s = 0;
};

class Timer {
public:
    Timer() {
        BENCH_REQUIRE(cudaStreamCreate(&stream_));
        BENCH_REQUIRE(cudaEventCreate(&begin_));
        BENCH_REQUIRE(cudaEventCreate(&end_));
    }
    ~Timer() {
        cudaEventDestroy(begin_);
        cudaEventDestroy(end_);
        cudaStreamDestroy(stream_);
    }
    Timer(const Timer&) = delete;
    Timer& operator=(const Timer&) = delete;

    cudaStream_t stream() const { return stream_; }

    /// Median milliseconds of `work`, launched `repeats` times after two for warming up.
    double median_ms(int repeats, const std::function<cudaError_t(cudaStream_t)>& work) {
        std::vector<float> times;
        for (int i = -2; i < repeats; ++i) {
            BENCH_REQUIRE(cudaEventRecord(begin_, stream_));
            BENCH_REQUIRE(work(stream_));
            BENCH_REQUIRE(cudaEventRecord(end_, stream_));
            BENCH_REQUIRE(cudaEventSynchronize(end_));
            float ms = 0;
            BENCH_REQUIRE(cudaEventElapsedTime(&ms, begin_, end_));
            if (i >= 0) { times.push_back(ms); }
        }
        std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2), times.end());
        return static_cast<double>(times[times.size() / 2]);
    }

    /// The same, of one graph launch of `work`.
    double graph_median_ms(int repeats, const std::function<cudaError_t(cudaStream_t)>& work) {
        BENCH_REQUIRE(work(stream_));  // what is found at first use is found now
        BENCH_REQUIRE(cudaStreamSynchronize(stream_));
        cudaGraph_t graph = nullptr;
        cudaGraphExec_t executable = nullptr;
        BENCH_REQUIRE(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
        BENCH_REQUIRE(work(stream_));
        BENCH_REQUIRE(cudaStreamEndCapture(stream_, &graph));
        BENCH_REQUIRE(cudaGraphInstantiate(&executable, graph, 0));
        const double ms = median_ms(repeats, [&](cudaStream_t stream) { return cudaGraphLaunch(executable, stream); });
        BENCH_REQUIRE(cudaGraphExecDestroy(executable));
        BENCH_REQUIRE(cudaGraphDestroy(graph));
        return ms;
    }

private:
    cudaStream_t stream_ = nullptr;
    cudaEvent_t begin_ = nullptr;
    cudaEvent_t end_ = nullptr;
};

/// What the device can do at most, measured with reads, copies and one large product. Prints and records it.
Limits measure_limits(Timer& timer, engine::cuda::MatmulLibrary& library, Record& record);
/// Swap and push: runs of blocks to the host and back, and a layer group gathered and sent.
void measure_copies(Timer& timer, const Limits& limits, const StepShape& shape, Record& record);

}  // namespace gpu_bench
