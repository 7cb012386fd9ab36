#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace device {

/// From here on copy_streamed() goes around the caches, when it writes.
inline constexpr std::size_t kStreamedBytes = std::size_t{512} << 10;

/// In which order lines of memory are copied. Some processors read faster where several pages are several streams for
/// what fetches ahead, others where there is only one (two cores of 2026: 13 and 23 GB/s, and the other way round).
enum class CopyOrder : std::uint8_t { one_page, four_pages };

/// Which order is the faster one here: the first pieces are copied in either, half of them each, and the best of each
/// counts. Any thread.
class CopyOrders {
public:
    static constexpr std::uint32_t kTries = 8;  // of each

    /// The order of the next piece, and whether tell() is to hear how long it took.
    struct Choice {
        CopyOrder order;
        bool is_tried;
    };
    Choice next();
    /// Of the piece of this number among those that are tried.
    static CopyOrder order_of(std::uint32_t turn);
    /// Of the same piece's Choice, where `is_tried`.
    void tell(CopyOrder order, std::size_t bytes, std::uint64_t nanoseconds);

private:
    std::atomic<std::uint32_t> begun_{0};
    std::atomic<std::uint32_t> told_{0};
    std::atomic<std::uint64_t> best_[2] = {UINT64_MAX, UINT64_MAX};  // picoseconds for 1,024 bytes
};

/// Copies `bytes` bytes that do not overlap, for which nobody waits in a cache: KV on its way to another level or back.
/// A processor that writes a line reads it first, so a copy moves three bytes for each; stores that go around the
/// caches spare one, and leave the caches to those who compute. Any thread.
void copy_streamed(std::byte* target, const std::byte* source, std::size_t bytes);

/// The same in this order, from the first byte on.
void copy_streamed(std::byte* target, const std::byte* source, std::size_t bytes, CopyOrder order);

}  // namespace device
