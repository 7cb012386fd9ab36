#pragma once

namespace net {

/// Sets the UCX_* variables that our error handling needs, unless the user set them, and takes UCX's signal handlers
/// out. The first call does it; later ones do nothing. Thread-safe among themselves, but other threads must not read
/// the environment during the first one.
void prepare_ucx_environment();

}  // namespace net
