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
        const std::size_t row_bytes = shape.head_dim * shape.value_bytes();
        std::byte* scales = workspace.sections.parameters.put(rows_of(shape) * sizeof(std::uint16_t));
        auto* bytes = reinterpret_cast<std::int8_t*>(workspace.sections.plain.put(shape.values()));
        const auto numbers = grown(workspace.numbers, std::size_t{shape.tokens} * shape.head_dim);
        const auto inverses = grown(workspace.floats, shape.tokens);
        for (std::size_t head = 0; head < std::size_t{shape.planes()} * shape.heads; ++head) {
            const std::byte* values = raw.data() + head * shape.tokens * row_bytes;
            for (std::uint32_t token = 0; token < shape.tokens; ++token) {
                const float wanted =
                    kernels.largest(values + token * row_bytes, shape.head_dim, shape.is_bf16) / kNumberMax;
                const std::uint16_t scale = wanted < kScaleMin ? std::uint16_t{0} : bf16_above(wanted);
                std::memcpy(scales, &scale, sizeof scale);
                scales += sizeof scale;
                inverses[token] = scale == 0 ? 0.0f : 1.0f / value_of(scale);
            }
            kernels.quantise(head_of(shape, inverses.data()), values, numbers.data());
            kernels.to_bytes(numbers.data(), numbers.size(), bytes);
            bytes += numbers.size();
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
        const auto* bytes = reinterpret_cast<const std::int8_t*>(view.plain.data());
        const auto numbers = grown(workspace.numbers, std::size_t{shape.tokens} * shape.head_dim);
        const auto scales = grown(workspace.floats, shape.tokens);
        SectionReader parameters(view.parameters);
        for (std::size_t head = 0; head < std::size_t{shape.planes()} * shape.heads; ++head) {
            for (float& scale : scales) {
                const auto bits = parameters.number<std::uint16_t>();
                if (bits >= 0x7f80) { return damaged("a scale that is no number above 0"); }
                scale = value_of(bits);
            }
            kernels.from_bytes(bytes, numbers.size(), numbers.data());
            bytes += numbers.size();
            kernels.restore(head_of(shape, scales.data()), numbers.data(),
                            out.data() + head * shape.tokens * row_bytes);
        }
        return {};
    }

    /// A head of all tokens, each with a scale.
    HeadRows head_of(const ChunkShape& shape, const float* row_scales) const {
        return {.rows = shape.tokens,
                .head_dim = shape.head_dim,
                .is_bf16 = shape.is_bf16,
                .mean = constants_.zeros.data(),
                .channel_scale = constants_.ones.data(),
                .row_scale = row_scales};
    }

    const PlainChannels constants_;
};

}  // namespace

std::unique_ptr<Codec> make_int8_codec(std::uint64_t numerics_id) {
    return std::make_unique<Int8Codec>(numerics_id);
}

}  // namespace kv_transfer
