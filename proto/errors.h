#pragma once

#include <cstddef>

#include "base/result.h"
#include "proto/common.pb.h"
#include "proto/version.h"

namespace sluice::proto {

/// Bytes of an error's message on the wire, where the conversation has no tighter bound.
inline constexpr std::size_t kErrorMessageBytesMax = 1000;

/// base::Error as a message. The text becomes printable ASCII (the rest is escaped: protobuf refuses what is not UTF-8)
/// of at most `message_bytes_max` bytes.
void set_error(Error& out, const base::Error& error, std::size_t message_bytes_max = kErrorMessageBytesMax);

/// The inverse; a code that we do not know is `internal`. The text is safe for a log, whatever the peer wrote.
base::Error error_of(const Error& error);

}  // namespace sluice::proto
