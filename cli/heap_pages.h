#pragma once

#include <cstddef>

namespace cli {

/// Puts about the next `bytes` that this process takes from the heap onto huge pages: a program that jumps about in
/// gigabytes spends much of its time in finding pages. Memory is taken only as it is used. Without effect where the
/// system has no such pages or another allocator stands in (sanitizers). Call once, from one thread.
void use_huge_pages(std::size_t bytes);

}  // namespace cli
