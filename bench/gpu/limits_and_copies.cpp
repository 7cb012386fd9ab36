#include <cstring>
#include <vector>

#include "bench/gpu/device_limits.h"
#include "bench/gpu/measuring.h"

namespace gpu_bench {

namespace cuda = engine::cuda;

Limits measure_limits(Timer& timer, cuda::MatmulLibrary& library, Record& record) {
    Limits limits;
    {
        DeviceMemory memory;
        constexpr std::size_t kBytes = std::size_t{4} << 30;
        auto* from = memory.allocate_random(kBytes / 2, 1);
        auto* to = memory.allocate<std::byte>(kBytes);
        auto* sums = memory.allocate<unsigned>(gpu_bench::read_blocks());
        BENCH_REQUIRE(memory.error());
        const double copy_ms = timer.median_ms(10, [&](cudaStream_t stream) {
            return cudaMemcpyAsync(to, from, kBytes, cudaMemcpyDeviceToDevice, stream);
        });
        const double read_ms =
            timer.median_ms(10, [&](cudaStream_t stream) { return gpu_bench::read_once(from, kBytes, sums, stream); });
        limits.copy_bytes_per_s = 2.0 * static_cast<double>(kBytes) / copy_ms * 1e3;
        limits.read_bytes_per_s = static_cast<double>(kBytes) / read_ms * 1e3;
    }
    {
        DeviceMemory memory;
        constexpr std::int32_t kSide = 8192;
        constexpr std::size_t kCount = std::size_t{kSide} * kSide;
        const cuda::DeviceMatrix w{memory.allocate_random(kCount, 1), kSide, kSide};
        const cuda::Bf16* x = memory.allocate_random(kCount, 1);
        void* y = memory.allocate<cuda::Bf16>(kCount);
        BENCH_REQUIRE(memory.error());
        const double ms = timer.median_ms(
            20, [&](cudaStream_t stream) { return library.linear(w, x, kSide, cuda::LinearOutput::bf16, y, stream); });
        limits.matrix_flops_per_s = 2.0 * kSide * kSide * kSide / ms * 1e3;
        if (library.has_fp8()) {
            auto* w8 = memory.allocate<std::uint8_t>(kCount);
            auto* x8 = memory.allocate<std::uint8_t>(kCount);
            auto* w_scales = memory.allocate<float>(kSide);
            auto* x_scales = memory.allocate<float>(kSide);
            BENCH_REQUIRE(memory.error());
            BENCH_REQUIRE(cuda::quantize_rows_fp8(w.data, kSide, kSide, w8, w_scales, timer.stream()));
            BENCH_REQUIRE(cuda::quantize_rows_fp8(x, kSide, kSide, x8, x_scales, timer.stream()));
            const cuda::DeviceMatrixFp8 matrix{w8, w_scales, kSide, kSide};
            const double fp8_ms = timer.median_ms(20, [&](cudaStream_t stream) {
                return library.linear(matrix, x8, x_scales, kSide, cuda::LinearOutput::bf16, y, stream);
            });
            limits.fp8_matrix_flops_per_s = 2.0 * kSide * kSide * kSide / fp8_ms * 1e3;
        }
    }
    {
        DeviceMemory memory;
        constexpr std::size_t kBytes = std::size_t{256} << 20;
        auto* on_device = memory.allocate<std::byte>(kBytes);
        BENCH_REQUIRE(memory.error());
        void* pinned = nullptr;
        BENCH_REQUIRE(cudaMallocHost(&pinned, kBytes));
        std::memset(pinned, 0x5a, kBytes);
        const double in_ms = timer.median_ms(10, [&](cudaStream_t stream) {
            return cudaMemcpyAsync(on_device, pinned, kBytes, cudaMemcpyHostToDevice, stream);
        });
        const double out_ms = timer.median_ms(10, [&](cudaStream_t stream) {
            return cudaMemcpyAsync(pinned, on_device, kBytes, cudaMemcpyDeviceToHost, stream);
        });
        limits.to_device_bytes_per_s = static_cast<double>(kBytes) / in_ms * 1e3;
        limits.to_host_bytes_per_s = static_cast<double>(kBytes) / out_ms * 1e3;
        BENCH_REQUIRE(cudaFreeHost(pinned));
    }
    std::printf("\nmeasured limits\n  memory: read %.0f GB/s, copy (read + written) %.0f GB/s\n",
                limits.read_bytes_per_s / 1e9, limits.copy_bytes_per_s / 1e9);
    std::printf("  bf16 matrix products (cuBLASLt, 8192^3): %.0f TFLOP/s\n", limits.matrix_flops_per_s / 1e12);
    std::printf("  fp8 matrix products (the same, a scale per row and output): %.0f TFLOP/s\n",
                limits.fp8_matrix_flops_per_s / 1e12);
    std::printf("  pinned copies: to the device %.1f GB/s, to the host %.1f GB/s\n", limits.to_device_bytes_per_s / 1e9,
                limits.to_host_bytes_per_s / 1e9);
    record.add("limit.read_gb_per_s", limits.read_bytes_per_s / 1e9);
    record.add("limit.copy_gb_per_s", limits.copy_bytes_per_s / 1e9);
    record.add("limit.bf16_tflop_per_s", limits.matrix_flops_per_s / 1e12);
    record.add("limit.fp8_tflop_per_s", limits.fp8_matrix_flops_per_s / 1e12);
    record.add("limit.to_device_gb_per_s", limits.to_device_bytes_per_s / 1e9);
    record.add("limit.to_host_gb_per_s", limits.to_host_bytes_per_s / 1e9);
    return limits;
}

void measure_copies(Timer& timer, const Limits& limits, const StepShape& shape, Record& record) {
    constexpr std::int32_t kBlockTokens = 16;
    const std::size_t block_bytes = kBlockTokens * shape.kv_bytes_per_token();
    constexpr std::int32_t kBlocks = 128;
    DeviceMemory memory;
    std::byte* pool = reinterpret_cast<std::byte*>(memory.allocate_random(kBlocks * block_bytes / 2, 1));
    std::byte* staging = memory.allocate<std::byte>(kBlocks * block_bytes);
    std::vector<std::int32_t> blocks(kBlocks);
    for (std::int32_t i = 0; i < kBlocks; ++i) {
        blocks[static_cast<std::size_t>(i)] = i * 37 % kBlocks;
    }
    const std::int32_t* device_blocks = memory.allocate_copy(blocks);
    BENCH_REQUIRE(memory.error());
    void* pinned = nullptr;
    BENCH_REQUIRE(cudaMallocHost(&pinned, kBlocks * block_bytes));
    std::printf("\ncopies of KV (blocks of %.2f MiB)            GB/s  share of the pinned copy rate\n",
                static_cast<double>(block_bytes) / (1 << 20));
    const auto report = [&](const std::string& name, double bytes, double ms, double limit) {
        const double rate = bytes / ms * 1e3;
        std::printf("  %-40s %6.1f  %3.0f %%\n", name.c_str(), rate / 1e9, 100 * rate / limit);
        record.add("copy." + name + ".gb_per_s", rate / 1e9);
        record.add("copy." + name + ".share", rate / limit);
    };
    for (const std::size_t run : {std::size_t{1}, std::size_t{8}, std::size_t{64}}) {
        for (const bool out : {true, false}) {
            const double ms = timer.median_ms(10, [&](cudaStream_t stream) {
                for (std::size_t first = 0; first < kBlocks; first += run) {
                    std::byte* on_host = static_cast<std::byte*>(pinned) + first * block_bytes;
                    std::byte* on_device = pool + first * block_bytes;
                    const cudaError_t error =
                        out ? cudaMemcpyAsync(on_host, on_device, run * block_bytes, cudaMemcpyDeviceToHost, stream)
                            : cudaMemcpyAsync(on_device, on_host, run * block_bytes, cudaMemcpyHostToDevice, stream);
                    if (error != cudaSuccess) { return error; }
                }
                return cudaSuccess;
            });
            report(std::string(out ? "swap_out" : "swap_in") + ".runs_of_" + std::to_string(run),
                   static_cast<double>(kBlocks * block_bytes), ms,
                   out ? limits.to_host_bytes_per_s : limits.to_device_bytes_per_s);
        }
    }
    cuda::KvCopyArguments a;
    a.kv.base = pool;
    a.kv.tile_bytes = static_cast<std::size_t>(kBlockTokens * shape.head_dim) * 2;
    a.kv.block_bytes = block_bytes;
    a.kv.kv_heads = shape.heads_kv;
    a.kv.head_dim = shape.head_dim;
    a.layer_stride = 2 * static_cast<std::size_t>(shape.heads_kv) * a.kv.tile_bytes;
    a.blocks = device_blocks;
    a.layer_end = std::min(8, shape.layers);
    a.token_end = kBlocks * kBlockTokens;
    const std::size_t group_bytes = a.layer_stride * static_cast<std::size_t>(a.layer_end) * kBlocks;
    const double gather_ms =
        timer.median_ms(10, [&](cudaStream_t stream) { return cuda::kv_gather(a, staging, stream); });
    report("gather_layer_group (share of device copy)", 2.0 * static_cast<double>(group_bytes), gather_ms,
           limits.copy_bytes_per_s);
    const double push_ms = timer.median_ms(10, [&](cudaStream_t stream) {
        const cudaError_t error = cuda::kv_gather(a, staging, stream);
        if (error != cudaSuccess) { return error; }
        return cudaMemcpyAsync(pinned, staging, group_bytes, cudaMemcpyDeviceToHost, stream);
    });
    report("push_layer_group", static_cast<double>(group_bytes), push_ms, limits.to_host_bytes_per_s);
    // As kv_cache::KvAccess does it: a strided copy per block, straight between the pool and pinned memory.
    const std::size_t tiles = 2 * static_cast<std::size_t>(shape.heads_kv) * static_cast<std::size_t>(a.layer_end);
    for (const bool out : {true, false}) {
        const double ms = timer.median_ms(10, [&](cudaStream_t stream) {
            for (std::size_t i = 0; i < kBlocks; ++i) {
                std::byte* on_host = static_cast<std::byte*>(pinned) + i * a.kv.tile_bytes;
                std::byte* on_device = pool + static_cast<std::size_t>(blocks[i]) * block_bytes;
                const std::size_t host_pitch = kBlocks * a.kv.tile_bytes;
                const cudaError_t error =
                    out ? cudaMemcpy2DAsync(on_host, host_pitch, on_device, a.kv.tile_bytes, a.kv.tile_bytes, tiles,
                                            cudaMemcpyDeviceToHost, stream)
                        : cudaMemcpy2DAsync(on_device, a.kv.tile_bytes, on_host, host_pitch, a.kv.tile_bytes, tiles,
                                            cudaMemcpyHostToDevice, stream);
                if (error != cudaSuccess) { return error; }
            }
            return cudaSuccess;
        });
        report(out ? "push_layer_group.strided" : "receive_layer_group.strided", static_cast<double>(group_bytes), ms,
               out ? limits.to_host_bytes_per_s : limits.to_device_bytes_per_s);
    }
    const double scatter_ms = timer.median_ms(10, [&](cudaStream_t stream) {
        const cudaError_t error = cudaMemcpyAsync(staging, pinned, group_bytes, cudaMemcpyHostToDevice, stream);
        if (error != cudaSuccess) { return error; }
        return cuda::kv_scatter(a, staging, stream);
    });
    report("receive_layer_group", static_cast<double>(group_bytes), scatter_ms, limits.to_device_bytes_per_s);
    BENCH_REQUIRE(cudaFreeHost(pinned));
}

}  // namespace gpu_bench
