#include "engine/kernels/cuda/kv_pool_map.h"
#include "tests/gpu/paged.h"

namespace gpu_check {
namespace {

namespace cuda = engine::cuda;

struct Shape {
    std::int32_t heads_q;
    std::int32_t kv_heads;
    std::int32_t head_dim;
    std::int32_t block_tokens = 16;
};

std::string name_of(const Shape& shape) {
    return "heads " + std::to_string(shape.heads_q) + "/" + std::to_string(shape.kv_heads) + " head_dim " +
           std::to_string(shape.head_dim) + " blocks of " + std::to_string(shape.block_tokens);
}

/// A chunk of new tokens of one sequence: positions [position, position + rows).
struct Chunk {
    std::int32_t position;
    std::int32_t rows;
};

struct Inputs {
    PagedKv kv;
    std::vector<Chunk> chunks;           // one per sequence
    std::vector<std::int32_t> sequence;  // per row
    std::vector<std::int32_t> position;  // per row
    std::vector<Bf16> q;
    std::int32_t context_tokens = 0;  // of the longest
    std::int32_t rows() const { return static_cast<std::int32_t>(sequence.size()); }
};

Inputs make_inputs(Checks& checks, const Shape& shape, const std::vector<Chunk>& chunks) {
    Inputs inputs;
    inputs.chunks = chunks;
    std::vector<std::int32_t> lengths;
    for (const Chunk& chunk : chunks) {
        lengths.push_back(chunk.position + chunk.rows);
        inputs.context_tokens = std::max(inputs.context_tokens, lengths.back());
    }
    inputs.kv = PagedKv::make(checks, shape.kv_heads, shape.head_dim, shape.block_tokens, lengths);
    for (std::size_t s = 0; s < chunks.size(); ++s) {
        inputs.kv.fill(checks, static_cast<std::int32_t>(s), lengths[s]);
        for (std::int32_t r = 0; r < chunks[s].rows; ++r) {
            inputs.sequence.push_back(static_cast<std::int32_t>(s));
            inputs.position.push_back(chunks[s].position + r);
        }
    }
    inputs.q =
        random_bf16(checks, inputs.sequence.size() * static_cast<std::size_t>(shape.heads_q * shape.head_dim), 2);
    return inputs;
}

constexpr std::int32_t kLayer = 1;

std::vector<double> reference_of(const Shape& shape, const Inputs& inputs, double scale) {
    const auto d = static_cast<std::size_t>(shape.head_dim);
    std::vector<double> out(inputs.q.size());
    const std::int32_t group = shape.heads_q / shape.kv_heads;
    parallel_for(inputs.sequence.size() * static_cast<std::size_t>(shape.heads_q), [&](std::size_t i) {
        const std::size_t row = i / static_cast<std::size_t>(shape.heads_q);
        const std::int32_t head = static_cast<std::int32_t>(i % static_cast<std::size_t>(shape.heads_q));
        const std::int32_t keys = inputs.position[row] + 1;
        std::vector<double> weights(static_cast<std::size_t>(keys));
        double largest = -INFINITY;
        for (std::int32_t key = 0; key < keys; ++key) {
            const std::size_t at = inputs.kv.at(inputs.sequence[row], kLayer, 0, head / group, key);
            double score = 0;
            for (std::size_t j = 0; j < d; ++j) {
                score += number_of(inputs.q[i * d + j]) * number_of(inputs.kv.pool[at + j]);
            }
            weights[static_cast<std::size_t>(key)] = score * scale;
            largest = std::max(largest, score * scale);
        }
        double sum = 0;
        for (double& weight : weights) {
            weight = std::exp(weight - largest);
            sum += weight;
        }
        for (std::int32_t key = 0; key < keys; ++key) {
            const std::size_t at = inputs.kv.at(inputs.sequence[row], kLayer, 1, head / group, key);
            for (std::size_t j = 0; j < d; ++j) {
                out[i * d + j] += weights[static_cast<std::size_t>(key)] / sum * number_of(inputs.kv.pool[at + j]);
            }
        }
    });
    return out;
}

/// The inputs on the device, and both ways to run them.
class OnDevice {
public:
    OnDevice(const Shape& shape, const Inputs& inputs)
        : shape_(shape),
          inputs_(inputs),
          q_(inputs.q),
          pool_(inputs.kv.pool),
          tables_(inputs.kv.tables),
          sequence_(inputs.sequence),
          position_(inputs.position),
          out(inputs.q.size()) {
        arguments_.q = q_.get();
        arguments_.heads_q = shape.heads_q;
        arguments_.scale = 1 / std::sqrt(static_cast<float>(shape.head_dim));
        arguments_.block_tables = tables_.get();
        arguments_.table_stride = inputs.kv.table_stride;
        arguments_.kv = inputs.kv.layer_view(pool_.get(), kLayer);
        arguments_.out = out.get();
    }

