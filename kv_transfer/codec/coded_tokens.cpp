#include "kv_transfer/codec/coded_tokens.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "kv_transfer/codec/bf16.h"
#include "kv_transfer/codec/lane_kernels.h"

namespace kv_transfer {
namespace {

constexpr std::uint32_t kRowsSeen = 32;  // of a head, for means and deviations
constexpr std::uint32_t kMeansTokensMin = 64;

}  // namespace

PlaneFit fit_plane(const ChunkShape& shape, const std::byte* values, const Coded& coded, const Rotation& rotation,
                   std::span<float> means) {
    const std::size_t head_bytes = std::size_t{shape.tokens} * shape.head_dim * shape.value_bytes();
    const std::size_t skipped = std::size_t{coded.first} * shape.head_dim * shape.value_bytes();
    const std::uint32_t step = std::max(1u, coded.tokens / kRowsSeen);
    const auto rows = static_cast<float>((coded.tokens + step - 1) / step);
    double saved_bits = 0;  // of a token
    double ratios = 1;      // product of square / variance: one logarithm for many channels
    double squares = 0;
    double centred = 0;
    for (std::uint32_t head = 0; head < shape.heads; ++head) {
        std::array<float, kHeadDimMax> sums{};
        std::array<float, kHeadDimMax> square_sums{};
        lane_kernels().moments({.rows = coded.tokens,
                                .head_dim = shape.head_dim,
                                .is_bf16 = shape.is_bf16,
                                .cosines = rotation.cosines,
                                .sines = rotation.sines},
                               values + head * head_bytes + skipped, step, sums.data(), square_sums.data());
        for (std::uint32_t i = 0; i < shape.head_dim; ++i) {
            const float mean = value_of(bf16_near(sums[i] / rows));
            const float square = square_sums[i] / rows;
            const float variance = std::max(square - mean * mean, 0.0f);
            means[head * shape.head_dim + i] = mean;
            squares += static_cast<double>(square);
            centred += static_cast<double>(variance);
            if (variance > 0) { ratios *= static_cast<double>(square / variance); }
            if (ratios > 0x1p700) {  // another ratio of floats fits
                saved_bits += 0.5 * std::log2(ratios);
                ratios = 1;
            }
        }
    }
    saved_bits = (saved_bits + 0.5 * std::log2(ratios)) * coded.tokens;
    PlaneFit fit;
    fit.has_means = coded.tokens >= kMeansTokensMin && saved_bits > 24.0 * shape.channels();
    if (!fit.has_means) { std::fill(means.begin(), means.end(), 0.0f); }
    fit.deviation = static_cast<float>(std::sqrt((fit.has_means ? centred : squares) / shape.channels()));
    return fit;
}

void put_means(std::span<const float> means, BackwardBytes& out) {
    std::byte* to = out.put(means.size() * sizeof(std::uint16_t));
    for (std::size_t i = 0; i < means.size(); ++i) {
        const std::uint16_t bits = bf16_near(means[i]);
        std::memcpy(to + i * sizeof bits, &bits, sizeof bits);
    }
}

bool read_means(std::span<const std::byte> bytes, std::span<float> means) {
    for (std::size_t i = 0; i < means.size(); ++i) {
        std::uint16_t bits;
        std::memcpy(&bits, bytes.data() + i * sizeof bits, sizeof bits);
        if ((bits & 0x7f80) == 0x7f80) { return false; }
        means[i] = value_of(bits);
    }
    return true;
}

void put_raw_tokens(const ChunkShape& shape, const Coded& coded, std::span<const std::byte> raw, BackwardBytes& out) {
    const std::size_t row_bytes = shape.head_dim * shape.value_bytes();
    const std::size_t head_bytes = shape.tokens * row_bytes;
    const std::size_t first = coded.first * row_bytes;
    const std::size_t last = head_bytes - first - coded.tokens * row_bytes;
    if (first + last == 0) { return; }
    const std::size_t heads = std::size_t{shape.planes()} * shape.heads;
    std::byte* to = out.put(heads * (first + last));
    for (std::size_t row = 0; row < heads; ++row) {
        const auto head = raw.subspan(row * head_bytes, head_bytes);
        to = std::copy_n(head.begin(), first, to);
        to = std::copy_n(head.end() - static_cast<std::ptrdiff_t>(last), last, to);
    }
}

bool take_raw_tokens(const ChunkShape& shape, const Coded& coded, SectionReader& plain, std::span<std::byte> out) {
    const std::size_t row_bytes = shape.head_dim * shape.value_bytes();
    const std::size_t head_bytes = shape.tokens * row_bytes;
    const std::size_t first = coded.first * row_bytes;
    const std::size_t last = head_bytes - first - coded.tokens * row_bytes;
    const std::size_t heads = std::size_t{shape.planes()} * shape.heads;
    if (!plain.has(heads * (first + last))) { return false; }
    for (std::size_t row = 0; row < heads; ++row) {
        std::byte* head = out.data() + row * head_bytes;
        const auto begin = plain.take(first);
        std::copy(begin.begin(), begin.end(), head);
        const auto end = plain.take(last);
        std::copy(end.begin(), end.end(), head + head_bytes - last);
    }
    return true;
}

}  // namespace kv_transfer
