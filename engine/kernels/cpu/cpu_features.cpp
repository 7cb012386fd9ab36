#include "engine/kernels/cpu/cpu_features.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace engine {

#if defined(__x86_64__)

bool runs_avx2() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

std::string missing_for_avx512() {
    std::string missing;
    const auto need = [&](bool there, const char* name) {
        if (!there) { missing += (missing.empty() ? "" : ", ") + std::string(name); }
    };
    need(__builtin_cpu_supports("avx512f"), "f");
    need(__builtin_cpu_supports("avx512bw"), "bw");
    need(__builtin_cpu_supports("avx512dq"), "dq");
    need(__builtin_cpu_supports("avx512vl"), "vl");
    need(__builtin_cpu_supports("avx512bf16"), "bf16");
    return missing;
}

bool runs_amx() {
    constexpr unsigned kBf16 = 1u << 22;  // leaf 7, edx
    constexpr unsigned kTile = 1u << 24;
    constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM of arch_prctl, Linux 5.16
    constexpr long kTileData = 18;               // XFEATURE_XTILEDATA
    static const bool runs = [] {
        unsigned a = 0;
        unsigned b = 0;
        unsigned c = 0;
        unsigned d = 0;
        if (!runs_avx512() || __get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (d & kBf16) == 0 || (d & kTile) == 0) {
            return false;
        }
        return ::syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
    }();
    return runs;
}

#else

bool runs_avx2() {
    return false;
}

std::string missing_for_avx512() {
    return "x86-64";
}

bool runs_amx() {
    return false;
}

#endif

bool runs_avx512() {
    return missing_for_avx512().empty() && runs_avx2();
}

}  // namespace engine