    double scale() const { return number_of(arguments_.scale); }
    cuda::KvPoolMap pool_map() const {
        cuda::KvPoolMap map;
        GPU_REQUIRE(cuda::make_kv_pool_map(arguments_.kv, inputs_.kv.blocks, &map));
        return map;
    }

    /// Cuts the chunks into tiles of at most `tile_tokens`, and runs them in reverse order with an idle one. `map`: by
    /// Hopper's own kernel.
    void prefill(std::int32_t tile_tokens, const cuda::KvPoolMap* map = nullptr) {
        std::vector<cuda::PrefillTile> tiles;
        std::int32_t row = 0;
        for (std::size_t s = 0; s < inputs_.chunks.size(); ++s) {
            for (std::int32_t r = 0; r < inputs_.chunks[s].rows; r += tile_tokens) {
                tiles.push_back({row + r, std::min(tile_tokens, inputs_.chunks[s].rows - r),
                                 inputs_.chunks[s].position + r, static_cast<std::int32_t>(s)});
            }
            row += inputs_.chunks[s].rows;
        }
        std::reverse(tiles.begin(), tiles.end());
        tiles.push_back({});
        const DeviceArray<cuda::PrefillTile> device_tiles(tiles);
        out.poison();
        const auto count = static_cast<std::int32_t>(tiles.size());
        if (map != nullptr) {
            GPU_REQUIRE(cuda::attention_prefill_hopper(arguments_, *map, device_tiles.get(), count, nullptr));
        } else {
            GPU_REQUIRE(cuda::attention_prefill(arguments_, device_tiles.get(), count, nullptr));
        }
        GPU_REQUIRE(cudaDeviceSynchronize());
    }

