#include <algorithm>
#include <array>
#include <cstring>

#include "kv_transfer/codec/bf16.h"
#include "kv_transfer/codec/chunk_codec.h"
#include "kv_transfer/codec/codecs.h"
#include "kv_transfer/codec/lane_kernels.h"
#include "kv_transfer/codec/number_coder.h"

namespace kv_transfer {
namespace {

// Parameters, for each plane: the scale of each token (bf16), a byte that says whether the plane has coefficients, then
// these (4 bits a channel, sixteenths), then the bytes of number_coder.h for each group: one piece of all tokens, or
// with coefficients two, the first tokens of each ten and the others.

constexpr std::uint32_t kTen = 10;             // tokens that predict from their first one
constexpr float kCoefficientUnit = 1.0f / 16;  // as LaneKernels::subtract_predicted has it
constexpr std::uint32_t kCoefficientMax = 15;
constexpr std::uint32_t kTensSeen = 8;  // of a chunk, to find coefficients
constexpr float kEnergyLeftMax = 0.8f;  // of a channel, for its coefficient to pay

/// Largest number of a plane: CacheGen's bins / 2 - 1. Keys have 32 bins in the first third of the layers (10 of 32)
/// and 16 behind it at level 2; values 32 in the first sixteenth (2 of 32).
std::int32_t number_max(std::uint32_t level, std::uint32_t plane_layer, bool is_key, std::uint32_t layers_total) {
    constexpr std::int32_t kBins32 = 15;
    constexpr std::int32_t kBins16 = 7;
    constexpr std::int32_t kBins12 = 5;
    if (level >= 3) { return kBins32; }
    const std::uint32_t key_layers = level == 2 ? (layers_total * 10 + 31) / 32 : (layers_total * 20 + 31) / 32;
    const std::uint32_t value_layers = (layers_total + 15) / 16;
    const bool is_fine = plane_layer < (is_key ? key_layers : value_layers);
    if (level == 2) { return is_fine ? kBins32 : kBins16; }
    return is_fine ? kBins16 : kBins12;
}

/// Scale of the first token of ten over that of another one.
float ratio_of(float anchor_scale, float scale) {
    return scale == 0 ? 0.0f : std::min(anchor_scale / scale, 1024.0f);
}

std::size_t anchors_of(std::size_t tokens) {
    return (tokens + kTen - 1) / kTen;
}

/// Where a token's row is in a plane with coefficients: first the first ones of each ten, then the others.
std::size_t row_of(std::size_t token, std::size_t anchors) {
    return token % kTen == 0 ? token / kTen : anchors + token - token / kTen - 1;
}

class CacheGenCodec final : public ChunkCodec {
public:
    explicit CacheGenCodec(std::uint64_t numerics_id) : ChunkCodec(ChunkKind::cachegen, numerics_id) {}
    std::string_view name() const override { return "cachegen"; }
    bool has_level(std::uint32_t level) const override { return level >= 1 && level <= 3; }
    bool is_lossy(std::uint32_t) const override { return true; }
    std::uint32_t loss(std::uint32_t level) const override { return 4 - level; }

private:
    /// Sixteenths by which each channel predicts; false when no channel does.
    bool find_coefficients(const ChunkShape& shape, const std::int16_t* numbers, std::span<const float> scales,
                           std::vector<std::uint8_t>& coefficients) const {
        coefficients.assign(shape.channels(), 0);
        bool has_some = false;
        const std::uint32_t tens_step = std::max(1u, shape.tokens / kTen / kTensSeen);
        for (std::uint32_t head = 0; head < shape.heads; ++head) {
            const std::int16_t* rows = numbers + std::size_t{head} * shape.tokens * shape.head_dim;
            std::array<float, kHeadDimMax> both{};
            std::array<float, kHeadDimMax> anchor{};
            std::array<float, kHeadDimMax> own{};
            for (std::uint32_t token = 0; token < shape.tokens; ++token) {
                if (token % kTen == 0 || token / kTen % tens_step != 0) { continue; }
                const std::uint32_t first = token / kTen * kTen;
                const float ratio = ratio_of(scales[first], scales[token]);
                lane_kernels().correlate(rows + std::size_t{token} * shape.head_dim,
                                         rows + std::size_t{first} * shape.head_dim, ratio, shape.head_dim, both.data(),
                                         anchor.data(), own.data());
            }
            for (std::uint32_t i = 0; i < shape.head_dim; ++i) {
                if (both[i] <= 0 || both[i] * both[i] < (1 - kEnergyLeftMax) * anchor[i] * own[i]) { continue; }
                const float wanted = both[i] / anchor[i] / kCoefficientUnit + 0.5f;
                const auto coefficient = static_cast<std::uint8_t>(std::min(wanted, float{kCoefficientMax}));
                coefficients[head * shape.head_dim + i] = coefficient;
                has_some = has_some || coefficient != 0;
            }
        }
        return has_some;
    }

