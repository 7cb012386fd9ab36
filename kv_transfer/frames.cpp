#include "kv_transfer/frames.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>

#include "base/check.h"
#include "base/crc32c.h"
#include "base/log.h"
#include "base/seal.h"
#include "proto/header.h"

namespace kv_transfer {

using base::ErrorCode;
using base::fail;
using base::Result;

namespace {

constexpr std::size_t kChecksumBytes = 4;
constexpr std::size_t kModelBytesMax = 256;

std::uint32_t checksum(net::MessageKind kind, std::span<const std::byte> body) {
    const std::array kind_bytes{static_cast<std::byte>(net::raw(kind) & 0xff),
                                static_cast<std::byte>(net::raw(kind) >> 8)};
    return base::crc32c(body, base::crc32c(kind_bytes));
}

constexpr std::size_t kCapabilityBytes = 16;
constexpr std::string_view kPurpose = "sluice kv hand-off 1";

std::string capability_of(const HandoffKey& key, const base::HashKey& secret) {
    const std::array<std::uint64_t, 5> named{base::raw(key.request), std::uint64_t{base::raw(key.epoch)},
                                             base::raw(key.prefill), base::raw(key.decode), std::uint64_t{key.run}};
    const base::Mac mac = base::make_mac(secret, kPurpose, std::as_bytes(std::span(named)));
    return {reinterpret_cast<const char*>(mac.data()), kCapabilityBytes};
}

}  // namespace

std::string to_string(const HandoffKey& key) {
    std::string text = std::to_string(base::raw(key.request)) + "/" + std::to_string(base::raw(key.epoch));
    if (key.is_fetch()) { text += "/" + std::to_string(key.run); }
    return text;
}

std::string seal(net::MessageKind kind, const google::protobuf::MessageLite& message) {
    std::string header = message.SerializeAsString();
    const std::uint32_t crc = checksum(kind, std::as_bytes(std::span(header)));
    for (unsigned shift = 0; shift < 32; shift += 8) {
        header.push_back(static_cast<char>((crc >> shift) & 0xff));
    }
    CHECK(header.size() <= kHeaderBytesMax, header.size() << " bytes");
    return header;
}

Result<void> unseal(net::MessageKind kind, std::span<const std::byte> header, google::protobuf::MessageLite& message) {
    if (header.size() < kChecksumBytes || header.size() > kHeaderBytesMax) {
        return fail(ErrorCode::invalid_argument, "header of " + std::to_string(header.size()) + " bytes");
    }
    const auto body = header.first(header.size() - kChecksumBytes);
    std::uint32_t crc = 0;
    for (std::size_t i = 0; i < kChecksumBytes; ++i) {
        crc |= std::to_integer<std::uint32_t>(header[body.size() + i]) << (8 * i);
    }
    if (crc != checksum(kind, body)) { return fail(ErrorCode::data_loss, "checksum of the header does not match"); }
    if (!message.ParseFromArray(body.data(), static_cast<int>(body.size()))) {
        return fail(ErrorCode::invalid_argument, "header is not a message of kind " + std::to_string(net::raw(kind)));
    }
    return {};
}

void set_header(sluice::proto::Header& header, const Identity& identity) {
    CHECK(identity.model.size() <= kModelBytesMax, "model name of " << identity.model.size() << " bytes");
    header = proto::make_header(identity.model, identity.numerics_id);
}

Result<void> check_header(const sluice::proto::Header& header, const Identity& identity) {
    return proto::check_header(header, {.model = identity.model, .numerics_id = identity.numerics_id});
}

void set_key(sluice::proto::Handoff& handoff, const HandoffKey& key, const Identity& identity) {
    handoff.set_request_id(base::raw(key.request));
    handoff.set_epoch(base::raw(key.epoch));
    handoff.set_prefill_incarnation(base::raw(key.prefill));
    handoff.set_decode_incarnation(base::raw(key.decode));
    handoff.set_run(key.run);
    handoff.set_capability(capability_of(key, identity.key));
}

Result<void> check_capability(const sluice::proto::Handoff& handoff, const Identity& identity) {
    const HandoffKey key = key_of(handoff);
    if (base::equal_secrets(handoff.capability(), capability_of(key, identity.key))) { return {}; }
    return fail(ErrorCode::permission_denied,
                "hand-off " + to_string(key) + " comes without its capability: the sender has not this cluster's key");
}

HandoffKey key_of(const sluice::proto::Handoff& handoff) {
    return {base::RequestId{handoff.request_id()}, base::Epoch{handoff.epoch()},
            base::Incarnation{handoff.prefill_incarnation()}, base::Incarnation{handoff.decode_incarnation()},
            handoff.run()};
}

sluice::proto::KvFrame make_frame(const Identity& identity, const kv_cache::KvLayout& layout, const FrameInfo& info) {
    sluice::proto::KvFrame frame;
    set_header(*frame.mutable_header(), identity);
    set_key(*frame.mutable_handoff(), info.key, identity);
    frame.set_number(info.number);
    frame.set_kv_format(layout.format().wire_id());
    frame.set_group(0);
    frame.set_layer_begin(info.range.layer_begin);
    frame.set_layer_end(info.range.layer_end);
    frame.set_token_begin(info.range.token_begin);
    frame.set_token_end(info.range.token_end);
    set_mode(*frame.mutable_kv_mode(), info.mode);
    frame.set_payload_bytes(info.payload_bytes);
    frame.set_raw_bytes(info.raw_bytes);
    frame.set_payload_crc32c(info.payload_crc32c);
    frame.set_head_begin(0);
    frame.set_head_end(layout.kv_heads());
    frame.set_kv_rate(info.kv_rate);
    frame.set_kv_rate_low(info.kv_rate_low);
    frame.set_more(info.more);
    return frame;
}

std::span<std::byte> last_tokens(const kv_cache::KvLayout& layout, const kv_cache::KvRange& range,
                                 std::uint32_t token_begin, std::span<std::byte> kv) {
    CHECK(range.token_begin <= token_begin && token_begin <= range.token_end);
    if (token_begin == range.token_begin) { return kv; }
    const std::size_t rows = std::size_t{range.layers()} * 2 * layout.kv_heads();  // [layer][K|V][kv_head]
    const std::size_t row_bytes = kv.size() / rows;
    const std::size_t kept = row_bytes / range.tokens() * (range.token_end - token_begin);
    for (std::size_t row = 0; row < rows; ++row) {
        std::memmove(kv.data() + row * kept, kv.data() + (row + 1) * row_bytes - kept, kept);
    }
    return kv.first(rows * kept);
}

Result<FrameInfo> check_frame(const sluice::proto::KvFrame& frame, const Identity& identity,
                              const kv_cache::KvLayout& layout, const Codecs& codecs, std::size_t payload_bytes,
                              std::size_t frame_bytes_max) {
    if (auto checked = check_header(frame.header(), identity); !checked) { return base::pass_on(checked); }
    if (frame.kv_format() != layout.format().wire_id()) {
        return fail(ErrorCode::failed_precondition, "KV format " + std::to_string(frame.kv_format()) + ", ours is " +
                                                        std::to_string(layout.format().wire_id()));
    }
    const auto invalid = [&](const char* what) {
        return fail(ErrorCode::invalid_argument,
                    "frame " + std::to_string(frame.number()) + ": " + what + ": layers " +
                        std::to_string(frame.layer_begin()) + ".." + std::to_string(frame.layer_end()) + ", tokens " +
                        std::to_string(frame.token_begin()) + ".." + std::to_string(frame.token_end()) + ", payload " +
                        std::to_string(frame.payload_bytes()) + " of " + std::to_string(payload_bytes));
    };
    if (frame.group() >= layout.groups().size()) { return invalid("no such KV group"); }
    const kv_cache::KvGroup& group = layout.groups()[frame.group()];
    if (frame.layer_begin() < group.layer_begin || frame.layer_begin() >= frame.layer_end() ||
        frame.layer_end() > group.layer_begin + group.layers) {
        return invalid("layers are not of the group");
    }
    // Protocol 1.0 did not name the heads: all of them.
    const bool is_whole = frame.head_begin() == 0 && (frame.head_end() == 0 || frame.head_end() == group.kv_heads);
    if (!is_whole) {
        return fail(ErrorCode::unimplemented, "frame " + std::to_string(frame.number()) + ": kv heads " +
                                                  std::to_string(frame.head_begin()) + ".." +
                                                  std::to_string(frame.head_end()) + " of " +
                                                  std::to_string(group.kv_heads) + ": only all of them are taken");
    }
    if (frame.token_begin() >= frame.token_end()) { return invalid("no tokens"); }
    if (frame.payload_bytes() != payload_bytes) { return invalid("length differs from what came"); }
    if (payload_bytes == 0 || payload_bytes > frame_bytes_max) { return invalid("payload is too long or empty"); }
    const kv_cache::KvRange range{frame.layer_begin(), frame.layer_end(), frame.token_begin(), frame.token_end()};
    // Bound the tokens before multiplying: a layer of one token has at least one byte.
    if (range.tokens() > frame_bytes_max) { return invalid("too many tokens"); }
    const std::size_t raw_bytes = layout.wire_bytes(range);
    if (frame.raw_bytes() != raw_bytes) { return invalid("raw length does not fit the range"); }
    if (raw_bytes > frame_bytes_max) { return invalid("too many bytes"); }
    const auto mode = codecs.find(frame.kv_mode());
    if (!mode) { return base::pass_on(mode); }
    if (mode->is_raw() ? payload_bytes != raw_bytes : payload_bytes >= raw_bytes) {
        return invalid("payload does not fit the range");
    }
    return FrameInfo{.key = key_of(frame.handoff()),
                     .number = frame.number(),
                     .range = range,
                     .mode = *mode,
                     .payload_bytes = payload_bytes,
                     .raw_bytes = raw_bytes,
                     .payload_crc32c = frame.payload_crc32c(),
                     .kv_rate = frame.kv_rate(),
                     .kv_rate_low = std::min(frame.kv_rate_low(), frame.kv_rate()),
                     .more = frame.more()};
}

}  // namespace kv_transfer
