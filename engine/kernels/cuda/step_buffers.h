#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "device/buffer.h"
#include "device/device.h"
#include "engine/kernels/backend.h"
#include "engine/kernels/cuda/launch.h"

namespace engine::cuda {

/// One set of rows as the attention kernels take it: single rows to attention_decode, longer runs in tiles to
/// attention_prefill. All pointers are device pointers.
struct DeviceRows {
    const std::int32_t* row_sequence = nullptr;  // [rows]
    const std::int32_t* row_position = nullptr;  // [rows]
    std::int32_t rows = 0;
    const PrefillTile* tiles = nullptr;
    std::int32_t tile_count = 0;
    const std::int32_t* decode_rows = nullptr;  // [decode_count]; null: rows 0, 1, ...
    std::int32_t decode_count = 0;
    std::int32_t context_tokens_max = 0;  // of the decode rows
};

/// What the kernels of one step read besides activations, weights and KV.
struct DeviceStep {
    const std::int32_t* tokens = nullptr;        // [rows]
    const std::int32_t* rows_wanted = nullptr;   // [wanted.rows]: rows of `all`
    const std::int32_t* block_tables = nullptr;  // [sequences][table_stride]
    std::int32_t table_stride = 0;
    DeviceRows all;
    DeviceRows wanted;
};

/// How a step goes to the device.
struct StepShape {
    bool is_replayable = false;            // every sequence has one row, and all rows are wanted: a decode step
    std::uint32_t rows = 0;                // with idle rows where the step is replayable
    std::uint32_t context_tokens_max = 0;  // of decode rows, rounded up
};

/// Rows to which a decode step of `rows` rows is filled up, so that few graphs serve all: steps of 1, 8, 16, 32.
std::uint32_t row_bucket(std::uint32_t rows);
/// The same for the longest context: powers of two from 1024 on.
std::uint32_t context_bucket(std::uint32_t tokens);

/// The device's copy of a step, at a place that depends on the StepShape alone where the step is replayable, so that a
/// captured graph finds it. Filled through pinned memory with two copies.
class StepBuffers {
public:
    struct Limits {
        std::uint32_t batch_tokens = 0;
        std::uint32_t batch_sequences = 0;
        std::uint32_t context_tokens = 0;
        std::uint32_t block_tokens = 0;
        std::uint32_t tile_tokens = 0;   // prefill_tile_tokens()
        std::uint32_t blocks_total = 0;  // of the KV pool
    };
    /// Error: resource_exhausted.
    static base::Result<StepBuffers> make(device::Device& device, const Limits& limits);

    /// Pure: what kind of step this is.
    StepShape shape_of(const StepRows& step) const;

    /// Fills the pinned memory and starts the copies on `stream`. The copies of the step before must have run.
    /// Error: internal.
    base::Result<DeviceStep> send(const StepRows& step, const StepShape& shape, device::Stream& stream);

private:
    explicit StepBuffers(device::Device& device, const Limits& limits) : device_(&device), limits_(limits) {}

    /// Hands out places in the pinned memory and the same ones in the device's.
    struct Place {
        std::byte* host = nullptr;
        std::byte* device = nullptr;
    };
    Place take(std::size_t bytes);
    DeviceRows place_rows(std::span<const SequenceRows> sequences, std::uint32_t rows, const StepShape& shape);

    device::Device* device_;
    Limits limits_;
    std::uint32_t table_stride_ = 0;
    std::size_t used_ = 0;
    device::Buffer host_;           // rows, tiles
    device::Buffer device_rows_;    // its copy
    device::Buffer host_tables_;    // block tables, packed to the longest of the step
    device::Buffer device_tables_;  // [batch_sequences][table_stride]
    std::vector<PrefillTile> tiles_;
    std::vector<std::int32_t> decode_rows_;
};

}  // namespace engine::cuda
