#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <type_traits>
#include <vector>

/// Runs the CUDA kernels on the host, one thread of a block after the other, so that gpu_check can tell wrong indices,
/// masks and barriers without a device. translate.py rewrites the kernels for it; scripts/gpu-emulate builds and runs.
/// What it finds: wrong numbers, accesses beyond an allocation, misaligned copies, data read before its asynchronous
/// copy was waited for, barriers that not all threads reach, threads that do not wait for the kernel before theirs, and
/// (by running the warps in another order) many races.
/// What it cannot find: the rounding of the matrix units, anything that two blocks do to each other, speed.
namespace emulator {

/// 16 bytes on their way into shared memory.
struct AsyncCopy {
    void* to = nullptr;
    const void* from = nullptr;  // null: zeros
};

/// A product of four warps that was started: the part of one lane. See emulator_hopper.h.
struct WarpProduct {
    float* c = nullptr;
    int count = 0;
    const unsigned* a = nullptr;
    std::uint64_t a_descriptor = 0;
    std::uint64_t b_descriptor = 0;
    bool b_has_k_in_rows = false;
    bool add = false;
};

enum class Wait : std::uint8_t { none, warp, block, condition, turn, finished };

/// What the lanes of a warp do together: each brings its operands, the last one computes, each takes its result.
struct Meeting {
    int kind = 0;
    unsigned mask = 0;
    unsigned arrived = 0;
    unsigned readers = 0;  // lanes that have not taken their result
    bool done = false;
    alignas(16) unsigned char operands[32][64] = {};
    alignas(16) unsigned char results[32][16] = {};
};

/// A thread of the block that runs.
struct Thread {
    void* stack_pointer = nullptr;
    uint3 index{};
    unsigned warp = 0;
    unsigned lane = 0;
    Wait wait = Wait::none;
    const Meeting* meeting = nullptr;  // waits for this one
    unsigned barrier = 0;              // waits for the barrier after this one
    std::function<bool()> condition;   // waits for this
    unsigned turn = 0;                 // waits for the turn after this one
    bool has_waited = false;           // for the kernel before this one
    std::deque<std::vector<AsyncCopy>> groups;
    std::vector<AsyncCopy> open_group;
    std::deque<std::vector<WarpProduct>> products;  // groups
    std::vector<WarpProduct> open_products;
};

extern Thread* current;
extern uint3 block_index;
extern dim3 grid_size;
extern dim3 block_size;

/// Stops the program: the kernel did what no kernel may.
[[noreturn]] void stop(const char* what);

/// The dynamic shared memory of the block; addresses in shared memory count from `shared_base()`.
unsigned char* dynamic_shared();
char* shared_base();

/// `kind` names the operation: lanes that meet must mean the same.
void meet(int kind, unsigned mask, const void* operands, std::size_t operand_bytes, void* result,
          std::size_t result_bytes, void (*compute)(Meeting&));
void block_barrier();
/// Lets other threads run until `condition` holds.
void wait_until(std::function<bool()> condition);
/// Lets every other warp run as far as it can, once.
void let_others_run();
/// Stops where the thread has not waited for the kernel before: only loads of weights may come before that.
void require_waited();
/// Forgets the barriers of the block before.
void start_block_on_hopper();

/// Puts a run of every block on the stream (streams.h).
void launch(dim3 grid, dim3 block, std::size_t shared_bytes, cudaStream_t stream, std::function<void()> kernel);
/// Of a dependent launch, which runs like any other. Stops where it asks for something else.
template <class... Parameters>
cudaError_t launch_dependently(const cudaLaunchConfig_t* configuration, void (*kernel)(Parameters...),
                               std::type_identity_t<Parameters>... arguments) {
    if (configuration->numAttrs != 1 ||
        configuration->attrs[0].id != cudaLaunchAttributeProgrammaticStreamSerialization ||
        configuration->attrs[0].val.programmaticStreamSerializationAllowed != 1) {
        stop("a launch with unknown attributes");
    }
    launch(configuration->gridDim, configuration->blockDim, configuration->dynamicSmemBytes, configuration->stream,
           [=] { kernel(arguments...); });
    return cudaSuccess;
}

template <class T>
T shuffle(unsigned mask, T value, int distance, bool up) {
    struct Operands {
        T value;
        int distance;
    };
    static_assert(sizeof(T) <= 16);
    const Operands operands{value, distance};
    T result;
    const auto compute_up = [](Meeting& meeting) {
        for (int lane = 0; lane < 32; ++lane) {
            Operands mine;
            std::memcpy(&mine, meeting.operands[lane], sizeof(mine));
            const int from = lane >= mine.distance ? lane - mine.distance : lane;
            std::memcpy(meeting.results[lane], meeting.operands[from], sizeof(T));
        }
    };
    const auto compute_xor = [](Meeting& meeting) {
        for (int lane = 0; lane < 32; ++lane) {
            Operands mine;
            std::memcpy(&mine, meeting.operands[lane], sizeof(mine));
            std::memcpy(meeting.results[lane], meeting.operands[lane ^ mine.distance], sizeof(T));
        }
    };
    const int kind = static_cast<int>(sizeof(T)) + (up ? 100 : 200);
    if (up) {
        meet(kind, mask, &operands, sizeof(operands), &result, sizeof(T), compute_up);
    } else {
        meet(kind, mask, &operands, sizeof(operands), &result, sizeof(T), compute_xor);
    }
    return result;
}

template <class To, class From>
To same_bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof(To));
    return to;
}

}  // namespace emulator

