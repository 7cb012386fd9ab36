#include "device/prefault.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <stop_token>

namespace device {
namespace {

/// At once: the thread looks in between whether it shall end.
constexpr std::size_t kPieceBytes = std::size_t{8} << 20;
constexpr int kPopulateWrite = 23;  // MADV_POPULATE_WRITE, which headers of Debian 12 may lack

void touch(std::span<std::byte> memory, const std::stop_token& stop) {
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const auto begin = reinterpret_cast<std::uintptr_t>(memory.data()) / page * page;
    const auto end = reinterpret_cast<std::uintptr_t>(memory.data()) + memory.size();
    for (std::uintptr_t at = begin; at < end && !stop.stop_requested(); at += kPieceBytes) {
        if (madvise(reinterpret_cast<void*>(at), std::min<std::size_t>(kPieceBytes, end - at), kPopulateWrite) != 0) {
            return;
        }
    }
}

}  // namespace

Prefault::Prefault(std::span<std::byte> memory)
    : thread_([memory](const std::stop_token& stop) { touch(memory, stop); }) {}

}  // namespace device
