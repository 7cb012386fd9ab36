// What the CUDA backend tells the device about a step, and about sampling: host code, so it needs no device.
#include <algorithm>
#include <cstring>
#include <vector>

#include "engine/kernels/cuda/sampling_rows.h"
#include "engine/kernels/cuda/step_buffers.h"
#include "tests/support/distant_device.h"

#include "tests/support/catch.h"

using engine::RowChoice;
using engine::SamplerContext;
using engine::SamplingParams;
using engine::SequenceRows;
using engine::StepRows;
using engine::cuda::DeviceRows;
using engine::cuda::DeviceStep;
using engine::cuda::kIdleRow;
using engine::cuda::PrefillTile;
using engine::cuda::StepBuffers;
using engine::cuda::StepShape;

namespace {

constexpr StepBuffers::Limits kLimits{.batch_tokens = 256,
                                      .batch_sequences = 12,
                                      .context_tokens = 1000,
                                      .block_tokens = 16,
                                      .tile_tokens = 32,
                                      .blocks_total = 12 * 1000};

struct Step {
    std::vector<base::TokenId> tokens;
    std::vector<std::vector<base::BlockId>> blocks;
    std::vector<SequenceRows> sequences;
    std::vector<std::uint32_t> rows_wanted;
    std::vector<SequenceRows> sequences_wanted;

    /// `rows` new tokens at `position`; the last row is wanted.
    void add(std::uint32_t rows, std::uint32_t position) {
        const auto row_begin = static_cast<std::uint32_t>(tokens.size());
        const auto index = static_cast<std::uint32_t>(sequences.size());
        for (std::uint32_t i = 0; i < rows; ++i) {
            tokens.push_back(static_cast<base::TokenId>(row_begin + i + 100));
        }
        blocks.emplace_back();
        for (std::uint32_t b = 0; b * 16 < position + rows; ++b) {
            blocks.back().push_back(base::BlockId{index * 1000 + b});
        }
        sequences.push_back(
            {.row_begin = row_begin, .rows = rows, .position = position, .blocks = {}, .sequence = index});
        sequences_wanted.push_back({.row_begin = static_cast<std::uint32_t>(rows_wanted.size()),
                                    .rows = 1,
                                    .position = position + rows - 1,
                                    .blocks = {},
                                    .sequence = index});
        rows_wanted.push_back(row_begin + rows - 1);
    }

    StepRows rows() {
        for (std::size_t i = 0; i < sequences.size(); ++i) {
            sequences[i].blocks = blocks[i];
            sequences_wanted[i].blocks = blocks[i];
        }
        return {
            .tokens = tokens, .sequences = sequences, .rows_wanted = rows_wanted, .sequences_wanted = sequences_wanted};
    }
};

/// Every row of `wanted` belongs to exactly one tile or decode row, with the position and sequence that it has.
void rows_are_covered(const DeviceRows& placed, std::span<const SequenceRows> runs) {
    std::vector<int> seen(static_cast<std::size_t>(placed.rows), 0);
    for (const SequenceRows& run : runs) {
        for (std::uint32_t r = 0; r < run.rows; ++r) {
            const std::size_t row = run.row_begin + r;
            REQUIRE(placed.row_sequence[row] == static_cast<std::int32_t>(run.sequence));
            REQUIRE(placed.row_position[row] == static_cast<std::int32_t>(run.position + r));
        }
    }
    for (std::int32_t t = 0; t < placed.tile_count; ++t) {
        const PrefillTile& tile = placed.tiles[t];
        REQUIRE(tile.rows >= 1);
        REQUIRE(tile.rows <= static_cast<std::int32_t>(kLimits.tile_tokens));
        for (std::int32_t r = 0; r < tile.rows; ++r) {
            const auto row = static_cast<std::size_t>(tile.row_begin + r);
            REQUIRE(placed.row_sequence[row] == tile.sequence);
            REQUIRE(placed.row_position[row] == tile.position + r);
            ++seen[row];
        }
    }
    for (std::int32_t i = 0; i < placed.decode_count; ++i) {
        const std::int32_t row = placed.decode_rows == nullptr ? i : placed.decode_rows[i];
        REQUIRE(placed.row_position[row] < placed.context_tokens_max);
        ++seen[static_cast<std::size_t>(row)];
    }
    REQUIRE(std::count(seen.begin(), seen.end(), 1) == placed.rows);
}

}  // namespace

