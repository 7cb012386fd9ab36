#pragma once

namespace cli {

/// `sluice doctor`: what this machine has (processor, instruction sets, memory, devices), which kernels that means, and
/// what is missing for more. Exit status 0 when a model can be served here, else 1.
int doctor_main();

}  // namespace cli
