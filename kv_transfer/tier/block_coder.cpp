#include "kv_transfer/tier/block_coder.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <utility>

#include "base/check.h"
#include "kv_transfer/codec/codecs.h"
#include "kv_transfer/codec/lane_kernels.h"

namespace kv_transfer {
namespace {

constexpr std::size_t kPageBytes = 4096;
constexpr double kUsualDecodeRate = 1.5e9;  // bytes of KV a second
constexpr double kPriorBytes = 4e6;         // what is usual counts as much
constexpr double kUsualShareBf16 = 0.68;    // docs/decisions/0028, and what small chunks cost more
constexpr double kUsualShareF32 = 0.84;

bool is_bf16(const kv_cache::KvLayout& layout) {
    return layout.format().dtype == kv_cache::KvDtype::bf16;
}

/// The bytes of a block on the wire, [layer][K|V][kv_head][token][head_dim], are those of one head with as many times
/// more tokens. The codec chooses for each 32 channels of its tokens at once, so it is quicker and chooses better with
/// many: wherever a head fills its lanes, the heads are coded one below the other.
base::Result<kv_cache::KvLayout> coded_layout(const kv_cache::KvLayout& pool) {
    base::ModelShape shape;
    shape.layers = pool.layers();
    shape.heads_kv = pool.head_dim() % kLanes == 0 ? 1 : pool.kv_heads();
    shape.heads_q = shape.heads_kv;
    shape.head_dim = pool.head_dim();
    return kv_cache::KvLayout::make(shape, pool.format(), pool.block_tokens());
}

}  // namespace

bool coding_pays(const CodingRates& rates) {
    CHECK(rates.read > 0 && rates.decode > 0 && rates.share > 0);
    const double raw = 1 / rates.read;
    const double read = rates.share / rates.read;
    const double decode = 1 / rates.decode;
    const double coded = rates.overlaps ? std::max(read, decode) : read + decode;
    return coded <= raw * (1 - kCodingSaves);
}

bool BlockCoder::takes(const kv_cache::KvLayout& pool) {
    return pool.head_dim() <= kHeadDimMax && pool.groups().front().scale_bytes_per_layer == 0;
}

base::Result<std::unique_ptr<BlockCoder>> BlockCoder::make(const kv_cache::KvLayout& pool, std::uint64_t numerics_id,
                                                           device::Device& device) {
    const auto as_coded = coded_layout(pool);
    if (!as_coded) { return base::pass_on(as_coded); }
    if (!takes(pool)) {
        return base::fail(base::ErrorCode::invalid_argument,
                          fmt::format("the codec `exact` takes KV heads of up to {} values, without scales: leave the "
                                      "level raw",
                                      kHeadDimMax));
    }
    auto wire = device.allocate_host(pool.block_bytes());
    if (!wire) { return base::pass_on(wire); }
    return std::unique_ptr<BlockCoder>(new BlockCoder(pool, *as_coded, numerics_id, std::move(*wire)));
}

BlockCoder::BlockCoder(const kv_cache::KvLayout& pool, const kv_cache::KvLayout& as_coded, std::uint64_t numerics_id,
                       device::Buffer wire)
    : as_coded_(as_coded),
      range_{0, pool.layers(), 0, pool.block_tokens() * (pool.kv_heads() / as_coded.kv_heads())},
      block_{0, pool.layers(), 0, pool.block_tokens()},
      block_bytes_(pool.block_bytes()),
      slot_bytes_(is_bf16(pool) ? block_bytes_ / 4 * 3 : block_bytes_ / 8 * 7),
      codec_(make_exact_codec(numerics_id)),
      wire_(std::move(wire)),
      decode_rate_(kUsualDecodeRate, kPriorBytes / kUsualDecodeRate),
      share_(is_bf16(pool) ? kUsualShareBf16 : kUsualShareF32, kPriorBytes) {
    CHECK(as_coded_.wire_bytes(range_) == block_bytes_ && pool.wire_bytes(block_) == block_bytes_);
    // What blocks can be moved by, slots can.
    if (block_bytes_ % kPageBytes == 0) { slot_bytes_ = (slot_bytes_ + kPageBytes - 1) / kPageBytes * kPageBytes; }
}

base::Result<std::size_t> BlockCoder::encode(kv_cache::KvAccess& pool, kv_cache::BlockId block,
                                             std::span<std::byte> out) {
    CHECK(out.size() >= coded_bytes_max(), out.size() << " bytes");
    const std::span<std::byte> wire{wire_.data(), block_bytes_};
    if (auto packed = pool.pack(std::array{block}, block_, wire); !packed) { return base::pass_on(packed); }
    auto coded = codec_->encode(as_coded_, range_, 0, wire, out);
    if (coded) { share_.add(static_cast<double>(*coded), static_cast<double>(block_bytes_)); }
    return coded;
}

base::Result<void> BlockCoder::decode(kv_cache::KvAccess& pool, kv_cache::BlockId block,
                                      std::span<const std::byte> coded) {
    const std::span<std::byte> wire{wire_.data(), block_bytes_};
    const auto begin = std::chrono::steady_clock::now();
    if (auto decoded = codec_->decode(as_coded_, range_, 0, coded, wire); !decoded) { return decoded; }
    if (auto unpacked = pool.unpack(std::array{block}, block_, wire); !unpacked) { return unpacked; }
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    if (seconds > 0) { decode_rate_.add(static_cast<double>(block_bytes_), seconds); }
    return {};
}

}  // namespace kv_transfer
