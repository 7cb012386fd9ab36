#include "kv_transfer/codec/chunk_codec.h"

#include <algorithm>
#include <string>

#include "base/check.h"
#include "kv_transfer/codec/lane_kernels.h"
#include "kv_transfer/codec/rans.h"

namespace kv_transfer {

ChunkWorkspace& ChunkWorkspace::of_thread() {
    thread_local ChunkWorkspace workspace;
    return workspace;
}

base::Result<void> ChunkCodec::damaged(const char* what) {
    return base::fail(base::ErrorCode::data_loss, std::string("KV chunk: ") + what);
}

ChunkCodec::Job ChunkCodec::job_of(const kv_cache::KvLayout& layout, const kv_cache::KvRange& range,
                                   std::uint32_t level) const {
    return {.shape = ChunkShape::of(layout, range),
            .level = level,
            .layer_begin = range.layer_begin,
            .layers_total = layout.layers(),
            .token_begin = range.token_begin,
            .block_tokens = layout.block_tokens()};
}

base::Result<std::size_t> ChunkCodec::encode(const kv_cache::KvLayout& layout, const kv_cache::KvRange& range,
                                             std::uint32_t level, std::span<const std::byte> raw,
                                             std::span<std::byte> out) const {
    const Job job = job_of(layout, range, level);
    CHECK(raw.size() == job.shape.raw_bytes() && out.size() >= bound(raw.size()) && has_level(level));
    if (job.shape.head_dim > kHeadDimMax) {
        return base::fail(base::ErrorCode::internal, "KV chunk: heads of " + std::to_string(job.shape.head_dim) +
                                                         " values, at most " + std::to_string(kHeadDimMax));
    }
    ChunkHeader header;
    header.kind = kind_;
    header.level = static_cast<std::uint8_t>(level);
    header.dtype = layout.format().dtype;
    header.numerics_id = numerics_id_;
    header.range = range;
    header.kv_heads = layout.kv_heads();
    header.head_dim = layout.head_dim();
    ChunkWorkspace& workspace = ChunkWorkspace::of_thread();
    workspace.sections.clear();
    ChunkHeader coded = header;
    encode_body(job, raw, workspace, coded);
    const std::size_t bytes = write_chunk(coded, workspace.sections, out.first(bound(raw.size())));
    if (bytes != 0 && bytes < bound(raw.size())) { return bytes; }
    workspace.sections.clear();
    workspace.sections.plain.put(raw);
    header.is_stored = true;
    const std::size_t stored = write_chunk(header, workspace.sections, out);
    CHECK(stored == bound(raw.size()));
    return stored;
}

base::Result<void> ChunkCodec::decode(const kv_cache::KvLayout& layout, const kv_cache::KvRange& range,
                                      std::uint32_t level, std::span<const std::byte> payload,
                                      std::span<std::byte> out) const {
    const Job job = job_of(layout, range, level);
    CHECK(out.size() == job.shape.raw_bytes());
    if (!has_level(level)) { return damaged("a level that this codec does not have"); }
    if (job.shape.head_dim > kHeadDimMax) { return damaged("heads too large for this codec"); }
    const auto view = read_chunk(payload, {kind_, level, numerics_id_, &layout, range});
    if (!view) { return base::pass_on(view); }
    if (view->header.is_stored) {
        if (view->plain.size() != out.size() || payload.size() != bound(out.size())) {
            return damaged("stored bytes of another size");
        }
        std::copy(view->plain.begin(), view->plain.end(), out.begin());
        return {};
    }
    return decode_body(job, *view, ChunkWorkspace::of_thread(), out);
}

RansEncoder begin_stream(ChunkWorkspace& workspace, std::size_t rows, ChunkHeader& header) {
    const std::uint32_t groups = rans_groups(rows);
    header.groups = static_cast<std::uint8_t>(groups);
    return {rans_kernels(), groups, grown(workspace.stream, rans_bound(rows, groups))};
}

}  // namespace kv_transfer
