#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace base {

/// CRC-32C (Castagnoli, RFC 3720 appendix B.4: "123456789" gives 0xe3069283). `previous` continues an earlier value:
/// the checksum of a whole equals that of its parts one after the other. Uses the SSE4.2 instruction where there is
/// one.
std::uint32_t crc32c(std::span<const std::byte> data, std::uint32_t previous = 0);

}  // namespace base