TEST_CASE("a mixed step reaches the device row by row and block by block", "[engine]") {
    test_device::DistantDevice device;
    auto stream = device.make_stream();
    auto buffers = StepBuffers::make(device, kLimits);
    REQUIRE((stream && buffers));
    Step step;
    step.add(70, 5);
    step.add(1, 900);
    step.add(3, 16);
    step.add(8, 0);
    const StepRows rows = step.rows();
    const StepShape shape = buffers->shape_of(rows);
    REQUIRE_FALSE(shape.is_replayable);
    REQUIRE(shape.rows == 82);
    const auto sent = buffers->send(rows, shape, **stream);
    REQUIRE(sent);
    REQUIRE(std::memcmp(sent->tokens, step.tokens.data(), step.tokens.size() * 4) == 0);
    rows_are_covered(sent->all, step.sequences);
    REQUIRE(sent->all.tile_count == 4);    // 70 rows in 32 + 32 + 6, and 8
    REQUIRE(sent->all.decode_count == 4);  // 1 and 3 rows
    for (std::int32_t t = 1; t < sent->all.tile_count; ++t) {
        REQUIRE(sent->all.tiles[t - 1].position >= sent->all.tiles[t].position);
    }
    rows_are_covered(sent->wanted, step.sequences_wanted);
    REQUIRE(sent->wanted.rows == 4);
    for (std::size_t i = 0; i < step.rows_wanted.size(); ++i) {
        REQUIRE(sent->rows_wanted[i] == static_cast<std::int32_t>(step.rows_wanted[i]));
    }
    for (std::size_t s = 0; s < step.blocks.size(); ++s) {
        for (std::size_t b = 0; b < step.blocks[s].size(); ++b) {
            REQUIRE(sent->block_tables[s * static_cast<std::size_t>(sent->table_stride) + b] ==
                    static_cast<std::int32_t>(base::raw(step.blocks[s][b])));
        }
    }
}

TEST_CASE("decode steps of one bucket are found at the same place, with idle rows behind", "[engine]") {
    test_device::DistantDevice device;
    auto stream = device.make_stream();
    auto buffers = StepBuffers::make(device, kLimits);
    REQUIRE((stream && buffers));
    DeviceStep first;
    for (const std::uint32_t sequences : {9u, 12u, 11u}) {
        CAPTURE(sequences);
        Step step;
        for (std::uint32_t i = 0; i < sequences; ++i) {
            step.add(1, 17 * i + sequences);
        }
        const StepRows rows = step.rows();
        const StepShape shape = buffers->shape_of(rows);
        REQUIRE(shape.is_replayable);
        REQUIRE(shape.rows == 12);  // the bucket of 16, but never more than a batch may have
        REQUIRE(shape.context_tokens_max == 1024);
        const auto sent = buffers->send(rows, shape, **stream);
        REQUIRE(sent);
        REQUIRE(sent->all.decode_rows == nullptr);
        REQUIRE(sent->all.decode_count == 12);
        REQUIRE(sent->all.tile_count == 0);
        for (std::uint32_t row = sequences; row < 12; ++row) {
            REQUIRE(sent->tokens[row] == kIdleRow);
            REQUIRE(sent->all.row_position[row] == kIdleRow);
        }
        if (sequences == 9) { first = *sent; }
        REQUIRE(sent->tokens == first.tokens);
        REQUIRE(sent->block_tables == first.block_tables);
        REQUIRE(sent->table_stride == first.table_stride);
        REQUIRE(sent->all.row_position == first.all.row_position);
        REQUIRE(sent->all.row_sequence == first.all.row_sequence);
        REQUIRE(sent->wanted.row_position == sent->all.row_position);
    }
}

