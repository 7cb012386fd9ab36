#include "kv_cache/kv_access.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "device/stream_copy.h"
#include "kv_cache/kv_pack.h"

namespace kv_cache {

Result<KvAccess> KvAccess::make(KvStore& store) {
    if (store.device().is_host_memory()) { return KvAccess(store, nullptr); }
    const KvLayout& layout = store.layout();
    CHECK(layout.format().order == TileOrder::token_major, layout.format().name());
    CHECK(layout.layer_stride() == 2 * layout.kv_heads() * layout.tile_bytes(), "layers with scales between them");
    auto stream = store.device().make_stream();
    if (!stream) { return base::pass_on(stream); }
    return KvAccess(store, std::move(*stream));
}

/// All tiles of a block, from layer to layer, have the same distance, and so have their places on the wire: the rows of
/// one copy.
template <class Copy>
Result<void> KvAccess::for_each_block(std::span<const BlockId> blocks, const KvRange& range, const Copy& copy) {
    const KvLayout& layout = store_->layout();
    CHECK(range.layer_begin <= range.layer_end && range.layer_end <= layout.layers(),
          "layers [" << range.layer_begin << ", " << range.layer_end << ") of " << layout.layers());
    CHECK(range.token_begin <= range.token_end && layout.blocks_for(range.token_end) <= blocks.size(),
          "tokens [" << range.token_begin << ", " << range.token_end << ") in " << blocks.size() << " blocks");
    const std::uint32_t block_tokens = layout.block_tokens();
    const std::size_t token_bytes = layout.tile_bytes() / block_tokens;
    const std::size_t tiles = std::size_t{range.layers()} * 2 * layout.kv_heads();
    const std::size_t wire_pitch = range.tokens() * token_bytes;
    for (std::uint32_t token = range.token_begin; token < range.token_end;) {
        const std::uint32_t first = token % block_tokens;
        const std::uint32_t count = std::min(block_tokens - first, range.token_end - token);
        std::byte* tile = store_->tile(blocks[token / block_tokens], range.layer_begin, KvPart::k, 0);
        const std::size_t wire_offset = (token - range.token_begin) * token_bytes;
        if (auto copied = copy(tile + first * token_bytes, layout.tile_bytes(), wire_offset, wire_pitch,
                               count * token_bytes, tiles);
            !copied) {
            static_cast<void>(stream_->synchronize());  // what was started must not write behind the caller's back
            return copied;
        }
        token += count;
    }
    return stream_->synchronize();
}

Result<void> KvAccess::pack(std::span<const BlockId> blocks, const KvRange& range, std::span<std::byte> out) {
    if (stream_ == nullptr) {
        kv_cache::pack(*store_, blocks, range, out);
        return {};
    }
    CHECK(out.size() == store_->layout().wire_bytes(range));
    return for_each_block(blocks, range,
                          [&](std::byte* tile, std::size_t tile_pitch, std::size_t wire_offset, std::size_t wire_pitch,
                              std::size_t row_bytes, std::size_t rows) {
                              return store_->device().copy_rows_async(*stream_, out.data() + wire_offset, wire_pitch,
                                                                      tile, tile_pitch, row_bytes, rows);
                          });
}

Result<void> KvAccess::unpack(std::span<const BlockId> blocks, const KvRange& range, std::span<const std::byte> in) {
    if (stream_ == nullptr) {
        kv_cache::unpack(*store_, blocks, range, in);
        return {};
    }
    CHECK(in.size() == store_->layout().wire_bytes(range));
    return for_each_block(blocks, range,
                          [&](std::byte* tile, std::size_t tile_pitch, std::size_t wire_offset, std::size_t wire_pitch,
                              std::size_t row_bytes, std::size_t rows) {
                              return store_->device().copy_rows_async(
                                  *stream_, tile, tile_pitch, in.data() + wire_offset, wire_pitch, row_bytes, rows);
                          });
}

Result<void> KvAccess::save(std::span<const BlockRun> runs, std::span<std::byte> out) {
    std::byte* to = out.data();
    for (const BlockRun& run : runs) {
        const std::span<const std::byte> bytes = std::as_const(*store_).run(run);
        CHECK(bytes.size() <= static_cast<std::size_t>(out.data() + out.size() - to));
        if (stream_ == nullptr) {
            device::copy_streamed(to, bytes.data(), bytes.size());
        } else if (auto copied = store_->device().copy_async(*stream_, to, bytes.data(), bytes.size()); !copied) {
            static_cast<void>(stream_->synchronize());  // as in for_each_block()
            return copied;
        }
        to += bytes.size();
    }
    return stream_ == nullptr ? Result<void>{} : stream_->synchronize();
}

Result<void> KvAccess::restore(std::span<const BlockRun> runs, std::span<const std::byte> in) {
    const std::byte* from = in.data();
    for (const BlockRun& run : runs) {
        const std::span<std::byte> bytes = store_->run(run);
        CHECK(bytes.size() <= static_cast<std::size_t>(in.data() + in.size() - from));
        if (stream_ == nullptr) {
            device::copy_streamed(bytes.data(), from, bytes.size());
        } else if (auto copied = store_->device().copy_async(*stream_, bytes.data(), from, bytes.size()); !copied) {
            static_cast<void>(stream_->synchronize());  // as in for_each_block()
            return copied;
        }
        from += bytes.size();
    }
    return stream_ == nullptr ? Result<void>{} : stream_->synchronize();
}

}  // namespace kv_cache
