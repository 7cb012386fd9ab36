// A disk that fails, is full, crawls or hangs, for a process under test: loaded before libc (LD_PRELOAD), in front of
// pread and pwrite, for the files of a KV level and of a cache's store (answers.db) only. What it does stands in the
// file that SLUICE_TEST_DISK names and is looked up at every call: "fine"; "read E" and "write E", which fail with
// errno E; "hang", reads that wait until it says something else (and make FILE.waits); "rate N", reads of N bytes a
// second.
#ifdef _FORTIFY_SOURCE
#undef _FORTIFY_SOURCE  // whose pread is another function
#endif
#include <dlfcn.h>
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <thread>

namespace {

using Read = ssize_t (*)(int, void*, std::size_t, off_t);
using Write = ssize_t (*)(int, const void*, std::size_t, off_t);

template <class Function>
Function next(const char* name) {
    return reinterpret_cast<Function>(::dlsym(RTLD_NEXT, name));
}

bool is_meant(int file) {
    char path[4096];
    const ssize_t length = ::readlink(("/proc/self/fd/" + std::to_string(file)).c_str(), path, sizeof path);
    const std::string_view name(path, length > 0 ? static_cast<std::size_t>(length) : 0);
    return name.ends_with("/blocks") || name.ends_with("/names") || name.ends_with("/answers.db") ||
           name.ends_with("/answers.db-wal");
}

struct Fault {
    std::string what;
    long number = 0;
};

Fault fault_now() {
    const char* control = std::getenv("SLUICE_TEST_DISK");
    if (control == nullptr) { return {}; }
    const int file = ::open(control, O_RDONLY | O_CLOEXEC);
    if (file < 0) { return {}; }
    char text[64] = {};
    const ssize_t got = ::read(file, text, sizeof text - 1);
    ::close(file);
    if (got <= 0) { return {}; }
    const char* space = std::strchr(text, ' ');
    if (space == nullptr) { return {text, 0}; }
    return {std::string(text, static_cast<std::size_t>(space - text)), std::strtol(space, nullptr, 10)};
}

void wait_out_a_hang() {
    const int made =
        ::open((std::string(std::getenv("SLUICE_TEST_DISK")) + ".waits").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (made >= 0) { ::close(made); }
    while (fault_now().what == "hang") {
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
}

ssize_t faulty_read(const char* name, int file, void* bytes, std::size_t count, off_t offset) {
    const auto real = next<Read>(name);
    if (!is_meant(file)) { return real(file, bytes, count, offset); }
    const Fault fault = fault_now();
    if (fault.what == "read") {
        errno = static_cast<int>(fault.number);
        return -1;
    }
    if (fault.what == "hang") { wait_out_a_hang(); }
    if (fault.what == "rate") {
        std::this_thread::sleep_for(
            std::chrono::duration<double>(static_cast<double>(count) / static_cast<double>(fault.number)));
    }
    return real(file, bytes, count, offset);
}

ssize_t faulty_write(const char* name, int file, const void* bytes, std::size_t count, off_t offset) {
    if (is_meant(file)) {
        const Fault fault = fault_now();
        if (fault.what == "write") {
            errno = static_cast<int>(fault.number);
            return -1;
        }
    }
    return next<Write>(name)(file, bytes, count, offset);
}

}  // namespace

#define SLUICE_OVER_LIBC extern "C" __attribute__((visibility("default")))

SLUICE_OVER_LIBC ssize_t pread(int file, void* bytes, std::size_t count, off_t offset) {
    return faulty_read("pread", file, bytes, count, offset);
}
SLUICE_OVER_LIBC ssize_t pread64(int file, void* bytes, std::size_t count, off64_t offset) {
    return faulty_read("pread64", file, bytes, count, offset);
}
SLUICE_OVER_LIBC ssize_t pwrite(int file, const void* bytes, std::size_t count, off_t offset) {
    return faulty_write("pwrite", file, bytes, count, offset);
}
SLUICE_OVER_LIBC ssize_t pwrite64(int file, const void* bytes, std::size_t count, off64_t offset) {
    return faulty_write("pwrite64", file, bytes, count, offset);
}
