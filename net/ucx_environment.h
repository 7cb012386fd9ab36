#pragma once

#include <span>
#include <string>

namespace net {

/// Takes all UCX_* variables out of the environment, sets those that our error handling needs, and takes UCX's signal
/// handlers out. The first call does it; later ones do nothing. Thread-safe among themselves, but other threads must
/// not read the environment during the first one.
void prepare_ucx_environment();

/// Puts variables that prepare_ucx_environment() took out back as they were, by name, and warns of those that are not
/// named, once. Before UCX reads its configuration; threads as above.
void restore_ucx_environment(std::span<const std::string> names);

}  // namespace net
