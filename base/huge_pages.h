#pragma once

#include <cstddef>
#include <new>

namespace base {

inline constexpr std::size_t kHugePageBytes = std::size_t{2} << 20;

/// Asks the system for huge pages under memory that was not touched yet; without effect where it has none, or where
/// they are off. `begin` is aligned to a page.
void advise_huge_pages(void* begin, std::size_t bytes);

/// For containers that are jumped about in: what is large lies on huge pages, so that finding its pages takes less. May
/// be used by several threads, as the standard allocator.
template <class T>
class HugePageAllocator {
public:
    using value_type = T;
    HugePageAllocator() = default;
    template <class Other>
    HugePageAllocator(const HugePageAllocator<Other>&) {}

    T* allocate(std::size_t count) {
        void* const memory = ::operator new(count * sizeof(T), alignment(count));
        if (is_large(count)) { advise_huge_pages(memory, count * sizeof(T)); }
        return static_cast<T*>(memory);
    }
    void deallocate(T* memory, std::size_t count) { ::operator delete(memory, alignment(count)); }
    template <class Other>
    bool operator==(const HugePageAllocator<Other>&) const {
        return true;
    }

private:
    static bool is_large(std::size_t count) { return count * sizeof(T) >= kHugePageBytes; }
    static std::align_val_t alignment(std::size_t count) {
        return std::align_val_t{is_large(count) ? kHugePageBytes : alignof(T)};
    }
};

}  // namespace base