// The words of the language.
#undef __shared__
#undef __global__
#undef __device__
#undef __host__
#undef __forceinline__
#undef __launch_bounds__
#undef __align__
#define __shared__ static
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
#define threadIdx (emulator::current->index)
#define blockIdx (emulator::block_index)
#define gridDim (emulator::grid_size)
#define blockDim (emulator::block_size)
#define cudaFuncSetAttribute(...) cudaSuccess
#define cudaFuncGetAttributes(attributes, kernel) \
    ((attributes)->ptxVersion = (attributes)->binaryVersion = 90, cudaSuccess)
#define cudaLaunchKernelEx emulator::launch_dependently

inline void __syncthreads() {
    emulator::block_barrier();
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int distance) {
    return emulator::shuffle(mask, value, distance, false);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, int distance) {
    return emulator::shuffle(mask, value, distance, true);
}
unsigned __ballot_sync(unsigned mask, bool predicate);
unsigned __match_any_sync(unsigned mask, unsigned value);

#define __ffs __builtin_ffs
#define __popc __builtin_popcount
template <class T>
T __ldg(const T* pointer) {
    return *pointer;
}
inline unsigned atomicAdd(unsigned* at, unsigned value) {
    emulator::require_waited();
    const unsigned before = *at;
    *at += value;
    return before;
}
inline int min(int a, int b) {
    return a < b ? a : b;
}
inline int max(int a, int b) {
    return a > b ? a : b;
}
// Rounded once each: built with -ffp-contract=off.
inline float __fmul_rn(float a, float b) {
    return a * b;
}
inline float __fadd_rn(float a, float b) {
    return a + b;
}
inline float __fsub_rn(float a, float b) {
    return a - b;
}
inline float __fdiv_rn(float a, float b) {
    return a / b;
}
inline float __fmaf_rn(float a, float b, float c) {
    return std::fma(a, b, c);
}
inline double __dmul_rn(double a, double b) {
    return a * b;
}
inline double __dadd_rn(double a, double b) {
    return a + b;
}
inline double __dsub_rn(double a, double b) {
    return a - b;
}
inline double __ddiv_rn(double a, double b) {
    return a / b;
}
inline float __uint_as_float(unsigned bits) {
    return emulator::same_bits<float>(bits);
}
inline float __int_as_float(int bits) {
    return emulator::same_bits<float>(bits);
}
inline unsigned __float_as_uint(float value) {
    return emulator::same_bits<unsigned>(value);
}
inline double __longlong_as_double(long long bits) {
    return emulator::same_bits<double>(bits);
}
inline long long __double_as_longlong(double value) {
    return emulator::same_bits<long long>(value);
}

// What device.cuh and dependent_launch.cuh say in assembler.
namespace engine::cuda {

inline void wait_for_previous() {
    emulator::current->has_waited = true;
}
inline void let_next_start() {
    emulator::require_waited();
}

inline float exp2_fast(float x) {
    return std::exp2(x);
}
inline unsigned shared_address(const void* pointer) {
    return static_cast<unsigned>(static_cast<const char*>(pointer) - emulator::shared_base());
}
void copy_async16(unsigned target, const void* source, bool valid);
void copy_async_commit();
void copy_async_wait_for(std::size_t pending);
template <int kPending>
void copy_async_wait() {
    copy_async_wait_for(kPending);
}
void load_matrices(unsigned (&r)[4], unsigned address);
void load_matrices_transposed(unsigned (&r)[4], unsigned address);
void multiply_add(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1);
void multiply_add_fp8(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1);
uint4 load_streaming(const void* source);
inline uint4 load_before_wait(const void* source) {
    return load_streaming(source);
}

}  // namespace engine::cuda
