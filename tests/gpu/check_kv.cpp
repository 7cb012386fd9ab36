#include "tests/gpu/paged.h"

namespace gpu_check {
namespace {

namespace cuda = engine::cuda;

struct RopeCase {
    std::int32_t heads_q;
    std::int32_t kv_heads;
    std::int32_t head_dim;
    std::int32_t block_tokens;
    bool norm;
    bool bias;
};

void check_rope(Checks& checks, const RopeCase& c) {
    constexpr std::int32_t kLayer = 1;
    constexpr float kEps = 1e-6f;
    const std::vector<std::int32_t> lengths = {1, 40, 300};
    PagedKv kv = PagedKv::make(checks, c.kv_heads, c.head_dim, c.block_tokens, lengths);
    // Rows: the only token of sequence 0, a chunk of sequence 1, an idle row, single tokens of sequence 2.
    std::vector<std::int32_t> sequence = {0};
    std::vector<std::int32_t> position = {0};
    for (std::int32_t p = 5; p < 40; ++p) {
        sequence.push_back(1);
        position.push_back(p);
    }
    sequence.insert(sequence.end(), {0, 2, 2});
    position.insert(position.end(), {cuda::kIdleRow, 299, 17});

    const auto rows = static_cast<std::int32_t>(sequence.size());
    const std::int32_t heads = c.heads_q + 2 * c.kv_heads;
    const std::int32_t d = c.head_dim;
    const std::int32_t half = d / 2;
    const std::vector<Bf16> qkv = random_bf16(checks, static_cast<std::size_t>(rows * heads * d));
    const std::vector<float> bias = random_floats(checks, static_cast<std::size_t>(heads * d));
    const std::vector<float> q_norm = random_floats(checks, static_cast<std::size_t>(d));
    const std::vector<float> k_norm = random_floats(checks, static_cast<std::size_t>(d));
    std::vector<float> cosines(static_cast<std::size_t>(300 * half));
    std::vector<float> sines(cosines.size());
    for (std::int32_t p = 0; p < 300; ++p) {
        for (std::int32_t i = 0; i < half; ++i) {
            const double angle = p * std::pow(10000.0, -2.0 * i / d);
            cosines[static_cast<std::size_t>(p * half + i)] = static_cast<float>(std::cos(angle));
            sines[static_cast<std::size_t>(p * half + i)] = static_cast<float>(std::sin(angle));
        }
    }
    const DeviceArray<Bf16> device_qkv(qkv);
    const DeviceArray<float> device_bias(bias);
    const DeviceArray<float> device_q_norm(q_norm);
    const DeviceArray<float> device_k_norm(k_norm);
    const DeviceArray<float> device_cosines(cosines);
    const DeviceArray<float> device_sines(sines);
    const DeviceArray<std::int32_t> device_tables(kv.tables);
    const DeviceArray<std::int32_t> device_sequence(sequence);
    const DeviceArray<std::int32_t> device_position(position);
    DeviceArray<Bf16> device_pool(kv.pool);
    DeviceArray<Bf16> q(static_cast<std::size_t>(rows * c.heads_q * d));

    cuda::RopeAppendArguments a;
    a.qkv = device_qkv.get();
    a.qkv_bias = c.bias ? device_bias.get() : nullptr;
    a.rows = rows;
    a.heads_q = c.heads_q;
    a.cosines = device_cosines.get();
    a.sines = device_sines.get();
    a.q_norm = c.norm ? device_q_norm.get() : nullptr;
    a.k_norm = c.norm ? device_k_norm.get() : nullptr;
    a.norm_eps = kEps;
    a.map = {device_tables.get(), kv.table_stride, device_sequence.get(), device_position.get()};
    a.kv = kv.layer_view(device_pool.get(), kLayer);
    a.q = q.get();
    GPU_REQUIRE(cuda::rope_and_append(a, nullptr));

    std::vector<double> q_reference(q.size(), 0);
    std::vector<double> pool_reference(kv.pool.size(), 0);
    std::vector<char> written(kv.pool.size(), 0);
    for (std::int32_t row = 0; row < rows; ++row) {
        const std::int32_t p = position[static_cast<std::size_t>(row)];
        if (p < 0) { continue; }
        for (std::int32_t head = 0; head < heads; ++head) {
            const bool is_q = head < c.heads_q;
            const bool is_v = head >= c.heads_q + c.kv_heads;
            std::vector<double> x(static_cast<std::size_t>(d));
            double squares = 0;
            for (std::int32_t i = 0; i < d; ++i) {
                double& value = x[static_cast<std::size_t>(i)];
                value = number_of(qkv[static_cast<std::size_t>((row * heads + head) * d + i)]);
                if (c.bias) { value += number_of(bias[static_cast<std::size_t>(head * d + i)]); }
                squares += value * value;
            }
            if (c.norm && !is_v) {
                for (std::int32_t i = 0; i < d; ++i) {
                    x[static_cast<std::size_t>(i)] *= number_of((is_q ? q_norm : k_norm)[static_cast<std::size_t>(i)]) /
                                                      std::sqrt(squares / d + number_of(kEps));
                }
            }
            for (std::int32_t i = 0; i < d; ++i) {
                double value = x[static_cast<std::size_t>(i)];
                if (!is_v) {
                    const auto at = static_cast<std::size_t>(p * half + i % half);
                    const double cosine = number_of(cosines[at]);
                    const double sine = number_of(sines[at]);
                    value = i < half ? value * cosine - x[static_cast<std::size_t>(half + i)] * sine
                                     : value * cosine + x[static_cast<std::size_t>(i - half)] * sine;
                }
                if (is_q) {
                    q_reference[static_cast<std::size_t>((row * c.heads_q + head) * d + i)] = value;
                } else {
                    const std::size_t at = kv.at(sequence[static_cast<std::size_t>(row)], kLayer, is_v ? 1 : 0,
                                                 (head - c.heads_q) % c.kv_heads, p) +
                                           static_cast<std::size_t>(i);
                    pool_reference[at] = value;
                    written[at] = 1;
                }
            }
        }
    }
    const std::string name = "rope_and_append heads " + std::to_string(c.heads_q) + "/" + std::to_string(c.kv_heads) +
                             " head_dim " + std::to_string(d) + " blocks of " + std::to_string(c.block_tokens) +
                             (c.norm ? " norm" : "") + (c.bias ? " bias" : "");
    note_close(checks, name + " (q)", q, q_reference, kBf16Tolerance);
    const std::vector<Bf16> pool = device_pool.download();
    std::vector<Bf16> new_values;
    std::vector<double> new_reference;
    std::size_t changed = 0;
    for (std::size_t i = 0; i < pool.size(); ++i) {
        if (written[i] != 0) {
            new_values.push_back(pool[i]);
            new_reference.push_back(pool_reference[i]);
        } else {
            changed += pool[i] != kv.pool[i] ? 1u : 0u;
        }
    }
    const Difference difference = difference_of(new_values, new_reference);
    checks.note(
        difference.finite && difference.relative <= kBf16Tolerance && changed == 0 && device_pool.guards_intact(),
        name + " (pool)",
        "relative error " + std::to_string(difference.relative) + ", " + std::to_string(changed) +
            " elements changed that are nobody's");
}

void check_copies(Checks& checks, std::int32_t head_dim, std::int32_t block_tokens) {
    const std::vector<std::int32_t> lengths = {100, 33};
    PagedKv kv = PagedKv::make(checks, 3, head_dim, block_tokens, lengths);
    kv.layers = 4;
    kv.pool.assign(static_cast<std::size_t>(kv.blocks) * kv.block_elements(), 0xffff);
    kv.fill(checks, 0, 100);
    const DeviceArray<std::int32_t> tables(kv.tables);
    DeviceArray<Bf16> pool(kv.pool);
    cuda::KvCopyArguments a;
    a.kv = kv.layer_view(pool.get(), 0);
    a.layer_stride = kv.layer_elements() * sizeof(Bf16);
    a.blocks = tables.get();
    a.layer_begin = 1;
    a.layer_end = 3;
    a.token_begin = 7;
    a.token_end = 93;
    std::vector<double> wire;
    std::vector<std::size_t> places;
    for (std::int32_t layer = a.layer_begin; layer < a.layer_end; ++layer) {
        for (std::int32_t part = 0; part < 2; ++part) {
            for (std::int32_t head = 0; head < kv.kv_heads; ++head) {
                for (std::int32_t token = a.token_begin; token < a.token_end; ++token) {
                    for (std::int32_t i = 0; i < head_dim; ++i) {
                        places.push_back(kv.at(0, layer, part, head, token) + static_cast<std::size_t>(i));
                        wire.push_back(number_of(kv.pool[places.back()]));
                    }
                }
            }
        }
    }
    DeviceArray<Bf16> buffer(wire.size());
    GPU_REQUIRE(cuda::kv_gather(a, buffer.get(), nullptr));
    const std::string name = "head_dim " + std::to_string(head_dim) + " blocks of " + std::to_string(block_tokens);
    note_close(checks, "kv_gather " + name, buffer, wire, 0);

    // Back into an empty pool: exactly these places are filled.
    DeviceArray<Bf16> empty(kv.pool.size());
    a.kv = kv.layer_view(empty.get(), 0);
    GPU_REQUIRE(cuda::kv_scatter(a, buffer.get(), nullptr));
    std::vector<Bf16> expected(kv.pool.size(), 0xffff);
    for (const std::size_t place : places) {
        expected[place] = kv.pool[place];
    }
    checks.note(empty.download() == expected && empty.guards_intact(), "kv_scatter " + name);
}

}  // namespace

void check_kv(Checks& checks) {
    const RopeCase cases[] = {
        {32, 8, 128, 16, false, false}, {32, 8, 128, 16, true, false}, {14, 2, 64, 16, false, true},
        {8, 8, 96, 32, true, true},     {8, 4, 8, 16, false, false},   {4, 2, 6, 48, true, false},
        {7, 1, 256, 16, false, false},
    };
    for (const RopeCase& c : cases) {
        check_rope(checks, c);
    }
    check_copies(checks, 128, 16);
    check_copies(checks, 64, 32);
    check_copies(checks, 6, 16);
}

}  // namespace gpu_check
