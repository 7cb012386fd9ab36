#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/check.h"
#include "device/device.h"
#include "engine/exact_math.h"
#include "engine/kernels/backend.h"
#include "engine/kernels/float_formats.h"
#include "kv_cache/kv_store.h"

namespace kernels_test {

/// The fast families that this machine runs.
inline std::vector<std::string> fast_families() {
    std::vector<std::string> families;
    for (const char* family : {"avx2", "avx512", "amx"}) {
        if (engine::make_backend({.family = family, .threads = 1, .cpus = {}})) { families.emplace_back(family); }
    }
    return families;
}

inline std::unique_ptr<engine::Backend> backend(std::string_view family, std::uint32_t threads = 1) {
    auto made = engine::make_backend({.family = family, .threads = threads, .cpus = {}});
    CHECK(made.has_value(), made.error().message);
    return std::move(*made);
}

/// Memory that ends (to the byte) at a page nobody may touch; filled with NaN; the bytes in front are watched.
template <class T>
class Guarded {
public:
    explicit Guarded(std::size_t count) : count_(count) {
        const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
        inner_ = (count * sizeof(T) + kFront + page - 1) / page * page;
        total_ = inner_ + 2 * page;
        base_ = static_cast<std::byte*>(mmap(nullptr, total_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        CHECK(base_ != MAP_FAILED);
        CHECK(mprotect(base_ + page, inner_, PROT_READ | PROT_WRITE) == 0);
        std::memset(base_ + page, 0xff, inner_);
        begin_ = base_ + page + inner_ - count * sizeof(T);
    }
    ~Guarded() { munmap(base_, total_); }
    Guarded(const Guarded&) = delete;
    Guarded& operator=(const Guarded&) = delete;

    T* data() { return reinterpret_cast<T*>(begin_); }
    std::size_t size() const { return count_; }
    T& operator[](std::size_t i) { return data()[i]; }
    std::vector<T> values() { return {data(), data() + count_}; }
    /// Whether nobody wrote in front of the data.
    bool front_untouched() const {
        for (std::size_t i = 1; i <= kFront; ++i) {
            if (*(begin_ - i) != std::byte{0xff}) { return false; }
        }
        return true;
    }

private:
    static constexpr std::size_t kFront = 256;
    std::size_t count_;
    std::size_t inner_ = 0;
    std::size_t total_ = 0;
    std::byte* base_ = nullptr;
    std::byte* begin_ = nullptr;
};

using Random = std::mt19937;

inline std::uint32_t pick(Random& random, std::uint32_t low, std::uint32_t high) {
    return std::uniform_int_distribution<std::uint32_t>{low, high}(random);
}
template <class T>
T one_of(Random& random, const std::vector<T>& choices) {
    return choices[pick(random, 0, static_cast<std::uint32_t>(choices.size()) - 1)];
}
/// Normal numbers; exactly representable in bf16 when asked.
inline void fill(Random& random, float* to, std::size_t count, bool as_bf16 = false, float deviation = 1.0f) {
    std::normal_distribution<float> normal{0.0f, deviation};
    for (std::size_t i = 0; i < count; ++i) {
        const float value = normal(random);
        to[i] = as_bf16 ? engine::round_to_bf16(value) : value;
    }
}
inline std::vector<float> normals(Random& random, std::size_t count, bool as_bf16 = false, float deviation = 1.0f) {
    std::vector<float> values(count);
    fill(random, values.data(), count, as_bf16, deviation);
    return values;
}

/// A packed random matrix in guarded memory.
struct Matrix {
    Matrix(Random& random, engine::WeightFormat format, std::uint32_t outputs, std::uint32_t inputs)
        : memory(engine::packed_bytes(format, outputs, inputs)) {
        plain = normals(random, std::size_t{outputs} * inputs, false, 1.0f / std::sqrt(static_cast<float>(inputs)));
        engine::pack_matrix(engine::SourceFormat::f32, reinterpret_cast<const std::byte*>(plain.data()), outputs,
                            inputs, format, memory.data());
        packed = {.format = format, .outputs = outputs, .inputs = inputs, .data = memory.data()};
    }
    std::vector<float> plain;
    Guarded<std::byte> memory;
    engine::PackedMatrix packed;
};

inline bool same_bits(const float* a, const float* b, std::size_t count) {
    return std::memcmp(a, b, count * sizeof(float)) == 0;
}

/// Largest |a - b|, NaN counting as infinite, over the largest |b| (at least 1e-30).
inline double error_of(const float* a, const float* b, std::size_t count) {
    double most = 1e-30;
    double error = 0;
    for (std::size_t i = 0; i < count; ++i) {
        const double difference = std::abs(double{a[i]} - b[i]);
        error = std::max(error, std::isnan(difference) ? std::numeric_limits<double>::infinity() : difference);
        most = std::max(most, std::abs(double{b[i]}));
    }
    return error / most;
}

inline engine::RopeTable rope_table(std::uint32_t head_dim, std::uint32_t positions) {
    engine::RopeTable table{.head_dim = head_dim, .cosines = {}, .sines = {}};
    for (std::uint32_t p = 0; p < positions; ++p) {
        for (std::uint32_t i = 0; i < head_dim / 2; ++i) {
            const double angle = p * engine::exact::pow(10000.0, -2.0 * i / head_dim);
            const engine::exact::SineCosine both = engine::exact::sine_cosine(angle);
            table.cosines.push_back(static_cast<float>(both.cosine));
            table.sines.push_back(static_cast<float>(both.sine));
        }
    }
    return table;
}

inline base::ModelShape shape_of(std::uint32_t layers, std::uint32_t heads_q, std::uint32_t heads_kv,
                                 std::uint32_t head_dim) {
    base::ModelShape shape;
    shape.layers = layers;
    shape.heads_q = heads_q;
    shape.heads_kv = heads_kv;
    shape.head_dim = head_dim;
    shape.hidden = heads_q * head_dim;
    shape.context_tokens = 4096;
    return shape;
}

/// A store full of NaN, and sequences with blocks in random order.
struct KvWorld {
    KvWorld(Random& random, const base::ModelShape& model, kv_cache::KvDtype dtype, kv_cache::TileOrder order,
            std::uint32_t block_tokens, std::vector<std::uint32_t> sequence_tokens)
        : shape(model), tokens(std::move(sequence_tokens)) {
        const auto layout = kv_cache::KvLayout::make(shape, {.dtype = dtype, .order = order}, block_tokens);
        CHECK(layout.has_value(), layout.error().message);
        std::uint32_t total = 1;
        for (const std::uint32_t count : tokens) {
            total += layout->blocks_for(count);
        }
        auto made = kv_cache::KvStore::make(device::host_device(), *layout, total);
        CHECK(made.has_value(), made.error().message);
        store = std::make_unique<kv_cache::KvStore>(std::move(*made));
        std::memset(store->block(base::BlockId{0}), 0xff, layout->block_bytes() * total);
        std::vector<base::BlockId> free;
        for (std::uint32_t i = 0; i < total; ++i) {
            free.push_back(base::BlockId{i});
        }
        std::shuffle(free.begin(), free.end(), random);
        for (const std::uint32_t count : tokens) {
            blocks.emplace_back();
            for (std::uint32_t i = 0; i < layout->blocks_for(count); ++i) {
                blocks.back().push_back(free.back());
                free.pop_back();
            }
        }
    }

    base::ModelShape shape;
    std::vector<std::uint32_t> tokens;
    std::unique_ptr<kv_cache::KvStore> store;
    std::vector<std::vector<base::BlockId>> blocks;
};

}  // namespace kernels_test
