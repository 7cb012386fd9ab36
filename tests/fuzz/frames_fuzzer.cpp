// Headers of the KV plane. The first byte says which kind of message the input is, and whether its checksum is made
// right, so that what is behind the checksum is reached: refused, or a frame that fits this worker's own layout.
#include <google/protobuf/stubs/logging.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>

#include "base/crc32c.h"
#include "base/model_shape.h"
#include "kv_transfer/frames.h"

namespace {

const kv_transfer::Identity kSelf{"model", 77, base::Incarnation{22}};
constexpr std::size_t kFrameBytesMax = 1u << 20;

const kv_cache::KvLayout& layout() {
    static const kv_cache::KvLayout made = [] {
        base::ModelShape shape;
        shape.layers = 4;
        shape.hidden = 32;
        shape.heads_q = 4;
        shape.heads_kv = 2;
        shape.head_dim = 8;
        auto laid = kv_cache::KvLayout::make(shape, {}, 16);
        if (!laid) { std::abort(); }
        return std::move(*laid);
    }();
    return made;
}

std::string sealed(net::MessageKind kind, std::string body) {
    const std::array kind_bytes{static_cast<std::byte>(net::raw(kind)), std::byte{0}};
    const std::uint32_t crc = base::crc32c(std::as_bytes(std::span(body)), base::crc32c(kind_bytes));
    for (unsigned shift = 0; shift < 32; shift += 8) {
        body.push_back(static_cast<char>(crc >> shift & 0xff));
    }
    return body;
}

template <class Message>
bool read(net::MessageKind kind, const std::string& header, Message& message) {
    return kv_transfer::unseal(kind, std::as_bytes(std::span(header)), message).has_value();
}

template <class Message>
void read_and_check(net::MessageKind kind, const std::string& header) {
    Message message;
    if (!read(kind, header, message)) { return; }
    static_cast<void>(kv_transfer::check_header(message.header(), kSelf));
    static_cast<void>(kv_transfer::to_string(kv_transfer::key_of(message.handoff())));
}

void read_frame(const std::string& header, std::size_t payload_bytes) {
    sluice::proto::KvFrame frame;
    if (!read(kv_transfer::kFrame, header, frame)) { return; }
    const auto info =
        kv_transfer::check_frame(frame, kSelf, layout(), kv_transfer::Codecs(), payload_bytes, kFrameBytesMax);
    if (!info) { return; }
    const bool is_good = info->range.layer_begin < info->range.layer_end && info->range.layer_end <= 4 &&
                         info->range.token_begin < info->range.token_end && info->payload_bytes == payload_bytes &&
                         info->payload_bytes <= kFrameBytesMax && info->raw_bytes == layout().wire_bytes(info->range);
    if (!is_good) { std::abort(); }
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int* /*count*/, char*** /*arguments*/) {
    google::protobuf::SetLogHandler(nullptr);  // it tells of every text that is no UTF-8
    return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size < 3) { return 0; }
    const std::size_t payload_bytes = std::size_t{data[1]} * 64;
    std::string header(reinterpret_cast<const char*>(data) + 2, size - 2);
    const auto seal = [&](net::MessageKind kind) { return data[0] >= 128 ? header : sealed(kind, header); };
    switch (data[0] % 5) {
        case 0:
            read_frame(seal(kv_transfer::kFrame), payload_bytes);
            break;
        case 1:
            read_and_check<sluice::proto::RoomRequest>(kv_transfer::kRoomRequest, seal(kv_transfer::kRoomRequest));
            break;
        case 2:
            read_and_check<sluice::proto::RoomReply>(kv_transfer::kRoomReply, seal(kv_transfer::kRoomReply));
            break;
        case 3:
            read_and_check<sluice::proto::KvAbort>(kv_transfer::kAbortToDecode, seal(kv_transfer::kAbortToDecode));
            break;
        default:
            read_and_check<sluice::proto::KvFetch>(kv_transfer::kFetch, seal(kv_transfer::kFetch));
            break;
    }
    return 0;
}
