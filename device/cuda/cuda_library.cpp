#include "device/cuda/cuda_library.h"

#include <dlfcn.h>
#include <glob.h>
#include <link.h>

#include <cstdlib>
#include <vector>

namespace device {
namespace {

std::string found_at(void* handle, const std::string& name) {
    ::link_map* map = nullptr;
    if (dlinfo(handle, RTLD_DI_LINKMAP, &map) != 0 || map == nullptr || map->l_name == nullptr) { return name; }
    return map->l_name;
}

/// Files that match a pattern of the shell, in its order.
std::vector<std::string> matches(const std::string& pattern) {
    std::vector<std::string> files;
    ::glob_t found{};
    if (::glob(pattern.c_str(), 0, nullptr, &found) == 0) {
        files.assign(found.gl_pathv, found.gl_pathv + found.gl_pathc);
    }
    ::globfree(&found);
    return files;
}

/// `wheel`: the folder under site-packages/nvidia of the wheel that carries it.
base::Result<LoadedLibrary> load(const std::string& name, const std::string& wheel) {
    if (void* handle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL); handle != nullptr) {
        return LoadedLibrary(handle, found_at(handle, name));
    }
    const char* said = dlerror();
    const std::string first = said == nullptr ? "not found" : said;
    std::vector<std::string> patterns;
    // NOLINTNEXTLINE(concurrency-mt-unsafe): nobody sets variables meanwhile
    if (const char* home = std::getenv("CUDA_HOME"); home != nullptr) {
        patterns.push_back(std::string(home) + "/lib64/" + name);
    }
    patterns.push_back(std::string(SLUICE_CUDA_TOOLKIT) + "/lib/" + name);
    patterns.push_back(std::string(SLUICE_CUDA_TOOLKIT) + "/../" + wheel + "/lib/" + name);
    patterns.push_back("/usr/local/cuda/lib64/" + name);
    patterns.push_back("/usr/local/cuda-13*/lib64/" + name);
    patterns.push_back("/usr/lib/x86_64-linux-gnu/" + name);
    for (const char* python : {"/usr/local/lib/python3*/dist-packages", "/usr/local/lib/python3*/site-packages",
                               "/usr/lib/python3*/site-packages", "/opt/*/lib/python3*/site-packages",
                               "/opt/*/.venv/lib/python3*/site-packages"}) {
        patterns.push_back(std::string(python) + "/nvidia/" + wheel + "/lib/" + name);
    }
    for (const std::string& pattern : patterns) {
        for (const std::string& file : matches(pattern)) {
            if (void* handle = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL); handle != nullptr) {
                return LoadedLibrary(handle, file);
            }
        }
    }
    return base::fail(base::ErrorCode::unavailable,
                      name + " was not found (" + first + "), nor in the usual places of CUDA toolkits and of wheels");
}

}  // namespace

void* LoadedLibrary::address(const char* name) const {
    return dlsym(handle_, name);
}

base::Result<LoadedLibrary> blas_library() {
    static const base::Result<LoadedLibrary> library = load("libcublasLt.so.13", "cu13");
    return library;
}

base::Result<LoadedLibrary> nccl_library() {
    static const base::Result<LoadedLibrary> library = load("libnccl.so.2", "nccl");
    return library;
}

}  // namespace device
