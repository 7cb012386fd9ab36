#pragma once

#include <cstddef>

namespace device {

/// From here on copy_streamed() goes around the caches, when it writes.
inline constexpr std::size_t kStreamedBytes = std::size_t{512} << 10;

/// Copies `bytes` bytes that do not overlap, for which nobody waits in a cache: KV on its way to another level or back.
/// A processor that writes a line reads it first, so a copy moves three bytes for each; stores that go around the
/// caches spare one, and leave the caches to those who compute. Any thread.
void copy_streamed(std::byte* target, const std::byte* source, std::size_t bytes);

}  // namespace device
