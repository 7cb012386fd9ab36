#include "cli/doctor.h"

#include <fmt/format.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "cli/divide_cores.h"
#include "device/cuda/cuda_device.h"
#include "engine/kernels/backend.h"
#include "engine/kernels/cpu/cpu_features.h"
#include "kv_transfer/tier/file_io.h"
#include "net/ucx.h"

namespace cli {
namespace {

std::string first_line(const std::filesystem::path& path) {
    std::ifstream file(path);
    std::string line;
    std::getline(file, line);
    return line;
}

std::string processor_name() {
    std::ifstream file("/proc/cpuinfo");
    for (std::string line; std::getline(file, line);) {
        if (line.starts_with("model name")) { return line.substr(line.find(':') + 2); }
    }
    return "unknown";
}

std::uint64_t meminfo_kib(const std::string& key) {
    std::ifstream file("/proc/meminfo");
    std::string name;
    std::uint64_t value = 0;
    std::string unit;
    while (file >> name >> value && std::getline(file, unit)) {
        if (name == key + ":") { return value; }
    }
    return 0;
}

/// What is told, in order; without a name: more of the row before.
struct Row {
    std::string name;
    std::string value;
};
using Rows = std::vector<Row>;

std::string instruction_sets() {
    std::string text;
    const auto add = [&text](bool has, const char* name) {
        if (has) { text += (text.empty() ? "" : " ") + std::string(name); }
    };
    add(__builtin_cpu_supports("avx2"), "avx2");
    add(__builtin_cpu_supports("fma"), "fma");
    add(__builtin_cpu_supports("avx512f"), "avx512f");
    add(__builtin_cpu_supports("avx512bw"), "avx512bw");
    add(__builtin_cpu_supports("avx512vnni"), "avx512vnni");
    add(__builtin_cpu_supports("avx512bf16"), "avx512bf16");
    add(engine::runs_amx(), "amx");
    return text.empty() ? "none beyond x86-64" : text;
}

/// What this build and this machine have of CUDA, and what is missing.
void add_gpu(Rows& rows) {
    const auto row = [&rows](std::string name, std::string value) {
        rows.push_back({std::move(name), std::move(value)});
    };
    const device::CudaReport report = device::cuda_report(true);
    row("CUDA", report.built ? fmt::format("built in, runtime {}", report.runtime_version) : "not built in");
    row("NVIDIA driver", !report.driver_version.empty() ? fmt::format("runs CUDA {}", report.driver_version)
                         : report.driver_files          ? "in the kernel"
                                                        : "none");
    for (const device::CudaDeviceInfo& gpu : report.devices) {
        row(fmt::format("cuda:{}", gpu.index),
            fmt::format("{}, compute capability {}.{}, {} processors, {} MiB, {} MiB free", gpu.name, gpu.sm / 10,
                        gpu.sm % 10, gpu.processors, gpu.memory_bytes >> 20, gpu.memory_free >> 20));
    }
    if (report.built) {
        row("cuBLASLt", report.blas);
        if (!report.has_blas) { row("", "Sluice's own matrix products are used, which are slower for long prompts"); }
        row("NCCL", report.nccl);
        if (!report.has_nccl) { row("", "needed only for models over several GPUs, which are not built yet"); }
    }
    if (report.problem.empty()) {
        row("GPU", "usable: `engine.device: auto` takes cuda:0");
    } else {
        row("GPU", fmt::format("not usable: {}", report.problem));
        row("", fmt::format("to change that: {}", report.remedy));
    }
}

}  // namespace

int doctor_main(bool as_json) {
    Rows rows;
    const auto row = [&rows](std::string name, std::string value) {
        rows.push_back({std::move(name), std::move(value)});
    };
    row("processor", processor_name());
    row("cores", fmt::format("{} usable of {}", usable_cores(), sysconf(_SC_NPROCESSORS_ONLN)));
    row("instruction sets", instruction_sets());
    const auto best = engine::make_backend({.family = "auto", .threads = 1, .cpus = {}});
    row("kernels", best ? std::string((*best)->family()) : best.error().message);
    if (best && (*best)->family() != "amx") {
        row("", (*best)->family() == "avx512"
                    ? "prompts are computed several times as fast by AMX (Sapphire Rapids or newer)"
                    : "faster kernels want AVX-512 with BF16 (Zen 4, Sapphire Rapids or newer)");
    }
    row("memory",
        fmt::format("{} MiB, {} MiB available", meminfo_kib("MemTotal") >> 10, meminfo_kib("MemAvailable") >> 10));
    row("huge pages", first_line("/sys/kernel/mm/transparent_hugepage/enabled"));
    struct statvfs shm{};
    if (statvfs("/dev/shm", &shm) == 0) {
        row("/dev/shm", fmt::format("{} MiB free", (shm.f_bavail * shm.f_frsize) >> 20));
    } else {
        row("/dev/shm", "missing: workers of one machine fall back to TCP");
    }
    row("UCX", net::ucx_version());
    if (const std::string problem = kv_transfer::io_uring_problem(); problem.empty()) {
        row("KV on disks", "io_uring, around the page cache where the file system allows it");
    } else {
        row("KV on disks", "through the page cache: " + problem);
        row("", "containers: a seccomp profile that allows io_uring_setup, io_uring_enter (docs/kv-memory.md)");
    }
    add_gpu(rows);
    const std::string verdict = best ? std::string("This machine can serve models on its processor") +
                                           (device::cuda_report().problem.empty() ? " and on its GPU." : ".")
                                     : "This machine cannot serve: " + best.error().message;
    if (as_json) {
        boost::json::array told;
        for (const Row& one : rows) {
            if (one.name.empty() && !told.empty()) {
                boost::json::value& notes = told.back().as_object()["notes"];
                if (!notes.is_array()) { notes.emplace_array(); }
                notes.as_array().emplace_back(one.value);
            } else {
                told.push_back(boost::json::object{{"name", one.name}, {"value", one.value}});
            }
        }
        std::printf("%s\n", boost::json::serialize(boost::json::object{{"can_serve", best.has_value()},
                                                                       {"verdict", verdict},
                                                                       {"rows", std::move(told)}})
                                .c_str());
    } else {
        for (const Row& one : rows) {
            std::printf("%-18s %s\n", one.name.c_str(), one.value.c_str());
        }
        std::printf("\n%s\n", verdict.c_str());
    }
    return best ? 0 : 1;
}

}  // namespace cli
