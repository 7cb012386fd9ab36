#pragma once

#include <cuda_runtime_api.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "engine/kernels/cuda/dependent_launch.h"
#include "engine/kernels/cuda/launch.h"

/// What the parts of gpu_check share. No test framework: the program must build with the toolkit alone.
namespace gpu_check {

using engine::cuda::Bf16;

/// Ends the program on an error of the runtime: nothing after it would mean anything.
#define GPU_REQUIRE(call)                                                                                     \
    do {                                                                                                      \
        const cudaError_t gpu_require_error = (call);                                                         \
        if (gpu_require_error != cudaSuccess) {                                                               \
            std::printf("%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(gpu_require_error)); \
            std::exit(2);                                                                                     \
        }                                                                                                     \
    } while (false)

/// Counts checks and prints one line for each.
class Checks {
public:
    explicit Checks(std::uint64_t seed) : random(seed) {}

    void note(bool ok, const std::string& name, const std::string& detail = {}) {
        ++(ok ? passed : failed);
        std::printf("%s  %s%s%s\n", ok ? "ok  " : "FAIL", name.c_str(), detail.empty() ? "" : "  ", detail.c_str());
        std::fflush(stdout);
    }

    std::mt19937_64 random;
    int passed = 0;
    int failed = 0;
};

// ---- bf16 on the host
// -------------------------------------------------------------------------------------------------

inline float float_of(Bf16 bits) {
    const std::uint32_t word = std::uint32_t{bits} << 16;
    float value = 0;
    std::memcpy(&value, &word, 4);
    return value;
}

/// Nearest even; NaN stays NaN.
inline Bf16 bf16_of(float value) {
    std::uint32_t word = 0;
    std::memcpy(&word, &value, 4);
    if (value != value) { return 0x7fff; }
    word += 0x7fffu + ((word >> 16) & 1u);
    return static_cast<Bf16>(word >> 16);
}

inline double number_of(float value) {
    return static_cast<double>(value);
}
inline double number_of(Bf16 bits) {
    return static_cast<double>(float_of(bits));
}

// ---- random inputs
// ----------------------------------------------------------------------------------------------------

inline std::vector<float> random_floats(Checks& checks, std::size_t count, float deviation = 1) {
    std::normal_distribution<float> normal(0, deviation);
    std::vector<float> values(count);
    for (float& value : values) {
        value = normal(checks.random);
    }
    return values;
}

inline std::vector<Bf16> random_bf16(Checks& checks, std::size_t count, float deviation = 1) {
    std::normal_distribution<float> normal(0, deviation);
    std::vector<Bf16> values(count);
    for (Bf16& value : values) {
        value = bf16_of(normal(checks.random));
    }
    return values;
}

inline std::int32_t random_int(Checks& checks, std::int32_t low, std::int32_t high) {
    return std::uniform_int_distribution<std::int32_t>(low, high)(checks.random);
}

// ---- device memory
// ----------------------------------------------------------------------------------------------------

/// `count` elements on the device between guard bytes, filled with 0xff (NaN as float and as bf16, -1 as integer).
template <class T>
class DeviceArray {
public:
    explicit DeviceArray(std::size_t count) : count_(count) {
        GPU_REQUIRE(cudaMalloc(&memory_, bytes() + 2 * kGuard));
        GPU_REQUIRE(cudaMemset(memory_, 0xa5, bytes() + 2 * kGuard));
        poison();
    }
    explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) { upload(values); }
    ~DeviceArray() { cudaFree(memory_); }
    DeviceArray(const DeviceArray&) = delete;
    DeviceArray& operator=(const DeviceArray&) = delete;

    T* get() { return reinterpret_cast<T*>(static_cast<std::byte*>(memory_) + kGuard); }
    const T* get() const { return reinterpret_cast<const T*>(static_cast<const std::byte*>(memory_) + kGuard); }
    std::size_t size() const { return count_; }

    void poison() {
        engine::cuda::interrupt_dependent_launches();
        GPU_REQUIRE(cudaMemset(get(), 0xff, bytes()));
    }
    void upload(const std::vector<T>& values) {
        engine::cuda::interrupt_dependent_launches();
        GPU_REQUIRE(cudaMemcpy(get(), values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
    }
    /// Waits for the device.
    std::vector<T> download() const {
        engine::cuda::interrupt_dependent_launches();
        GPU_REQUIRE(cudaDeviceSynchronize());
        std::vector<T> values(count_);
        if (count_ > 0) { GPU_REQUIRE(cudaMemcpy(values.data(), get(), bytes(), cudaMemcpyDeviceToHost)); }
        return values;
    }
    bool guards_intact() const {
        GPU_REQUIRE(cudaDeviceSynchronize());
        std::vector<unsigned char> guards(2 * kGuard);
        const auto* begin = static_cast<const std::byte*>(memory_);
        GPU_REQUIRE(cudaMemcpy(guards.data(), begin, kGuard, cudaMemcpyDeviceToHost));
        GPU_REQUIRE(cudaMemcpy(guards.data() + kGuard, begin + kGuard + bytes(), kGuard, cudaMemcpyDeviceToHost));
        for (const unsigned char byte : guards) {
            if (byte != 0xa5) { return false; }
        }
        return true;
    }

private:
    static constexpr std::size_t kGuard = 256;
    std::size_t bytes() const { return count_ * sizeof(T); }

    std::size_t count_;
    void* memory_ = nullptr;
};

// ---- comparison
// -------------------------------------------------------------------------------------------------------

struct Difference {
    double relative = 0;  // |out - reference| / |reference|, over all elements
    double largest = 0;   // of one element
    bool finite = true;
};

template <class T>
Difference difference_of(const std::vector<T>& out, const std::vector<double>& reference) {
    Difference difference;
    double error = 0;
    double norm = 0;
    for (std::size_t i = 0; i < reference.size(); ++i) {
        const double value = number_of(out[i]);
        if (!std::isfinite(value)) {
            difference.finite = false;
            continue;
        }
        const double distance = std::abs(value - reference[i]);
        error += distance * distance;
        norm += reference[i] * reference[i];
        difference.largest = std::max(difference.largest, distance);
    }
    difference.relative = norm > 0 ? std::sqrt(error / norm) : std::sqrt(error);
    return difference;
}

/// One check: every element written and finite, close to the reference as a whole, guards intact.
template <class T>
void note_close(Checks& checks, const std::string& name, const DeviceArray<T>& out,
                const std::vector<double>& reference, double tolerance) {
    const Difference difference = difference_of(out.download(), reference);
    char detail[160];
    std::snprintf(detail, sizeof(detail), "relative error %.2e (at most %.0e), largest %.2e%s", difference.relative,
                  tolerance, difference.largest, difference.finite ? "" : ", NOT FINITE");
    const bool guards = out.guards_intact();
    checks.note(difference.finite && difference.relative <= tolerance && guards && out.size() == reference.size(), name,
                std::string(detail) + (guards ? "" : ", GUARD BYTES CHANGED"));
}

/// Errors of a result that is rounded to bf16 once, and of float sums.
constexpr double kBf16Tolerance = 4e-3;
constexpr double kFloatTolerance = 1e-5;

/// work(i) for i in [0, count) on all processors of the host.
inline void parallel_for(std::size_t count, const std::function<void(std::size_t)>& work) {
    const std::size_t threads = std::max(1u, std::thread::hardware_concurrency());
    std::vector<std::jthread> workers;
    for (std::size_t w = 0; w < threads; ++w) {
        workers.emplace_back([&, w] {
            for (std::size_t i = w; i < count; i += threads) {
                work(i);
            }
        });
    }
}

// ---- the parts
// --------------------------------------------------------------------------------------------------------

void check_rows(Checks& checks);
void check_kv(Checks& checks);
void check_attention(Checks& checks);
void check_linear(Checks& checks);
void check_fp8(Checks& checks);
void check_sampling(Checks& checks);
void check_step(Checks& checks);

}  // namespace gpu_check
