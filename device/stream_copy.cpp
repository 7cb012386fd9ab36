#include "device/stream_copy.h"

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

namespace device {

#if defined(__x86_64__)

namespace {

constexpr std::size_t kLine = 64;
constexpr std::size_t kPage = 4096;
/// Read side by side: a processor fetches ahead within a page, so several pages are several streams from memory.
constexpr std::size_t kPagesAtOnce = 4;

void stream_line(std::byte* target, const std::byte* source) {
    const auto* from = reinterpret_cast<const __m128i*>(source);
    auto* to = reinterpret_cast<__m128i*>(target);
    const __m128i a = _mm_loadu_si128(from);
    const __m128i b = _mm_loadu_si128(from + 1);
    const __m128i c = _mm_loadu_si128(from + 2);
    const __m128i d = _mm_loadu_si128(from + 3);
    _mm_stream_si128(to, a);
    _mm_stream_si128(to + 1, b);
    _mm_stream_si128(to + 2, c);
    _mm_stream_si128(to + 3, d);
}

}  // namespace

void copy_streamed(std::byte* target, const std::byte* source, std::size_t bytes) {
    if (bytes < kStreamedBytes) {
        std::memcpy(target, source, bytes);
        return;
    }
    const std::size_t before = (kLine - reinterpret_cast<std::uintptr_t>(target) % kLine) % kLine;
    std::memcpy(target, source, before);
    std::size_t done = before;
    for (; bytes - done >= kPagesAtOnce * kPage; done += kPagesAtOnce * kPage) {
        for (std::size_t line = done; line < done + kPage; line += kLine) {
            for (std::size_t page = 0; page < kPagesAtOnce * kPage; page += kPage) {
                stream_line(target + line + page, source + line + page);
            }
        }
    }
    for (; bytes - done >= kLine; done += kLine) {
        stream_line(target + done, source + done);
    }
    _mm_sfence();  // whoever is told afterwards sees them
    std::memcpy(target + done, source + done, bytes - done);
}

#else

void copy_streamed(std::byte* target, const std::byte* source, std::size_t bytes) {
    std::memcpy(target, source, bytes);
}

#endif

}  // namespace device
