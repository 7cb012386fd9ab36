#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/result.h"
#include "kv_cache/kv_layout.h"
#include "kv_transfer/codec/codec.h"
#include "kv_transfer/handoff.h"
#include "net/transport.h"
#include "proto/errors.h"
#include "proto/kv_transfer.pb.h"

namespace google::protobuf {
class MessageLite;
}

namespace kv_transfer {

/// Headers of this subsystem are never longer; the transport's limit must allow it.
inline constexpr std::size_t kHeaderBytesMax = 1024;
/// The text of an error in such a header.
inline constexpr std::size_t kErrorBytesMax = 400;

/// A message as the header of a net::Message: protobuf bytes, then 4 bytes CRC-32C (little endian) over the kind and
/// those bytes, so that a flipped bit cannot turn one valid header into another.
std::string seal(net::MessageKind kind, const google::protobuf::MessageLite& message);

/// The inverse. Error: data_loss (checksum), invalid_argument (too long, or not that message).
base::Result<void> unseal(net::MessageKind kind, std::span<const std::byte> header,
                          google::protobuf::MessageLite& message);

/// Whether the hand-off carries its capability: 16 bytes of a MAC of all that names it, under the cluster's key. Who
/// has no key can say nothing about any hand-off. Error: permission_denied.
base::Result<void> check_capability(const sluice::proto::Handoff& handoff, const Identity& identity);

/// unseal(), and then check_capability(): what every message of the network goes through first.
template <class Message>
base::Result<void> open_message(net::MessageKind kind, std::span<const std::byte> header, const Identity& identity,
                                Message& message) {
    if (auto parsed = unseal(kind, header, message); !parsed) { return parsed; }
    return check_capability(message.handoff(), identity);
}

void set_header(sluice::proto::Header& header, const Identity& identity);
/// Error: failed_precondition for another protocol version, model or numerics_id, with both values.
base::Result<void> check_header(const sluice::proto::Header& header, const Identity& identity);

/// Names the hand-off, with its capability.
void set_key(sluice::proto::Handoff& handoff, const HandoffKey& key, const Identity& identity);
HandoffKey key_of(const sluice::proto::Handoff& handoff);

/// One frame, after its header was found to fit this worker.
struct FrameInfo {
    HandoffKey key;
    std::uint32_t number = 0;
    kv_cache::KvRange range;
    KvMode mode;
    std::size_t payload_bytes = 0;
    std::size_t raw_bytes = 0;
    std::uint32_t payload_crc32c = 0;
    // What the sender says of those behind it: bytes of KV a second, 0 where it is not known; not checked further.
    std::uint64_t kv_rate = 0;
    std::uint64_t kv_rate_low = 0;  // at most kv_rate
    bool more = false;
};

sluice::proto::KvFrame make_frame(const Identity& identity, const kv_cache::KvLayout& layout, const FrameInfo& info);

/// Of the KV of `range` in wire order, what is of its tokens from `token_begin` (inside it) on, in wire order: moved
/// together at the beginning of `kv`.
std::span<std::byte> last_tokens(const kv_cache::KvLayout& layout, const kv_cache::KvRange& range,
                                 std::uint32_t token_begin, std::span<std::byte> kv);

/// Checks every field against our own layout, before any payload is taken. `payload_bytes` is what the transport says.
/// A raw frame is as long as our layout says, a coded one shorter. The range may still lie outside of what was granted,
/// and the mode may be another. Errors: failed_precondition (other model, numerics, format), invalid_argument (a number
/// that does not fit), unimplemented (a codec that is not here, a part of the heads).
base::Result<FrameInfo> check_frame(const sluice::proto::KvFrame& frame, const Identity& identity,
                                    const kv_cache::KvLayout& layout, const Codecs& codecs, std::size_t payload_bytes,
                                    std::size_t frame_bytes_max);

}  // namespace kv_transfer
