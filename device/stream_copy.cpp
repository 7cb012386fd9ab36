#include "device/stream_copy.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstring>

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

namespace device {

/// Not simply in turns: of fresh memory the first piece of each huge page waits for that page, whose pieces are as many
/// as a small power of two.
CopyOrder CopyOrders::order_of(std::uint32_t turn) {
    return std::popcount(turn) % 2 == 0 ? CopyOrder::one_page : CopyOrder::four_pages;
}

CopyOrders::Choice CopyOrders::next() {
    if (told_.load(std::memory_order_acquire) < 2 * kTries) {
        const std::uint32_t turn = begun_.fetch_add(1, std::memory_order_relaxed);
        const CopyOrder order = order_of(turn);
        return {order, turn < 2 * kTries};
    }
    return {best_[1].load(std::memory_order_relaxed) < best_[0].load(std::memory_order_relaxed) ? CopyOrder::four_pages
                                                                                                : CopyOrder::one_page,
            false};
}

void CopyOrders::tell(CopyOrder order, std::size_t bytes, std::uint64_t nanoseconds) {
    const std::uint64_t cost = nanoseconds * 1000 * 1024 / std::max<std::size_t>(bytes, 1);
    std::atomic<std::uint64_t>& best = best_[static_cast<std::size_t>(order)];
    std::uint64_t seen = best.load(std::memory_order_relaxed);
    while (cost < seen && !best.compare_exchange_weak(seen, cost, std::memory_order_relaxed)) {}
    told_.fetch_add(1, std::memory_order_release);
}

#if defined(__x86_64__)

namespace {

constexpr std::size_t kLine = 64;
constexpr std::size_t kPage = 4096;
constexpr std::size_t kPieceBytes = std::size_t{512} << 10;  // that is tried in one order

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

template <std::size_t kPagesAtOnce>
void stream(std::byte* target, const std::byte* source, std::size_t bytes) {
    const std::size_t before = std::min((kLine - reinterpret_cast<std::uintptr_t>(target) % kLine) % kLine, bytes);
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

}  // namespace

void copy_streamed(std::byte* target, const std::byte* source, std::size_t bytes, CopyOrder order) {
    order == CopyOrder::four_pages ? stream<4>(target, source, bytes) : stream<1>(target, source, bytes);
}

void copy_streamed(std::byte* target, const std::byte* source, std::size_t bytes) {
    static CopyOrders orders;
    if (bytes < kStreamedBytes) {
        std::memcpy(target, source, bytes);
        return;
    }
    for (std::size_t done = 0; done < bytes;) {
        const CopyOrders::Choice choice = orders.next();
        const std::size_t piece = choice.is_tried ? std::min(kPieceBytes, bytes - done) : bytes - done;
        const auto begin = std::chrono::steady_clock::now();
        copy_streamed(target + done, source + done, piece, choice.order);
        if (choice.is_tried) {
            const auto took =
                std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - begin);
            orders.tell(choice.order, piece, static_cast<std::uint64_t>(took.count()));
        }
        done += piece;
    }
}

#else

void copy_streamed(std::byte* target, const std::byte* source, std::size_t bytes, CopyOrder /*order*/) {
    std::memcpy(target, source, bytes);
}

void copy_streamed(std::byte* target, const std::byte* source, std::size_t bytes) {
    std::memcpy(target, source, bytes);
}

#endif

}  // namespace device
