#include "engine/kernels/cpu/cpu_features.h"

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

#else

bool runs_avx2() {
    return false;
}

std::string missing_for_avx512() {
    return "x86-64";
}

#endif

bool runs_avx512() {
    return missing_for_avx512().empty() && runs_avx2();
}

}  // namespace engine