TEST_CASE("a step with a row that nobody wants is not replayed", "[engine]") {
    test_device::DistantDevice device;
    auto buffers = StepBuffers::make(device, kLimits);
    REQUIRE(buffers);
    Step step;
    step.add(1, 3);
    step.add(1, 4);
    step.rows_wanted.pop_back();
    step.sequences_wanted.pop_back();
    StepRows rows{.tokens = step.tokens,
                  .sequences = step.sequences,
                  .rows_wanted = step.rows_wanted,
                  .sequences_wanted = step.sequences_wanted};
    REQUIRE_FALSE(buffers->shape_of(rows).is_replayable);
}

TEST_CASE("buckets never shrink a step and are few", "[engine]") {
    std::uint32_t buckets = 0;
    for (std::uint32_t rows = 1, last = 0; rows <= 512; ++rows) {
        const std::uint32_t bucket = engine::cuda::row_bucket(rows);
        REQUIRE(bucket >= rows);
        REQUIRE(bucket >= last);
        REQUIRE(engine::cuda::row_bucket(bucket) == bucket);
        buckets += bucket != last ? 1 : 0;
        last = bucket;
    }
    REQUIRE(buckets <= 40);
    REQUIRE(engine::cuda::context_bucket(1) == 1024);
    REQUIRE(engine::cuda::context_bucket(1024) == 1024);
    REQUIRE(engine::cuda::context_bucket(1025) == 2048);
}

TEST_CASE("choices are flattened as the sampler would read them", "[engine]") {
    SamplingParams greedy;
    SamplingParams rich;
    rich.temperature = 0.7f;
    rich.repetition_penalty = 1.5f;
    rich.presence_penalty = 0.25f;
    rich.logit_bias = {{3, 1.0f}, {99, 1.0f}};  // 99 is no token: left out
    rich.logprobs = true;
    rich.top_logprobs = 4;
    rich.seed = 77;
    const std::vector<base::TokenId> prompt{1, 2, 2};
    const std::vector<base::TokenId> generated{2, 5, 5};
    const std::vector<base::TokenId> masked{0};
    const SamplerContext plain{.params = &greedy, .position = 6, .prompt = prompt, .generated = generated};
    const SamplerContext full{
        .params = &rich, .position = 6, .prompt = prompt, .generated = generated, .masked_tokens = masked};

    const std::vector<RowChoice> only_greedy{{.draw = &plain}, {.draw = &plain}};
    REQUIRE(engine::cuda::make_sampling_tables(only_greedy, 10).is_greedy);

    const std::vector<RowChoice> choices{{.draw = &plain}, {.draw = &full}, {.score_target = 6, .score_top = 2}};
    const auto tables = engine::cuda::make_sampling_tables(choices, 10);
    REQUIRE_FALSE(tables.is_greedy);
    REQUIRE(tables.wants_top);
    REQUIRE(tables.rows.size() == 3);
    REQUIRE(tables.rows[0].penalised_begin == tables.rows[0].penalised_end);
    const auto& row = tables.rows[1];
    REQUIRE(row.logits_row == 1);
    REQUIRE(row.seed == 77);
    REQUIRE(row.position == 6);
    REQUIRE(row.bias_end - row.bias_begin == 1);
    REQUIRE(row.masked_end - row.masked_begin == 1);
    REQUIRE(row.penalised_end - row.penalised_begin == 3);  // 1, 2 and 5
    for (std::int32_t i = row.penalised_begin; i < row.penalised_end; ++i) {
        const auto& token = tables.penalised[static_cast<std::size_t>(i)];
        REQUIRE(token.generated == (token.token == 5 ? 2u : token.token == 2 ? 1u : 0u));
    }
    const auto idle =
        engine::cuda::make_sampling_tables(std::vector<RowChoice>{{.by_caller = true}, {.draw = &plain}}, 10);
    REQUIRE(idle.is_greedy);
    REQUIRE(idle.rows[0].logits_row == kIdleRow);
    REQUIRE(idle.rows[1].logits_row == 1);
    REQUIRE(tables.rows[2].score_target == 6);
    REQUIRE(tables.rows[2].logprobs == 1);
    REQUIRE(tables.rows[2].top_logprobs == 2);
}
