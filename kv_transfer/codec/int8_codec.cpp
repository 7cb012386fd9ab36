#include <algorithm>
#include <cstring>

#include "kv_transfer/codec/bf16.h"
#include "kv_transfer/codec/chunk_codec.h"
#include "kv_transfer/codec/codecs.h"
#include "kv_transfer/codec/lane_kernels.h"

namespace kv_transfer {
namespace {

// Parameters: the scale of each row (plane, head, token), bf16: value = number * scale. Plain: the numbers, a byte
// each.

constexpr float kNumberMax = 127.0f;
constexpr float kScaleMin = 0x1p-100f;  // below it all is zero: the inverse must be a number

std::size_t rows_of(const ChunkShape& shape) {
    return std::size_t{shape.planes()} * shape.heads * shape.tokens;
}

/// Upwards, so that no number is above kNumberMax.
std::uint16_t bf16_above(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const auto cut = static_cast<std::uint16_t>(bits >> 16);
    return (bits & 0xffffu) != 0 && cut < 0x7f7f ? static_cast<std::uint16_t>(cut + 1) : cut;
}

class Int8Codec final : public ChunkCodec {
public:
    explicit Int8Codec(std::uint64_t numerics_id) : ChunkCodec(ChunkKind::int8, numerics_id) {}
    std::string_view name() const override { return "int8"; }
    bool has_level(std::uint32_t level) const override { return level == 0; }
    bool is_lossy(std::uint32_t) const override { return true; }

private:
    void encode_body(const Job& job, std::span<const std::byte> raw, ChunkWorkspace& workspace,
                     ChunkHeader&) const override {
        const ChunkShape& shape = job.shape;
        const LaneKernels& kernels = lane_kernels();
        ChunkSections& sections = workspace.sections;
        const std::size_t row_bytes = shape.head_dim * shape.value_bytes();
        sections.parameters.resize(rows_of(shape) * sizeof(std::uint16_t));
        sections.plain.resize(shape.values());
        const auto ones = grown(workspace.floats, std::size_t{2} * kHeadDimMax);
        const auto zeros = ones.subspan(kHeadDimMax);
        std::fill(ones.begin(), ones.begin() + kHeadDimMax, 1.0f);
        std::fill(zeros.begin(), zeros.end(), 0.0f);
        const auto numbers = grown(workspace.numbers, shape.head_dim);
        for (std::size_t row = 0; row < rows_of(shape); ++row) {
            const std::byte* values = raw.data() + row * row_bytes;
            const float wanted = kernels.largest(values, shape.head_dim, shape.is_bf16) / kNumberMax;
            const std::uint16_t scale = wanted < kScaleMin ? std::uint16_t{0} : bf16_above(wanted);
            std::memcpy(sections.parameters.data() + row * sizeof scale, &scale, sizeof scale);
            const float inverse = scale == 0 ? 0.0f : 1.0f / value_of(scale);
            const HeadRows head{.rows = 1,
                                .head_dim = shape.head_dim,
                                .is_bf16 = shape.is_bf16,
                                .mean = zeros.data(),
                                .channel_scale = ones.data(),
                                .row_scale = &inverse};
            kernels.quantise(head, values, numbers.data());
            std::byte* out = sections.plain.data() + row * shape.head_dim;
            for (std::uint32_t i = 0; i < shape.head_dim; ++i) {
                const std::int16_t number = numbers[i];
                out[i] = static_cast<std::byte>(number > 127 ? 127 : number < -127 ? -127 : number);
            }
        }
    }

    base::Result<void> decode_body(const Job& job, const ChunkView& view, ChunkWorkspace& workspace,
                                   std::span<std::byte> out) const override {
        const ChunkShape& shape = job.shape;
        if (view.parameters.size() != rows_of(shape) * sizeof(std::uint16_t) || view.plain.size() != shape.values() ||
            !view.escapes.empty() || !view.stream.empty()) {
            return damaged("sections of other sizes than the range has");
        }
        const LaneKernels& kernels = lane_kernels();
        const std::size_t row_bytes = shape.head_dim * shape.value_bytes();
        const auto ones = grown(workspace.floats, std::size_t{2} * kHeadDimMax);
        const auto zeros = ones.subspan(kHeadDimMax);
        std::fill(ones.begin(), ones.begin() + kHeadDimMax, 1.0f);
        std::fill(zeros.begin(), zeros.end(), 0.0f);
        const auto numbers = grown(workspace.numbers, shape.head_dim);
        for (std::size_t row = 0; row < rows_of(shape); ++row) {
            std::uint16_t bits;
            std::memcpy(&bits, view.parameters.data() + row * sizeof bits, sizeof bits);
            if (bits >= 0x7f80) { return damaged("a scale that is no number above 0"); }
            const float scale = value_of(bits);
            for (std::uint32_t i = 0; i < shape.head_dim; ++i) {
                numbers[i] = static_cast<std::int8_t>(view.plain[row * shape.head_dim + i]);
            }
            const HeadRows head{.rows = 1,
                                .head_dim = shape.head_dim,
                                .is_bf16 = shape.is_bf16,
                                .mean = zeros.data(),
                                .channel_scale = ones.data(),
                                .row_scale = &scale};
            kernels.restore(head, numbers.data(), out.data() + row * row_bytes);
        }
        return {};
    }
};

}  // namespace

std::unique_ptr<Codec> make_int8_codec(std::uint64_t numerics_id) {
    return std::make_unique<Int8Codec>(numerics_id);
}

}  // namespace kv_transfer
