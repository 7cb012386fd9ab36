#pragma once

#include <cstdint>
#include <memory>

#include "engine/engine.h"

namespace engine {

/// `inner` until `steps` (> 0) steps have run; every later one fails with `internal`, as on a device that is lost. For
/// tests of what a worker does then.
std::unique_ptr<Engine> make_fault_engine(std::unique_ptr<Engine> inner, std::uint64_t steps);

}  // namespace engine
