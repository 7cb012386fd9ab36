#pragma once

#include <string>

namespace engine {

/// Whether this machine (processor and system) runs the code of a family.
bool runs_avx2();
/// AVX-512 F, BW, DQ, VL and BF16. A processor with AVX-512 but without BF16 runs the avx2 family.
bool runs_avx512();
/// AVX-512 as above, AMX TILE and BF16. The system lends tiles to a process that asks for them: this function does.
bool runs_amx();
/// "bf16", or several, comma-separated; empty when nothing lacks.
std::string missing_for_avx512();

}  // namespace engine