    void encode_body(const Job& job, std::span<const std::byte> raw, ChunkWorkspace& workspace,
                     ChunkHeader& header) const override {
        const ChunkShape& shape = job.shape;
        const LaneKernels& kernels = lane_kernels();
        ChunkSections& sections = workspace.sections;
        const std::size_t row_bytes = shape.head_dim * shape.value_bytes();
        const std::size_t tokens = shape.tokens;
        const auto numbers = grown(workspace.numbers, shape.plane_values());
        const auto residuals = grown(workspace.more_numbers, shape.plane_values());
        const auto floats = grown(workspace.floats, 2 * tokens);
        const auto scales = floats.first(tokens);
        const auto inverses = floats.subspan(tokens);
        std::vector<std::uint8_t> coefficients;
        std::vector<std::uint16_t> scale_bits(tokens);
        NumberEncoder encoder(shape, workspace, shape.planes() * shape.groups() * tokens, header);
        for (std::uint32_t plane = shape.planes(); plane-- > 0;) {  // backwards, as the entropy stage goes
            const std::byte* values = raw.data() + plane * shape.plane_values() * shape.value_bytes();
            const auto largest = static_cast<float>(
                number_max(job.level, job.layer_begin + plane / 2, plane % 2 == 0, job.layers_total));
            for (std::size_t token = 0; token < tokens; ++token) {
                float scale = 0;
                for (std::uint32_t head = 0; head < shape.heads; ++head) {
                    const std::byte* row = values + (head * tokens + token) * row_bytes;
                    scale = std::max(scale, kernels.largest(row, shape.head_dim, shape.is_bf16));
                }
                const std::uint16_t bits = scale < 0x1p-100f ? std::uint16_t{0} : bf16_near(std::min(scale, 0x1p120f));
                scale_bits[token] = bits;
                scales[token] = value_of(bits);
                inverses[token] = bits == 0 ? 0.0f : largest / scales[token];
            }
            for (std::uint32_t head = 0; head < shape.heads; ++head) {
                const HeadRows rows{.rows = tokens,
                                    .head_dim = shape.head_dim,
                                    .is_bf16 = shape.is_bf16,
                                    .mean = constants_.zeros.data(),
                                    .channel_scale = constants_.ones.data(),
                                    .row_scale = inverses.data()};
                kernels.quantise(rows, values + head * tokens * row_bytes,
                                 numbers.data() + head * tokens * shape.head_dim);
            }
            const bool predicts = tokens > kTen && find_coefficients(shape, numbers.data(), scales, coefficients);
            if (predicts) {
                for_each_row(shape, scales, [&](const CodedRow& row) {
                    if (row.number == row.anchor) {
                        std::copy_n(numbers.data() + row.number, shape.head_dim, residuals.data() + row.coded);
                        return;
                    }
                    kernels.subtract_predicted(coefficients.data() + row.channel, numbers.data() + row.anchor,
                                               row.ratio, shape.head_dim, numbers.data() + row.number,
                                               residuals.data() + row.coded);
                });
            }
            const std::size_t anchors = anchors_of(tokens);
            for (std::uint32_t group = shape.groups(); group-- > 0;) {
                if (predicts) {
                    encoder.add({group, tokens, anchors, tokens - anchors}, residuals.data());
                    encoder.add({group, tokens, 0, anchors}, residuals.data());
                } else {
                    encoder.add({group, tokens, 0, tokens}, numbers.data());
                }
            }
            if (predicts) {
                std::byte* to = sections.parameters.put((coefficients.size() + 1) / 2);
                for (std::size_t i = 0; i < coefficients.size(); i += 2) {
                    const std::uint8_t second = i + 1 < coefficients.size() ? coefficients[i + 1] : std::uint8_t{0};
                    *to++ = static_cast<std::byte>(coefficients[i] | second << 4);
                }
            }
            sections.parameters.put_number(static_cast<std::uint8_t>(predicts ? 1 : 0));
            sections.parameters.put(std::as_bytes(std::span(scale_bits)));
        }
        encoder.end();
    }

    /// The first channel of a head and token.
    struct CodedRow {
        std::size_t number = 0;
        std::size_t anchor = 0;  // number of the first token of ten
        std::size_t coded = 0;   // place in coding order
        float ratio = 0;         // of the two tokens' scales
        std::size_t channel = 0;
    };
    /// Calls visit(row) for each head and token; first tokens come before the nine that predict from them.
    template <class Visit>
    static void for_each_row(const ChunkShape& shape, std::span<const float> scales, const Visit& visit) {
        const std::size_t anchors = anchors_of(shape.tokens);
        for (std::uint32_t head = 0; head < shape.heads; ++head) {
            const std::size_t begin = std::size_t{head} * shape.tokens;
            for (std::size_t token = 0; token < shape.tokens; ++token) {
                const std::size_t first = token / kTen * kTen;
                visit({.number = (begin + token) * shape.head_dim,
                       .anchor = (begin + first) * shape.head_dim,
                       .coded = (begin + row_of(token, anchors)) * shape.head_dim,
                       .ratio = ratio_of(scales[first], scales[token]),
                       .channel = std::size_t{head} * shape.head_dim});
            }
        }
    }

