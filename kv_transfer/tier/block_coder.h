#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/result.h"
#include "device/buffer.h"
#include "device/device.h"
#include "kv_cache/kv_access.h"
#include "kv_cache/kv_layout.h"
#include "kv_transfer/codec/codec.h"
#include "kv_transfer/rate/bandwidth.h"

namespace kv_transfer {

/// How the blocks of a level lie there.
enum class TierCoding : std::uint8_t {
    raw = 0,        // as in the pool
    exact = 1,      // coded without loss, in slots that are smaller than a block
    automatic = 2,  // in slots of a block, coded where it is predicted to come sooner so
};

/// What is known of a level and its coder, to choose by.
struct CodingRates {
    double read = 0;        // bytes a second that the level gives
    double decode = 0;      // bytes of KV a second
    double share = 1;       // of a block's bytes that are left
    bool overlaps = false;  // one block is decoded while others are read
};
/// Whether KV comes sooner from where it lies coded, by kCodingSaves at least. Pure. All rates > 0.
bool coding_pays(const CodingRates& rates);
inline constexpr double kCodingSaves = 0.1;

/// Codes single blocks of a pool without loss (codec `exact`, decision 0077): a chunk for each block, which names its
/// shape and model and has checksums, so what is damaged or of another model does not come back. One thread at a time.
class BlockCoder {
public:
    /// Whether there can be one.
    static bool takes(const kv_cache::KvLayout& pool);
    /// `pool`: whose blocks they are, in shape. Error: invalid_argument, where the codec cannot have such heads;
    /// resource_exhausted, of `device`, the pool's, which must outlive the coder.
    static base::Result<std::unique_ptr<BlockCoder>> make(const kv_cache::KvLayout& pool, std::uint64_t numerics_id,
                                                          device::Device& device);

    /// What a coded block takes at most: one that coding does not make smaller is longer than it was.
    std::size_t coded_bytes_max() const { return codec_->bound(block_bytes_); }
    /// Of a slot that has room for about every block: three quarters of BF16 KV, seven eighths of F32.
    std::size_t slot_bytes() const { return slot_bytes_; }

    /// The block, coded, into `out` (coded_bytes_max() or more): the bytes that it takes. Error: internal.
    base::Result<std::size_t> encode(kv_cache::KvAccess& pool, kv_cache::BlockId block, std::span<std::byte> out);
    /// Back, with the same bits, into a block. Error: data_loss, and then the block is as it was; internal.
    base::Result<void> decode(kv_cache::KvAccess& pool, kv_cache::BlockId block, std::span<const std::byte> coded);

    /// What decoding took lately, and what was left of a block; before the first, what is usual.
    double decode_rate() const { return decode_rate_.value(); }
    double share() const { return share_.value(); }

private:
    BlockCoder(const kv_cache::KvLayout& pool, const kv_cache::KvLayout& as_coded, std::uint64_t numerics_id,
               device::Buffer wire);

    const kv_cache::KvLayout as_coded_;  // of the same bytes in the order of the wire
    const kv_cache::KvRange range_;      // a block in it
    const kv_cache::KvRange block_;      // a block of the pool
    const std::size_t block_bytes_;
    std::size_t slot_bytes_;
    const std::unique_ptr<Codec> codec_;
    device::Buffer wire_;  // a block in the order of the wire
    Ratio decode_rate_;
    Ratio share_;
};

}  // namespace kv_transfer