    /// All rows by the decode kernel, or those of `index`; with scratch memory for `rows_at_once` of them (0: for all).
    void decode(std::int32_t context_tokens_max, const std::vector<std::int32_t>& index = {},
                std::int32_t rows_at_once = 0) {
        const std::int32_t rows = index.empty() ? inputs_.rows() : static_cast<std::int32_t>(index.size());
        DeviceArray<std::byte> scratch(cuda::attention_decode_scratch_bytes(
            rows_at_once == 0 ? rows : rows_at_once, shape_.heads_q, shape_.head_dim, context_tokens_max));
        const DeviceArray<std::int32_t> device_index(index);
        out.poison();
        GPU_REQUIRE(cuda::attention_decode(arguments_, sequence_.get(), position_.get(),
                                           index.empty() ? nullptr : device_index.get(), rows, context_tokens_max,
                                           scratch.get(), scratch.size(), nullptr));
        scratch_intact = scratch.guards_intact();
    }

private:
    Shape shape_;
    const Inputs& inputs_;
    DeviceArray<Bf16> q_;
    DeviceArray<Bf16> pool_;
    DeviceArray<std::int32_t> tables_;
    DeviceArray<std::int32_t> sequence_;
    DeviceArray<std::int32_t> position_;
    cuda::AttentionArguments arguments_;

public:
    DeviceArray<Bf16> out;
    bool scratch_intact = true;
};

bool is_hopper() {
    cudaDeviceProp properties;
    GPU_REQUIRE(cudaGetDeviceProperties(&properties, 0));
    return properties.major == 9 && properties.minor == 0;
}

void check_hopper(Checks& checks, const Shape& shape, OnDevice& device, const std::vector<double>& reference,
                  const std::string& name) {
    const std::int32_t tile_tokens = cuda::prefill_tile_tokens(shape.heads_q, shape.kv_heads);
    const cuda::KvPoolMap map = device.pool_map();
    device.prefill(tile_tokens, &map);
    note_close(checks, "attention_prefill_hopper " + name, device.out, reference, 2 * kBf16Tolerance);
    checks.note(device.out.guards_intact(), "attention_prefill_hopper keeps inside its output " + name);
    const std::vector<Bf16> once = device.out.download();
    device.prefill(std::max(1, tile_tokens / 3), &map);
    checks.note(device.out.download() == once, "other tiles give the same bits on Hopper " + name);
}

void check_shape(Checks& checks, const Shape& shape, const std::vector<Chunk>& chunks, const std::string& what) {
    const Inputs inputs = make_inputs(checks, shape, chunks);
    OnDevice device(shape, inputs);
    const std::vector<double> reference = reference_of(shape, inputs, device.scale());
    const std::string name = name_of(shape) + " " + what;
    const std::int32_t tile_tokens = cuda::prefill_tile_tokens(shape.heads_q, shape.kv_heads);

    device.prefill(tile_tokens);
    note_close(checks, "attention_prefill " + name, device.out, reference, 2 * kBf16Tolerance);
    const std::vector<Bf16> prefill = device.out.download();

    device.decode(inputs.context_tokens);
    note_close(checks, "attention_decode " + name, device.out, reference, 2 * kBf16Tolerance);
    checks.note(device.scratch_intact, "attention_decode keeps inside its scratch " + name);
    checks.note(device.out.download() == prefill, "decode gives the bits of prefill " + name);

    device.decode(inputs.context_tokens + 5 * cuda::kPartitionTokens);
    checks.note(device.out.download() == prefill, "decode in a larger bucket gives the same bits " + name);

    device.decode(inputs.context_tokens, {}, 4);
    checks.note(device.out.download() == prefill && device.scratch_intact,
                "decode in pieces that fit in its scratch gives the same bits " + name);

    device.prefill(std::max(1, tile_tokens / 3));
    checks.note(device.out.download() == prefill, "other tiles give the same bits " + name);
    if (is_hopper() && cuda::attention_hopper_can(shape.heads_q, shape.kv_heads, shape.head_dim)) {
        check_hopper(checks, shape, device, reference, name);
    }

    // Some rows alone, and an entry that names no row: the others stay poisoned.
    const std::vector<std::int32_t> index = {inputs.rows() - 1, -1, 0};
    device.decode(inputs.context_tokens, index, 2);
    const std::vector<Bf16> some = device.out.download();
    const auto width = static_cast<std::size_t>(shape.heads_q * shape.head_dim);
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < some.size(); ++i) {
        const std::size_t row = i / width;
        const bool chosen = row == 0 || row + 1 == inputs.sequence.size();
        wrong += some[i] != (chosen ? prefill[i] : Bf16{0xffff}) ? 1u : 0u;
    }
    checks.note(wrong == 0, "two rows alone give the same bits " + name, std::to_string(wrong) + " elements differ");
}

void check_idle(Checks& checks, std::int32_t context_tokens) {
    const Shape shape{8, 2, 128};
    Inputs inputs = make_inputs(checks, shape, {{context_tokens - 1, 1}, {10, 1}});
    inputs.position[1] = cuda::kIdleRow;
    OnDevice device(shape, inputs);
    device.decode(context_tokens);
    const std::vector<Bf16> out = device.out.download();
    const std::size_t width = out.size() / 2;
    bool zeros = true;
    bool finite = true;
    for (std::size_t i = 0; i < width; ++i) {
        finite = finite && std::isfinite(float_of(out[i]));
        zeros = zeros && out[width + i] == 0;
    }
    checks.note(zeros && finite, "idle row of decode, context " + std::to_string(context_tokens));
}

}  // namespace

void check_attention(Checks& checks) {
    const std::vector<Shape> shapes = {
        {32, 8, 128}, {8, 8, 64},   {14, 2, 64}, {8, 1, 128},     {12, 4, 96},
        {7, 1, 64},   {40, 1, 128}, {8, 4, 8},   {4, 2, 256, 16}, {8, 2, 128, 32},
    };
    for (const Shape& shape : shapes) {
        check_shape(checks, shape, {{0, 1}, {15, 1}, {16, 1}, {63, 1}, {64, 1}, {255, 1}, {256, 1}, {257, 1}, {700, 1}},
                    "single tokens");
        check_shape(checks, shape, {{126, 2}, {127, 1}, {128, 1}, {0, 128}, {383, 1}, {384, 3}}, "steps of 128");
        check_shape(checks, shape, {{0, 17}, {0, 129}, {3, 65}, {250, 63}, {511, 2}, {500, 100}}, "chunks");
    }
    const Shape llama{32, 8, 128};
    std::vector<Chunk> many;
    for (int i = 0; i < 150; ++i) {
        many.push_back({random_int(checks, 0, 600), 1});
    }
    check_shape(checks, llama, many, "150 sequences of mixed lengths");
    check_shape(checks, {16, 4, 128}, {{random_int(checks, 1000, 3000), random_int(checks, 1, 200)}}, "a long one");
    check_idle(checks, 40);
    check_idle(checks, 1000);
}

}  // namespace gpu_check
