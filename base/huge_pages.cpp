#include "base/huge_pages.h"

#include <sys/mman.h>

namespace base {

void advise_huge_pages(void* begin, std::size_t bytes) {
    static_cast<void>(::madvise(begin, bytes, MADV_HUGEPAGE));
}

}  // namespace base
