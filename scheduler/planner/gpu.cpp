#include "scheduler/planner/gpu.h"

#include <algorithm>
#include <array>
#include <cctype>

namespace scheduler::planner {
namespace {

constexpr double kGiB = 1024.0 * 1024 * 1024;
constexpr double kMemoryOfPrograms = 0.985;
constexpr double kEngineShare = 0.9;
constexpr double kOtherBytes = 2 * kGiB;
constexpr double kCallSeconds = 10e-6;  // a collective's latency; measured tables replace it

struct Sheet {
    const char* name;
    double gib;
    double terabytes;  // memory, a second
    double teraflops;
    double node_gigabytes;
    double network_gigabytes;
};
// NVIDIA's datasheets: SXM parts with NVLink and one NIC for each GPU, cards over PCIe with a NIC of 100 Gbit/s shared
// by four.
constexpr std::array kSheets{Sheet{"a100", 80, 2.039, 312, 300, 25},    Sheet{"h100", 80, 3.35, 989, 450, 50},
                             Sheet{"h200", 141, 4.8, 989, 450, 50},     Sheet{"l40s", 48, 0.864, 362, 32, 3.1},
                             Sheet{"rtx4090", 24, 1.008, 165, 25, 3.1}, Sheet{"rtxpro6000", 96, 1.597, 500, 50, 3.1}};

}  // namespace

std::optional<Gpu> find_gpu(std::string_view name) {
    std::string lower(name);
    std::transform(lower.begin(), lower.end(), lower.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    for (const Sheet& sheet : kSheets) {
        if (lower != sheet.name) { continue; }
        Gpu gpu;
        gpu.name = sheet.name;
        gpu.memory_bytes = sheet.gib * kGiB;
        gpu.bytes_per_second = sheet.terabytes * 1e12;
        gpu.flops = sheet.teraflops * 1e12;
        gpu.node_link = {sheet.node_gigabytes * 1e9, kCallSeconds};
        gpu.network_bytes_per_second = sheet.network_gigabytes * 1e9;
        return gpu;
    }
    return std::nullopt;
}

std::vector<std::string> gpu_names() {
    std::vector<std::string> names;
    for (const Sheet& sheet : kSheets) {
        names.emplace_back(sheet.name);
    }
    return names;
}

double engine_bytes(const Gpu& gpu) {
    return gpu.memory_bytes * kMemoryOfPrograms * kEngineShare - kOtherBytes;
}

double kv_tokens_of(const Gpu& gpu, const Model& model, const Split& split) {
    return (engine_bytes(gpu) - model.weight_bytes_per_gpu(split)) / model.kv_bytes_per_token_per_gpu(split);
}

}  // namespace scheduler::planner