    /// A plane's parameters but for the pieces.
    struct PlaneParameters {
        std::span<const std::byte> scales;
        bool predicts = false;
        std::span<const std::byte> coefficients;
        std::span<const std::byte> pieces;
    };
    static bool read_plane(const ChunkShape& shape, SectionReader& reader, PlaneParameters& out) {
        if (!reader.has(shape.tokens * sizeof(std::uint16_t) + 1)) { return false; }
        out.scales = reader.take(shape.tokens * sizeof(std::uint16_t));
        const auto predicts = reader.number<std::uint8_t>();
        if (predicts > 1 || (predicts == 1 && shape.tokens <= kTen)) { return false; }
        out.predicts = predicts == 1;
        const std::size_t coefficient_bytes = out.predicts ? (shape.channels() + 1) / 2 : 0;
        const std::size_t pieces = std::size_t{shape.groups()} * (out.predicts ? 2 : 1);
        if (!reader.has(coefficient_bytes + pieces)) { return false; }
        out.coefficients = reader.take(coefficient_bytes);
        out.pieces = reader.take(pieces);
        return true;
    }

    base::Result<void> decode_body(const Job& job, const ChunkView& view, ChunkWorkspace& workspace,
                                   std::span<std::byte> out) const override {
        const ChunkShape& shape = job.shape;
        const LaneKernels& kernels = lane_kernels();
        const std::size_t tokens = shape.tokens;
        const std::size_t anchors = anchors_of(tokens);
        const auto numbers = grown(workspace.numbers, shape.plane_values());
        const auto residuals = grown(workspace.more_numbers, shape.plane_values());
        const auto floats = grown(workspace.floats, 2 * tokens);
        const auto scales = floats.first(tokens);
        const auto steps = floats.subspan(tokens);
        const std::size_t row_bytes = shape.head_dim * shape.value_bytes();
        NumberDecoder decoder(shape, workspace, SectionReader(view.plain), SectionReader(view.escapes));
        if (auto begun = decoder.begin(view); !begun) { return begun; }
        SectionReader reader(view.parameters);
        PlaneParameters parameters;
        std::vector<std::uint8_t> coefficients;
        for (std::uint32_t plane = 0; plane < shape.planes(); ++plane) {
            if (!read_plane(shape, reader, parameters)) { return damaged("parameters end too early"); }
            const auto largest = static_cast<float>(
                number_max(job.level, job.layer_begin + plane / 2, plane % 2 == 0, job.layers_total));
            for (std::size_t token = 0; token < tokens; ++token) {
                std::uint16_t bits;
                std::memcpy(&bits, parameters.scales.data() + token * sizeof bits, sizeof bits);
                if (bits >= 0x7f80) { return damaged("a scale that is no number above 0"); }
                scales[token] = value_of(bits);
                steps[token] = scales[token] / largest;
            }
            base::Result<void> taken;
            std::size_t next = 0;
            std::int16_t* to = parameters.predicts ? residuals.data() : numbers.data();
            const auto take = [&](std::uint32_t group, std::size_t begin, std::size_t rows) {
                const auto piece = std::to_integer<std::uint8_t>(parameters.pieces[next++]);
                if (taken) { taken = decoder.take({group, tokens, begin, rows}, piece, to); }
            };
            for (std::uint32_t group = 0; group < shape.groups() && taken; ++group) {
                if (parameters.predicts) {
                    take(group, 0, anchors);
                    take(group, anchors, tokens - anchors);
                } else {
                    take(group, 0, tokens);
                }
            }
            if (!taken) { return taken; }
            if (parameters.predicts) {
                coefficients.resize(shape.channels());
                for (std::size_t i = 0; i < coefficients.size(); ++i) {
                    const auto pair = std::to_integer<std::uint8_t>(parameters.coefficients[i / 2]);
                    coefficients[i] = static_cast<std::uint8_t>(i % 2 == 0 ? pair & 15 : pair >> 4);
                }
                for_each_row(shape, scales, [&](const CodedRow& row) {
                    if (row.number == row.anchor) {
                        std::copy_n(residuals.data() + row.coded, shape.head_dim, numbers.data() + row.number);
                        return;
                    }
                    kernels.add_predicted(coefficients.data() + row.channel, numbers.data() + row.anchor, row.ratio,
                                          shape.head_dim, residuals.data() + row.coded, numbers.data() + row.number);
                });
            }
            for (std::uint32_t head = 0; head < shape.heads; ++head) {
                const HeadRows rows{.rows = tokens,
                                    .head_dim = shape.head_dim,
                                    .is_bf16 = shape.is_bf16,
                                    .mean = constants_.zeros.data(),
                                    .channel_scale = constants_.ones.data(),
                                    .row_scale = steps.data()};
                kernels.restore(
                    rows, numbers.data() + head * tokens * shape.head_dim,
                    out.data() + plane * shape.plane_values() * shape.value_bytes() + head * tokens * row_bytes);
            }
        }
        if (!reader.empty()) { return damaged("too many parameters"); }
        return decoder.end();
    }

    const PlainChannels constants_;
};

}  // namespace

std::unique_ptr<Codec> make_cachegen_codec(std::uint64_t numerics_id) {
    return std::make_unique<CacheGenCodec>(numerics_id);
}

}  // namespace kv_transfer
