#include "cli/heap_pages.h"

#include <malloc.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <limits>

namespace cli {
namespace {

constexpr std::size_t kPageBytes = std::size_t{2} << 20;
/// glibc takes what is smaller from the heap, where it is told to; the most that it can be told.
constexpr int kMapFrom = 32 << 20;
/// Too large for what is left of the heap, so that it has to grow.
constexpr std::size_t kGrowBytes = std::size_t{31} << 20;
constexpr int kTopPadDefault = 128 << 10;

std::uintptr_t end_of_heap() {
    return reinterpret_cast<std::uintptr_t>(sbrk(0));
}

}  // namespace

void use_huge_pages(std::size_t bytes) {
    mallopt(M_MMAP_THRESHOLD, kMapFrom);
    mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
    // It grows by this much once; then the system is asked for huge pages under all of it, before any is touched.
    mallopt(M_TOP_PAD, static_cast<int>(std::min<std::size_t>(bytes, std::numeric_limits<int>::max())));
    const std::uintptr_t before = end_of_heap();
    void* volatile const grown = std::malloc(kGrowBytes);
    std::free(grown);
    const std::uintptr_t first = (before + kPageBytes - 1) / kPageBytes * kPageBytes;
    const std::uintptr_t end = end_of_heap() / kPageBytes * kPageBytes;
    mallopt(M_TOP_PAD, kTopPadDefault);
    if (end > first) { madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE); }
}

}  // namespace cli
