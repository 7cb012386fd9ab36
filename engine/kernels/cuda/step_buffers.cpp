#include "engine/kernels/cuda/step_buffers.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "base/check.h"

namespace engine::cuda {
namespace {

constexpr std::size_t kAlignment = 256;
/// Runs shorter than this go row by row to attention_decode: a prefill tile would be mostly empty. To be settled by
/// measurement; both give the same bits.
constexpr std::uint32_t kTileRowsMin = 8;

std::int32_t narrow(std::size_t value) {
    CHECK(value <= 0x7fffffffu);
    return static_cast<std::int32_t>(value);
}

}  // namespace

std::uint32_t row_bucket(std::uint32_t rows) {
    const std::uint32_t step = rows <= 8 ? 1 : rows <= 64 ? 8 : rows <= 256 ? 16 : 32;
    return (rows + step - 1) / step * step;
}

std::uint32_t context_bucket(std::uint32_t tokens) {
    return std::max(std::bit_ceil(tokens), 1024u);
}

base::Result<StepBuffers> StepBuffers::make(device::Device& device, const Limits& limits) {
    CHECK(limits.batch_tokens > 0 && limits.batch_sequences > 0 && limits.tile_tokens > 0 && limits.blocks_total > 0);
    StepBuffers buffers(device, limits);
    buffers.table_stride_ = (limits.context_tokens + limits.block_tokens - 1) / limits.block_tokens;
    buffers.table_stride_ = (buffers.table_stride_ + 3) / 4 * 4;  // rows of 16 bytes
    // Tokens, wanted rows; sequence, position, decode row and tile (16 bytes) of each row, all and wanted.
    const std::size_t row_bytes = std::size_t{limits.batch_tokens} * (4 * (2 + 2 * 3) + 2 * sizeof(PrefillTile));
    const std::size_t bytes = row_bytes + 16 * kAlignment;
    const std::size_t table_bytes = std::size_t{limits.batch_sequences} * buffers.table_stride_ * 4;
    const auto take = [](base::Result<device::Buffer> from, device::Buffer& to) -> base::Result<void> {
        if (!from) { return base::pass_on(from, "what the GPU is told about a step"); }
        to = std::move(*from);
        return {};
    };
    if (auto made = take(device.allocate_host(bytes), buffers.host_); !made) { return base::pass_on(made); }
    if (auto made = take(device.allocate(bytes), buffers.device_rows_); !made) { return base::pass_on(made); }
    if (auto made = take(device.allocate_host(table_bytes), buffers.host_tables_); !made) {
        return base::pass_on(made);
    }
    if (auto made = take(device.allocate(table_bytes), buffers.device_tables_); !made) { return base::pass_on(made); }
    return buffers;
}

StepShape StepBuffers::shape_of(const StepRows& step) const {
    const auto rows = static_cast<std::uint32_t>(step.tokens.size());
    StepShape shape{.is_replayable = step.rows_wanted.size() == step.tokens.size() && step.sequences.size() == rows &&
                                     rows <= limits_.batch_sequences,
                    .rows = rows};
    std::uint32_t context = 0;
    for (const SequenceRows& sequence : step.sequences) {
        context = std::max(context, sequence.position + sequence.rows);
    }
    // Every launch covers the partitions up to here; those beyond a row's own context end at once.
    shape.context_tokens_max = context_bucket(context);
    if (shape.is_replayable) {
        shape.rows =
            std::max(rows, std::min(row_bucket(rows), std::min(limits_.batch_sequences, limits_.batch_tokens)));
    }
    return shape;
}

StepBuffers::Place StepBuffers::take(std::size_t bytes) {
    const Place place{host_.data() + used_, device_rows_.data() + used_};
    used_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    CHECK(used_ <= host_.size(), used_ << " bytes of " << host_.size());
    return place;
}

DeviceRows StepBuffers::place_rows(std::span<const SequenceRows> sequences, std::uint32_t rows,
                                   const StepShape& shape) {
    const Place sequence_place = take(rows * sizeof(std::int32_t));
    const Place position_place = take(rows * sizeof(std::int32_t));
    auto* row_sequence = reinterpret_cast<std::int32_t*>(sequence_place.host);
    auto* row_position = reinterpret_cast<std::int32_t*>(position_place.host);
    std::fill(row_sequence, row_sequence + rows, 0);
    std::fill(row_position, row_position + rows, kIdleRow);
    tiles_.clear();
    decode_rows_.clear();
    for (const SequenceRows& run : sequences) {
        CHECK(run.row_begin + run.rows <= rows);
        for (std::uint32_t r = 0; r < run.rows; ++r) {
            row_sequence[run.row_begin + r] = narrow(run.sequence);
            row_position[run.row_begin + r] = narrow(run.position + r);
        }
        if (run.rows < kTileRowsMin) {
            for (std::uint32_t r = 0; r < run.rows; ++r) {
                decode_rows_.push_back(narrow(run.row_begin + r));
            }
            continue;
        }
        for (std::uint32_t r = 0; r < run.rows; r += limits_.tile_tokens) {
            tiles_.push_back({.row_begin = narrow(run.row_begin + r),
                              .rows = narrow(std::min(limits_.tile_tokens, run.rows - r)),
                              .position = narrow(run.position + r),
                              .sequence = narrow(run.sequence)});
        }
    }
    // The longest first: what begins last should be short.
    std::stable_sort(tiles_.begin(), tiles_.end(),
                     [](const PrefillTile& a, const PrefillTile& b) { return a.position > b.position; });
    DeviceRows placed;
    placed.row_sequence = reinterpret_cast<const std::int32_t*>(sequence_place.device);
    placed.row_position = reinterpret_cast<const std::int32_t*>(position_place.device);
    placed.rows = narrow(rows);
    placed.context_tokens_max = narrow(shape.context_tokens_max);
    if (shape.is_replayable) {  // every row, idle ones too, in the order of the batch
        placed.decode_count = narrow(rows);
        return placed;
    }
    if (!tiles_.empty()) {
        const Place place = take(tiles_.size() * sizeof(PrefillTile));
        std::memcpy(place.host, tiles_.data(), tiles_.size() * sizeof(PrefillTile));
        placed.tiles = reinterpret_cast<const PrefillTile*>(place.device);
        placed.tile_count = narrow(tiles_.size());
    }
    if (!decode_rows_.empty()) {
        const Place place = take(decode_rows_.size() * sizeof(std::int32_t));
        std::memcpy(place.host, decode_rows_.data(), decode_rows_.size() * sizeof(std::int32_t));
        placed.decode_rows = reinterpret_cast<const std::int32_t*>(place.device);
        placed.decode_count = narrow(decode_rows_.size());
    }
    return placed;
}

base::Result<DeviceStep> StepBuffers::send(const StepRows& step, const StepShape& shape, device::Stream& stream) {
    CHECK(step.sequences.size() <= limits_.batch_sequences, step.sequences.size()
                                                                << " sequences, at most " << limits_.batch_sequences);
    used_ = 0;
    const Place token_place = take(shape.rows * sizeof(std::int32_t));
    auto* tokens = reinterpret_cast<std::int32_t*>(token_place.host);
    std::fill(std::copy(step.tokens.begin(), step.tokens.end(), tokens), tokens + shape.rows, kIdleRow);
    DeviceStep sent;
    sent.tokens = reinterpret_cast<const std::int32_t*>(token_place.device);
    sent.all = place_rows(step.sequences, shape.rows, shape);
    if (shape.is_replayable) {
        sent.wanted = sent.all;
    } else if (!step.rows_wanted.empty()) {
        const Place place = take(step.rows_wanted.size() * sizeof(std::int32_t));
        auto* wanted = reinterpret_cast<std::int32_t*>(place.host);
        for (std::size_t i = 0; i < step.rows_wanted.size(); ++i) {
            wanted[i] = narrow(step.rows_wanted[i]);
        }
        sent.rows_wanted = reinterpret_cast<const std::int32_t*>(place.device);
        sent.wanted = place_rows(step.sequences_wanted, static_cast<std::uint32_t>(step.rows_wanted.size()), shape);
    }
    if (auto copied = device_->copy_async(stream, device_rows_.data(), host_.data(), used_); !copied) {
        return base::pass_on(copied);
    }

    std::size_t longest = 0;
    for (const SequenceRows& sequence : step.sequences) {
        const std::size_t blocks =
            (sequence.position + sequence.rows + limits_.block_tokens - 1) / limits_.block_tokens;
        CHECK(blocks <= sequence.blocks.size() && blocks <= table_stride_, blocks << " blocks");
        longest = std::max(longest, blocks);
    }
    auto* table = reinterpret_cast<std::int32_t*>(host_tables_.data());
    for (std::size_t i = 0; i < step.sequences.size(); ++i) {
        const SequenceRows& sequence = step.sequences[i];
        CHECK(sequence.sequence == i, "sequence " << i << " says it is " << sequence.sequence);
        const std::size_t blocks = std::min(sequence.blocks.size(), longest);
        std::uint32_t largest = 0;
        for (std::size_t b = 0; b < blocks; ++b) {
            const std::uint32_t block = base::raw(sequence.blocks[b]);
            largest = std::max(largest, block);
            table[b] = static_cast<std::int32_t>(block);
        }
        CHECK(largest < limits_.blocks_total, "block " << largest << " of " << limits_.blocks_total);
        std::fill(table + blocks, table + longest, 0);
        table += longest;
    }
    if (auto copied = device_->copy_rows_async(stream, device_tables_.data(), std::size_t{table_stride_} * 4,
                                               host_tables_.data(), longest * 4, longest * 4, step.sequences.size());
        !copied) {
        return base::pass_on(copied);
    }
    sent.block_tables = reinterpret_cast<const std::int32_t*>(device_tables_.data());
    sent.table_stride = narrow(table_stride_);
    return sent;
}

}  // namespace engine::cuda
