// Chunks of coded KV. The first byte says which codec, level and shape the input is for, and whether its checksums are
// made right, so that what is behind them is reached: refused, or exactly the bytes of the range are written.
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "base/crc32c.h"
#include "base/model_shape.h"
#include "kv_transfer/codec/chunk.h"
#include "kv_transfer/codec/codecs.h"

namespace {

constexpr std::size_t kPayloadCrcAt = 64;
constexpr std::size_t kHeaderCrcAt = 68;
constexpr std::size_t kMargin = 64;
constexpr std::byte kUntouched{0x5a};

/// Two shapes: whole groups of lanes, and heads that share one.
struct Shape {
    kv_cache::KvLayout layout;
    kv_cache::KvRange range;
};

kv_cache::KvLayout layout_of(std::uint32_t heads, std::uint32_t head_dim, kv_cache::KvDtype dtype) {
    base::ModelShape shape;
    shape.layers = 2;
    shape.heads_q = heads;
    shape.heads_kv = heads;
    shape.head_dim = head_dim;
    auto laid = kv_cache::KvLayout::make(shape, {.dtype = dtype}, 16);
    if (!laid) { std::abort(); }
    return std::move(*laid);
}

const Shape& shape(std::size_t number) {
    static const std::array<Shape, 2> shapes{
        Shape{layout_of(1, 64, kv_cache::KvDtype::bf16), {0, 2, 0, 35}},
        Shape{layout_of(3, 8, kv_cache::KvDtype::f32), {1, 2, 32, 48}},
    };
    return shapes[number];
}

const kv_transfer::Codec& codec(std::size_t number) {
    static const std::array<std::unique_ptr<kv_transfer::Codec>, 4> codecs{
        kv_transfer::make_exact_codec(), kv_transfer::make_int8_codec(), kv_transfer::make_cachegen_codec(),
        kv_transfer::make_sluice_codec(0, nullptr, nullptr)};
    return *codecs[number];
}

void put_crc(std::vector<std::byte>& chunk, std::size_t at, std::span<const std::byte> of) {
    const std::uint32_t crc = base::crc32c(of);
    std::memcpy(chunk.data() + at, &crc, sizeof crc);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size < 2) { return 0; }
    const kv_transfer::Codec& chosen = codec(data[0] & 3);
    const Shape& into = shape(data[0] >> 2 & 1);
    const std::uint32_t level = data[1] & 7;
    const auto* bytes = reinterpret_cast<const std::byte*>(data);
    std::vector<std::byte> chunk(bytes + 2, bytes + size);  // of its own: a read behind it is seen
    const bool is_sealed = data[0] < 128 && chunk.size() >= kv_transfer::kChunkHeaderBytes;
    if (is_sealed) {
        put_crc(chunk, kPayloadCrcAt, std::span(chunk).subspan(kv_transfer::kChunkHeaderBytes));
        put_crc(chunk, kHeaderCrcAt, std::span(chunk).first(kHeaderCrcAt));
    }
    std::vector<std::byte> out(into.layout.wire_bytes(into.range) + kMargin, kUntouched);
    const auto done = chosen.decode(into.layout, into.range, level, chunk, std::span(out).first(out.size() - kMargin));
    if (!done && done.error().code != base::ErrorCode::data_loss) { std::abort(); }
    for (std::size_t i = out.size() - kMargin; i < out.size(); ++i) {
        if (out[i] != kUntouched) { std::abort(); }
    }
    return 0;
}
