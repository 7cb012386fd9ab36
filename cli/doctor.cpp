#include "cli/doctor.h"

#include <fmt/format.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>

#include "cli/divide_cores.h"
#include "engine/kernels/backend.h"
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

void row(const char* name, const std::string& value) {
    std::printf("%-18s %s\n", name, value.c_str());
}

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
    return text.empty() ? "none beyond x86-64" : text;
}

std::string gpu_state() {
    if (!std::filesystem::exists("/dev/nvidiactl")) { return "none (no NVIDIA driver on this machine)"; }
    return "an NVIDIA driver is here; this build has no CUDA backend";
}

}  // namespace

int doctor_main() {
    row("processor", processor_name());
    row("cores", fmt::format("{} usable of {}", usable_cores(), sysconf(_SC_NPROCESSORS_ONLN)));
    row("instruction sets", instruction_sets());
    const auto best = engine::make_backend({.family = "auto", .threads = 1, .cpus = {}});
    row("kernels", best ? std::string((*best)->family()) : best.error().message);
    if (best && (*best)->family() != "avx512") {
        row("", "faster kernels want AVX-512 with BF16 (Zen 4, Sapphire Rapids or newer)");
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
    row("GPU", gpu_state());
    if (!best) {
        std::printf("\nThis machine cannot serve: %s\n", best.error().message.c_str());
        return 1;
    }
    std::printf("\nThis machine can serve models on its processor.\n");
    return 0;
}

}  // namespace cli
