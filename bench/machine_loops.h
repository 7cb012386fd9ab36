#pragma once

#include <cstddef>

namespace bench {

/// Loops of one instruction set. Their files are compiled with it and share no inline function with others, hence
/// plain functions only.
struct MachineLoops {
    /// Sum of `count` (multiple of 128) floats.
    float (*read)(const float* a, std::size_t count) = nullptr;
    /// a = b + 3 c, `count` a multiple of 128; stores bypass the caches.
    void (*triad)(float* a, const float* b, const float* c, std::size_t count) = nullptr;
    /// Operations of one round of each rate loop, and the loops: `rounds` rounds, in registers only. Null: not there.
    double f32_operations = 0;
    float (*f32)(std::size_t rounds) = nullptr;
    double bf16_operations = 0;
    float (*bf16)(std::size_t rounds) = nullptr;
    double int8_operations = 0;
    float (*int8)(std::size_t rounds) = nullptr;
};

/// Portable loops: the rates are those of what the compiler makes of them.
MachineLoops generic_loops();
/// Call only on machines with AVX2 and FMA.
MachineLoops avx2_loops();
/// Call only on machines with AVX-512 F; bf16 and int8 additionally need BF16 and VNNI.
MachineLoops avx512_loops();
/// Only bf16, by tiles. Call only where engine::runs_amx() says so.
MachineLoops amx_loops();

}  // namespace bench
