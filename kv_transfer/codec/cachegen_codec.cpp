#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "kv_transfer/codec/bf16.h"
#include "kv_transfer/codec/chunk_codec.h"
#include "kv_transfer/codec/codecs.h"
#include "kv_transfer/codec/coded_tokens.h"
#include "kv_transfer/codec/lane_kernels.h"
#include "kv_transfer/codec/number_coder.h"

namespace kv_transfer {
namespace {

// Parameters of the released levels, for each plane: the scale of each token (bf16), a byte that says whether the plane
// has coefficients, then these (4 bits a channel, sixteenths), then the bytes of number_coder.h for each group: one
// piece of all tokens, or with coefficients two, the first tokens of each ten and the others.
//
// Of the sorted levels: the largest number of the plane (one byte), the largest scale (f32), the scale of each coded
// token below that (one byte: sixteenths of an octave; 255: 0), a byte of the bits below, means (one byte a channel,
// 127ths of the largest scale), coefficients and spreads (4 bits a channel) where the bits say so, then the pieces as
// above. With spreads the groups are channels in the order of their spread, not neighbours. The first tokens of a
// sequence travel as they are, in the plain section before what number_coder.h puts there.

constexpr std::uint32_t kReleasedLevels = 3;
constexpr std::uint32_t kLevels = 6;
constexpr std::uint8_t kPredicts = 1;  // bits of a plane
constexpr std::uint8_t kHasMeans = 2;
constexpr std::uint8_t kIsSorted = 4;
constexpr std::uint32_t kSpreads = 16;
constexpr std::uint32_t kSortTokensMin = 64;
constexpr std::size_t kRowsSeen = 32;  // of a plane, to find spreads and shares
/// Of the largest values, once means are taken away: where less is left, steps are as if it were this (0096).
constexpr float kRestShareMin = 0.35f;

constexpr std::uint32_t kTen = 10;             // tokens that predict from their first one
constexpr float kCoefficientUnit = 1.0f / 16;  // as LaneKernels::subtract_predicted has it
constexpr std::uint32_t kCoefficientMax = 15;
constexpr std::uint32_t kTensSeen = 8;  // of a chunk, to find coefficients
constexpr float kEnergyLeftMax = 0.8f;  // of a channel, for its coefficient to pay

/// Largest numbers of the levels beyond the released ones. Noise on values hurts less the deeper the layer is, by a
/// factor of ten from the first to the last of SmolLM2-135M, on keys alike everywhere: docs/decisions/0096.
struct ThirdsOf {
    std::int32_t keys = 0;
    std::array<std::int32_t, 3> values{};  // by thirds of the layers
};
constexpr std::array<ThirdsOf, kLevels - kReleasedLevels> kThirds{{{7, {6, 4, 2}}, {10, {8, 5, 3}}, {15, {10, 6, 4}}}};

/// By level, 1 for the least loss: how far log-probabilities of SmolLM2-135M move.
constexpr std::array<std::uint32_t, kLevels> kLosses{6, 5, 1, 4, 3, 2};

/// Largest number of a plane: CacheGen's bins / 2 - 1. Keys have 32 bins in the first third of the layers (10 of 32)
/// and 16 behind it at level 2; values 32 in the first sixteenth (2 of 32).
std::int32_t number_max(std::uint32_t level, std::uint32_t plane_layer, bool is_key, std::uint32_t layers_total) {
    constexpr std::int32_t kBins32 = 15;
    constexpr std::int32_t kBins16 = 7;
    constexpr std::int32_t kBins12 = 5;
    if (level > kReleasedLevels) {
        const ThirdsOf& ours = kThirds[level - kReleasedLevels - 1];
        return is_key ? ours.keys : ours.values[std::min(3 * plane_layer / layers_total, 2u)];
    }
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

constexpr std::uint8_t kNoScale = 255;
/// 2 ^ (-i / 16).
constexpr std::array<float, 16> kSixteenths{
    1.0f,         0.957603281f, 0.917004043f, 0.87812608f,  0.840896415f, 0.805245166f, 0.771105413f, 0.738413073f,
    0.707106781f, 0.677127773f, 0.648419777f, 0.620928906f, 0.594603558f, 0.569394317f, 0.545253866f, 0.522136891f};

/// What a byte says of a token's scale.
float scale_of(float top, std::uint8_t code) {
    return code == kNoScale ? 0.0f : std::ldexp(top * kSixteenths[code % 16], -(code / 16));
}

/// The least scale that a byte can say and that is not below `scale`, at most `top`.
std::uint8_t code_of(float top, float scale) {
    if (scale == 0) { return kNoScale; }
    int exponent = 0;
    const float mantissa = std::frexp(scale / top, &exponent);  // 0.5 to 1
    int code = -16 * exponent;
    for (std::size_t i = 1; i < kSixteenths.size() && kSixteenths[i] >= mantissa; ++i) {
        ++code;
    }
    return static_cast<std::uint8_t>(std::clamp(code, 0, kNoScale - 1));
}

/// A channel's mean as a byte of 127ths of the largest scale, and back.
std::int8_t mean_code_of(float top, float mean) {
    return static_cast<std::int8_t>(std::lround(std::clamp(mean / top * 127.0f, -127.0f, 127.0f)));
}
float mean_of(float top, std::int8_t code) {
    return static_cast<float>(code) * (top / 127.0f);
}

/// 4 bits of each channel, two a byte; and back.
void put_nibbles(std::span<const std::uint8_t> values, BackwardBytes& out) {
    std::byte* to = out.put((values.size() + 1) / 2);
    for (std::size_t i = 0; i < values.size(); i += 2) {
        const std::uint8_t second = i + 1 < values.size() ? values[i + 1] : std::uint8_t{0};
        *to++ = static_cast<std::byte>(values[i] | second << 4);
    }
}

void read_nibbles(std::span<const std::byte> bytes, std::span<std::uint8_t> values) {
    for (std::size_t i = 0; i < values.size(); ++i) {
        const auto pair = std::to_integer<std::uint8_t>(bytes[i / 2]);
        values[i] = static_cast<std::uint8_t>(i % 2 == 0 ? pair & 15 : pair >> 4);
    }
}

/// How far the numbers of each channel are from 0: two thirds of an octave a step. False where sorting channels by it
/// does not pay: a step that a channel is off in its group costs about a tenth of a bit a token.
bool find_spreads(const ChunkShape& shape, std::size_t tokens, const std::int16_t* numbers,
                  std::span<std::uint8_t> spreads) {
    // Of the mean magnitude: 2 ^ ((i - 8.5) / 1.5).
    constexpr std::array<float, kSpreads - 1> kEnds{0.0196863f, 0.03125f, 0.0496063f, 0.0787451f, 0.125f,
                                                    0.198425f,  0.31498f, 0.5f,       0.793701f,  1.25992f,
                                                    2.0f,       3.1748f,  5.03968f,   8.0f,       12.6992f};
    if (tokens < kSortTokensMin || shape.groups() < 2) { return false; }
    const std::size_t step = std::max<std::size_t>(1, tokens / kRowsSeen);
    const auto rows = static_cast<float>((tokens + step - 1) / step);
    for (std::uint32_t head = 0; head < shape.heads; ++head) {
        std::array<std::uint32_t, kHeadDimMax> sums{};
        for (std::size_t token = 0; token < tokens; token += step) {
            const std::int16_t* row = numbers + (std::size_t{head} * tokens + token) * shape.head_dim;
            for (std::uint32_t i = 0; i < shape.head_dim; ++i) {
                sums[i] += static_cast<std::uint32_t>(row[i] < 0 ? -row[i] : row[i]);
            }
        }
        for (std::uint32_t i = 0; i < shape.head_dim; ++i) {
            const float mean = static_cast<float>(sums[i]) / rows;
            spreads[head * shape.head_dim + i] =
                static_cast<std::uint8_t>(std::upper_bound(kEnds.begin(), kEnds.end(), mean) - kEnds.begin());
        }
    }
    std::uint64_t off = 0;
    for (std::uint32_t begin = 0; begin < shape.channels(); begin += kLanes) {
        const auto group = spreads.subspan(begin, std::min<std::size_t>(kLanes, shape.channels() - begin));
        const auto middle = group.size() / 2;
        std::array<std::uint8_t, kLanes> sorted{};
        std::copy(group.begin(), group.end(), sorted.begin());
        std::nth_element(sorted.begin(), sorted.begin() + static_cast<std::ptrdiff_t>(middle),
                         sorted.begin() + static_cast<std::ptrdiff_t>(group.size()));
        for (const std::uint8_t spread : group) {
            off +=
                static_cast<std::uint64_t>(spread < sorted[middle] ? sorted[middle] - spread : spread - sorted[middle]);
        }
    }
    return off * tokens > 40 * std::uint64_t{shape.channels()};
}

class CacheGenCodec final : public ChunkCodec {
public:
    explicit CacheGenCodec(std::uint64_t numerics_id) : ChunkCodec(ChunkKind::cachegen, numerics_id) {}
    std::string_view name() const override { return "cachegen"; }
    bool has_level(std::uint32_t level) const override { return level >= 1 && level <= kLevels; }
    bool is_lossy(std::uint32_t) const override { return true; }
    std::uint32_t loss(std::uint32_t level) const override { return kLosses[level - 1]; }

private:
    /// Sixteenths by which each channel predicts; false when no channel does.
    bool find_coefficients(const ChunkShape& shape, const std::int16_t* numbers, std::span<const float> scales,
                           std::vector<std::uint8_t>& coefficients) const {
        const auto tokens = static_cast<std::uint32_t>(scales.size());
        coefficients.assign(shape.channels(), 0);
        bool has_some = false;
        const std::uint32_t tens_step = std::max(1u, tokens / kTen / kTensSeen);
        for (std::uint32_t head = 0; head < shape.heads; ++head) {
            const std::int16_t* rows = numbers + std::size_t{head} * tokens * shape.head_dim;
            std::array<float, kHeadDimMax> both{};
            std::array<float, kHeadDimMax> anchor{};
            std::array<float, kHeadDimMax> own{};
            for (std::uint32_t token = 0; token < tokens; ++token) {
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

    /// What is left of tokens' largest magnitudes once means are taken away, as a share: of some tokens.
    static float rest_share(const ChunkShape& shape, const std::byte* from, std::size_t head_bytes,
                            std::span<const float> means, std::span<const float> scales) {
        const std::size_t row_bytes = shape.head_dim * shape.value_bytes();
        float with = 0;
        float without = 0;
        for (std::size_t token = 0; token < scales.size();
             token += std::max<std::size_t>(1, scales.size() / kRowsSeen)) {
            float largest = 0;
            for (std::uint32_t head = 0; head < shape.heads; ++head) {
                const float rest =
                    lane_kernels().largest_rest(from + head * head_bytes + token * row_bytes,
                                                means.data() + head * shape.head_dim, shape.head_dim, shape.is_bf16);
                largest = std::max(largest, rest);
            }
            with += scales[token];
            without += largest;
        }
        return with > 0 ? without / with : 1.0f;
    }

    /// Where a bias is most of the largest value, steps go by what is left: the largest number grows, in the chunk,
    /// too.
    static std::int32_t largest_for(std::int32_t largest, float share) {
        const float wanted = static_cast<float>(largest) * kRestShareMin / std::max(share, 1e-3f);
        return share < kRestShareMin ? static_cast<std::int32_t>(std::min(wanted + 0.5f, 255.0f)) : largest;
    }

    static bool is_sorted_level(std::uint32_t level) { return level > kReleasedLevels; }

    void encode_body(const Job& job, std::span<const std::byte> raw, ChunkWorkspace& workspace,
                     ChunkHeader& header) const override {
        const ChunkShape& shape = job.shape;
        const LaneKernels& kernels = lane_kernels();
        ChunkSections& sections = workspace.sections;
        const bool is_ours = is_sorted_level(job.level);
        const std::uint32_t first =
            is_ours && job.token_begin < kSinkTokens ? std::min(kSinkTokens - job.token_begin, shape.tokens) : 0;
        const Coded coded{first, shape.tokens - first};
        header.raw_first = static_cast<std::uint8_t>(first);
        const std::size_t row_bytes = shape.head_dim * shape.value_bytes();
        const std::size_t head_bytes = shape.tokens * row_bytes;
        const std::size_t tokens = coded.tokens;
        const auto numbers = grown(workspace.numbers, shape.plane_values());
        const auto residuals = grown(workspace.more_numbers, shape.plane_values());
        const auto floats = grown(workspace.floats, 2 * tokens + shape.channels());
        const auto scales = floats.first(tokens);
        const auto inverses = floats.subspan(tokens, tokens);
        const auto means = floats.subspan(2 * tokens);
        std::fill(means.begin(), means.end(), 0.0f);
        std::vector<std::uint8_t> coefficients;
        std::vector<std::uint8_t> spreads(shape.channels());
        std::vector<std::uint32_t> order;
        std::vector<std::uint16_t> scale_bits(tokens);
        std::vector<std::uint8_t> scale_codes(tokens);
        std::vector<std::int8_t> mean_codes(shape.channels());
        NumberEncoder encoder(shape, workspace, shape.planes() * shape.groups() * tokens, header);
        for (std::uint32_t plane = tokens == 0 ? 0 : shape.planes(); plane-- > 0;) {  // backwards, as the entropy stage
            const std::byte* values = raw.data() + plane * shape.plane_values() * shape.value_bytes();
            const std::byte* from = values + coded.first * row_bytes;  // of the first head
            std::int32_t largest = number_max(job.level, job.layer_begin + plane / 2, plane % 2 == 0, job.layers_total);
            float top = 0;
            for (std::size_t token = 0; token < tokens; ++token) {
                float scale = 0;
                for (std::uint32_t head = 0; head < shape.heads; ++head) {
                    const std::byte* row = from + head * head_bytes + token * row_bytes;
                    scale = std::max(scale, kernels.largest(row, shape.head_dim, shape.is_bf16));
                }
                scales[token] = scale < 0x1p-100f ? 0.0f : value_of(bf16_near(std::min(scale, 0x1p120f)));
                top = std::max(top, scales[token]);
            }
            // A token whose values are all 0 stays so: its numbers are, and would become the mean.
            const bool has_means = is_ours && fit_plane(shape, values, coded, {}, means).has_means &&
                                   std::find(scales.begin(), scales.end(), 0.0f) == scales.end();
            for (std::uint32_t i = 0; i < shape.channels() && is_ours; ++i) {
                mean_codes[i] = has_means ? mean_code_of(top, means[i]) : std::int8_t{0};
                means[i] = has_means ? mean_of(top, mean_codes[i]) : 0.0f;
            }
            if (has_means) {
                const float share = rest_share(shape, from, head_bytes, means, scales);
                largest = largest_for(largest, share);
            }
            for (std::size_t token = 0; token < tokens; ++token) {
                if (is_ours) {
                    scale_codes[token] = code_of(top, scales[token]);
                    scales[token] = scale_of(top, scale_codes[token]);
                }
                scale_bits[token] = bf16_near(scales[token]);  // of the released levels, where they are such numbers
                inverses[token] = scales[token] == 0 ? 0.0f : static_cast<float>(largest) / scales[token];
            }
            for (std::uint32_t head = 0; head < shape.heads; ++head) {
                const HeadRows rows{.rows = tokens,
                                    .head_dim = shape.head_dim,
                                    .is_bf16 = shape.is_bf16,
                                    .mean = means.data() + head * shape.head_dim,
                                    .channel_scale = constants_.ones.data(),
                                    .row_scale = inverses.data()};
                kernels.quantise(rows, from + head * head_bytes, numbers.data() + head * tokens * shape.head_dim);
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
            const std::int16_t* coding = predicts ? residuals.data() : numbers.data();
            const bool is_sorted = is_ours && find_spreads(shape, tokens, coding, spreads);
            if (is_sorted) { order_channels(spreads, kSpreads, order); }
            const std::uint32_t* lanes = is_sorted ? order.data() : nullptr;
            const std::size_t anchors = anchors_of(tokens);
            for (std::uint32_t group = shape.groups(); group-- > 0;) {
                if (predicts) {
                    encoder.add({group, tokens, anchors, tokens - anchors, lanes}, coding);
                    encoder.add({group, tokens, 0, anchors, lanes}, coding);
                } else {
                    encoder.add({group, tokens, 0, tokens, lanes}, coding);
                }
            }
            if (is_sorted) { put_nibbles(spreads, sections.parameters); }
            if (predicts) { put_nibbles(coefficients, sections.parameters); }
            if (has_means) { sections.parameters.put(std::as_bytes(std::span(mean_codes))); }
            sections.parameters.put_number(static_cast<std::uint8_t>(
                (predicts ? kPredicts : 0) | (has_means ? kHasMeans : 0) | (is_sorted ? kIsSorted : 0)));
            if (is_ours) {
                sections.parameters.put(std::as_bytes(std::span(scale_codes)));
                sections.parameters.put_number(top);
                sections.parameters.put_number(static_cast<std::uint8_t>(largest));
            } else {
                sections.parameters.put(std::as_bytes(std::span(scale_bits)));
            }
        }
        encoder.end();
        put_raw_tokens(shape, coded, raw, sections.plain);
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
        const std::size_t tokens = scales.size();
        const std::size_t anchors = anchors_of(tokens);
        for (std::uint32_t head = 0; head < shape.heads; ++head) {
            const std::size_t begin = head * tokens;
            for (std::size_t token = 0; token < tokens; ++token) {
                const std::size_t first = token / kTen * kTen;
                visit({.number = (begin + token) * shape.head_dim,
                       .anchor = (begin + first) * shape.head_dim,
                       .coded = (begin + row_of(token, anchors)) * shape.head_dim,
                       .ratio = ratio_of(scales[first], scales[token]),
                       .channel = std::size_t{head} * shape.head_dim});
            }
        }
    }

    struct PlaneParameters {
        std::uint32_t largest = 0;
        float top = 0;
        std::span<const std::byte> scales;
        bool predicts = false;
        std::span<const std::byte> means;  // empty: none
        std::span<const std::byte> coefficients;
        std::span<const std::byte> spreads;  // empty: groups are neighbours
        std::span<const std::byte> pieces;
    };
    /// All of a plane; `largest` of the released levels is left alone.
    static bool read_plane(const ChunkShape& shape, std::size_t tokens, bool is_ours, SectionReader& reader,
                           PlaneParameters& out) {
        const std::size_t scale_bytes = tokens * (is_ours ? 1 : sizeof(std::uint16_t));
        if (!reader.has((is_ours ? 2 + sizeof(float) : 1) + scale_bytes)) { return false; }
        if (is_ours) {
            out.largest = reader.number<std::uint8_t>();
            out.top = reader.number<float>();
            if (!(out.top >= 0) || !(out.top <= 0x1p120f)) { return false; }
        }
        out.scales = reader.take(scale_bytes);
        const auto bits = reader.number<std::uint8_t>();
        out.predicts = (bits & kPredicts) != 0;
        if ((bits & ~(is_ours ? kPredicts | kHasMeans | kIsSorted : kPredicts)) != 0 || out.largest == 0 ||
            (out.predicts && tokens <= kTen)) {
            return false;
        }
        const std::size_t nibbles = (shape.channels() + 1) / 2;
        const std::size_t mean_bytes = (bits & kHasMeans) != 0 ? shape.channels() : 0;
        const std::size_t coefficient_bytes = out.predicts ? nibbles : 0;
        const std::size_t spread_bytes = (bits & kIsSorted) != 0 ? nibbles : 0;
        const std::size_t pieces = std::size_t{shape.groups()} * (out.predicts ? 2 : 1);
        if (!reader.has(mean_bytes + coefficient_bytes + spread_bytes + pieces)) { return false; }
        out.means = reader.take(mean_bytes);
        out.coefficients = reader.take(coefficient_bytes);
        out.spreads = reader.take(spread_bytes);
        out.pieces = reader.take(pieces);
        return true;
    }

    base::Result<void> decode_body(const Job& job, const ChunkView& view, ChunkWorkspace& workspace,
                                   std::span<std::byte> out) const override {
        const ChunkShape& shape = job.shape;
        const LaneKernels& kernels = lane_kernels();
        const bool is_ours = is_sorted_level(job.level);
        const Coded coded{view.header.raw_first, shape.tokens - view.header.raw_first - view.header.raw_last};
        if (!is_ours && coded.tokens != shape.tokens) { return damaged("raw tokens where this level has none"); }
        const std::size_t tokens = coded.tokens;
        const std::size_t anchors = anchors_of(tokens);
        const auto numbers = grown(workspace.numbers, shape.plane_values());
        const auto residuals = grown(workspace.more_numbers, shape.plane_values());
        const auto floats = grown(workspace.floats, 2 * tokens + shape.channels());
        const auto scales = floats.first(tokens);
        const auto steps = floats.subspan(tokens, tokens);
        const auto means = floats.subspan(2 * tokens);
        const std::size_t row_bytes = shape.head_dim * shape.value_bytes();
        SectionReader plain(view.plain);
        if (!take_raw_tokens(shape, coded, plain, out)) { return damaged("raw tokens end too early"); }
        NumberDecoder decoder(shape, workspace, plain, SectionReader(view.escapes));
        if (auto begun = decoder.begin(view); !begun) { return begun; }
        SectionReader reader(view.parameters);
        PlaneParameters parameters;
        std::vector<std::uint8_t> coefficients(shape.channels());
        std::vector<std::uint8_t> spreads(shape.channels());
        std::vector<std::uint32_t> order;
        for (std::uint32_t plane = 0; plane < shape.planes() && tokens > 0; ++plane) {
            if (!is_ours) {
                parameters.largest = static_cast<std::uint32_t>(
                    number_max(job.level, job.layer_begin + plane / 2, plane % 2 == 0, job.layers_total));
            }
            if (!read_plane(shape, tokens, is_ours, reader, parameters)) { return damaged("parameters end too early"); }
            for (std::size_t token = 0; token < tokens; ++token) {
                if (is_ours) {
                    scales[token] = scale_of(parameters.top, std::to_integer<std::uint8_t>(parameters.scales[token]));
                } else {
                    std::uint16_t bits;
                    std::memcpy(&bits, parameters.scales.data() + token * sizeof bits, sizeof bits);
                    if (bits >= 0x7f80) { return damaged("a scale that is no number above 0"); }
                    scales[token] = value_of(bits);
                }
                steps[token] = scales[token] / static_cast<float>(parameters.largest);
            }
            for (std::uint32_t i = 0; i < shape.channels(); ++i) {
                means[i] = parameters.means.empty()
                               ? 0.0f
                               : mean_of(parameters.top, std::to_integer<std::int8_t>(parameters.means[i]));
            }
            if (!parameters.spreads.empty()) {
                read_nibbles(parameters.spreads, spreads);
                order_channels(spreads, kSpreads, order);
            }
            const std::uint32_t* lanes = parameters.spreads.empty() ? nullptr : order.data();
            base::Result<void> taken;
            std::size_t next = 0;
            std::int16_t* to = parameters.predicts ? residuals.data() : numbers.data();
            const auto take = [&](std::uint32_t group, std::size_t begin, std::size_t rows) {
                const auto piece = std::to_integer<std::uint8_t>(parameters.pieces[next++]);
                if (taken) { taken = decoder.take({group, tokens, begin, rows, lanes}, piece, to); }
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
                read_nibbles(parameters.coefficients, coefficients);
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
                                    .mean = means.data() + head * shape.head_dim,
                                    .channel_scale = constants_.ones.data(),
                                    .row_scale = steps.data()};
                kernels.restore(rows, numbers.data() + head * tokens * shape.head_dim,
                                out.data() + plane * shape.plane_values() * shape.value_bytes() +
                                    (std::size_t{head} * shape.tokens + coded.first) * row_bytes);
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
