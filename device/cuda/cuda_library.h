#pragma once

#include <string>

#include "base/result.h"

namespace device {

/// A shared library that is loaded when it is first needed and stays: what a machine may lack, and what is too large to
/// be carried along (libcublasLt has 540 MB), must not keep the binary from starting.
class LoadedLibrary {
public:
    LoadedLibrary(void* handle, std::string path) : handle_(handle), path_(std::move(path)) {}

    /// A function of it, or null. `Function` is a pointer type.
    template <class Function>
    Function find(const char* name) const {
        return reinterpret_cast<Function>(address(name));
    }
    /// Where it was found.
    const std::string& path() const { return path_; }

private:
    void* address(const char* name) const;

    void* handle_;
    std::string path_;
};

/// libcublasLt.so.13 and libnccl.so.2: by the system's rules (LD_LIBRARY_PATH, rpath, ld.so.conf), then in the usual
/// places of a toolkit: $CUDA_HOME, /usr/local/cuda, the toolkit this binary was built with, and the wheels of the
/// Python installations that are in the usual places. Thread-safe; looks once.
/// Error: unavailable with the places.
base::Result<LoadedLibrary> blas_library();
base::Result<LoadedLibrary> nccl_library();

}  // namespace device
