#pragma once

namespace cli {

/// `sluice doctor`: what this machine has (processor, instruction sets, memory, devices), which kernels that means, and
/// what is missing for more. As JSON: the same, row by row. Exit status 0 when a model can be served here, else 1.
int doctor_main(bool as_json);

}  // namespace cli
