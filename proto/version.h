#pragma once

#include <cstdint>

namespace sluice::proto {

/// Version of every message between the processes of Sluice. Raised when an older process could misread a newer one.
inline constexpr std::uint32_t kProtocolVersion = 1;

/// Raised when a message gains a field that an older process may leave out or ignore. Peers with other minor versions
/// are served, so that the processes of a cluster can be replaced one after the other.
inline constexpr std::uint32_t kProtocolMinor = 8;

}  // namespace sluice::proto

/// The one name of this folder everywhere: `proto::Header`. (protoc puts messages where their package says.)
namespace proto = sluice::proto;
