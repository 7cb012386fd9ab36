#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "kv_transfer/codec/chunk_codec.h"
#include "kv_transfer/codec/codecs.h"
#include "kv_transfer/codec/coded_tokens.h"
#include "kv_transfer/codec/lane_kernels.h"
#include "kv_transfer/codec/number_coder.h"

namespace kv_transfer {
namespace {

// Parameters: the profile's id where there is one; then, for each plane, the step (f32), a byte that says whether means
// of the chunk follow (bf16, one a channel), these, and the bytes of number_coder.h, a piece for each group.
// Plain: the raw tokens (plane, head, token), then what number_coder.h puts there.

constexpr std::uint8_t kIsUnrotated = 1;  // flags: keys are coded as before their rotation
constexpr std::uint8_t kHasProfile = 2;

/// Steps of a level: of the deviation of a plane, or of a profile's steps.
constexpr std::array<float, kSluiceLevels> kFactors{0.03f, 0.06f, 0.125f, 0.25f, 0.5f, 0.8f, 1.2f, 1.8f};

class SluiceCodec final : public ChunkCodec {
public:
    SluiceCodec(std::uint64_t numerics_id, std::shared_ptr<const RotaryTable> rotary,
                std::shared_ptr<const KvProfile> profile)
        : ChunkCodec(ChunkKind::sluice, numerics_id),
          rotary_(std::move(rotary)),
          profile_(std::move(profile)),
          profile_id_(profile_ == nullptr ? 0 : profile_->id()) {}
    std::string_view name() const override { return "sluice"; }
    bool has_level(std::uint32_t level) const override { return level < kSluiceLevels; }
    bool is_lossy(std::uint32_t) const override { return true; }

private:
    bool can_unrotate(const Job& job) const {
        return rotary_ != nullptr && rotary_->head_dim == job.shape.head_dim && job.shape.head_dim % 2 == 0 &&
               job.token_begin + job.shape.tokens <= rotary_->positions;
    }
    bool profile_fits(const Job& job) const {
        return profile_ != nullptr && profile_->layers == job.layers_total && profile_->kv_heads == job.shape.heads &&
               profile_->head_dim == job.shape.head_dim;
    }
    Rotation rotation(const Job& job, bool is_unrotated, std::uint32_t plane, const Coded& coded) const {
        if (!is_unrotated || plane % 2 != 0) { return {}; }
        const std::size_t at = std::size_t{job.token_begin + coded.first} * (job.shape.head_dim / 2);
        return {rotary_->cosines.data() + at, rotary_->sines.data() + at};
    }
    std::size_t profile_at(const Job& job, std::uint32_t plane) const {
        return (std::size_t{job.layer_begin} * 2 + plane) * job.shape.channels();
    }

    void encode_body(const Job& job, std::span<const std::byte> raw, ChunkWorkspace& workspace,
                     ChunkHeader& header) const override {
        const ChunkShape& shape = job.shape;
        const LaneKernels& kernels = lane_kernels();
        ChunkSections& sections = workspace.sections;
        const std::uint32_t first =
            std::min(job.token_begin < kSinkTokens ? kSinkTokens - job.token_begin : 0, shape.tokens);
        const std::uint32_t last =
            std::min({(job.token_begin + shape.tokens) % job.block_tokens, shape.tokens - first, std::uint32_t{255}});
        const Coded coded{first, shape.tokens - first - last};
        header.raw_first = static_cast<std::uint8_t>(first);
        header.raw_last = static_cast<std::uint8_t>(last);
        const bool is_unrotated = can_unrotate(job);
        const bool has_profile = profile_fits(job);
        header.flags = static_cast<std::uint8_t>((is_unrotated ? kIsUnrotated : 0) | (has_profile ? kHasProfile : 0));
        const std::size_t row_bytes = shape.head_dim * shape.value_bytes();
        const std::size_t head_bytes = shape.tokens * row_bytes;
        const auto numbers = grown(workspace.numbers, std::size_t{shape.channels()} * coded.tokens);
        const auto floats = grown(workspace.floats, std::size_t{2} * shape.channels());
        const auto means = floats.first(shape.channels());
        const auto scales = floats.subspan(shape.channels());
        NumberEncoder encoder(shape, workspace, std::size_t{shape.planes()} * shape.groups() * coded.tokens, header);
        for (std::uint32_t plane = coded.tokens == 0 ? 0 : shape.planes(); plane-- > 0;) {
            const std::byte* values = raw.data() + plane * shape.plane_values() * shape.value_bytes();
            const Rotation turned = rotation(job, is_unrotated, plane, coded);
            float step = kFactors[job.level];
            bool has_means = false;
            if (has_profile) {
                for (std::uint32_t i = 0; i < shape.channels(); ++i) {
                    means[i] = profile_->means[profile_at(job, plane) + i];
                    scales[i] = 1.0f / (step * profile_->steps[profile_at(job, plane) + i]);
                }
            } else {
                const PlaneFit fit = fit_plane(shape, values, coded, turned, means);
                has_means = fit.has_means;
                step = std::clamp(step * fit.deviation, 1e-25f, 1e25f);
                std::fill(scales.begin(), scales.end(), 1.0f / step);
            }
            std::uint32_t head = shape.heads;  // this one and those behind it are quantised
            for (std::uint32_t group = shape.groups(); group-- > 0;) {
                while (head * shape.head_dim > group * kLanes) {  // near the coding of it: still in a near cache
                    --head;
                    const HeadRows rows{.rows = coded.tokens,
                                        .head_dim = shape.head_dim,
                                        .is_bf16 = shape.is_bf16,
                                        .cosines = turned.cosines,
                                        .sines = turned.sines,
                                        .mean = means.data() + head * shape.head_dim,
                                        .channel_scale = scales.data() + head * shape.head_dim};
                    kernels.quantise(rows, values + head * head_bytes + first * row_bytes,
                                     numbers.data() + std::size_t{head} * coded.tokens * shape.head_dim);
                }
                encoder.add({group, coded.tokens, 0, coded.tokens}, numbers.data());
            }
            if (has_means) { put_means(means, sections.parameters); }
            sections.parameters.put_number(static_cast<std::uint8_t>(has_means ? 1 : 0));
            sections.parameters.put_number(step);
        }
        encoder.end();
        if (has_profile) { sections.parameters.put_number(profile_id_); }
        put_raw_tokens(shape, coded, raw, sections.plain);
    }

    struct PlaneParameters {
        float step = 0;
        std::span<const std::byte> means;  // empty: none
        std::span<const std::byte> pieces;
    };
    static bool read_plane(const ChunkShape& shape, SectionReader& reader, PlaneParameters& out) {
        if (!reader.has(sizeof(float) + 1)) { return false; }
        out.step = reader.number<float>();
        const auto has_means = reader.number<std::uint8_t>();
        const std::size_t mean_bytes = has_means == 1 ? shape.channels() * sizeof(std::uint16_t) : 0;
        if (has_means > 1 || !(out.step >= 1e-26f) || !(out.step <= 1e26f) ||
            !reader.has(mean_bytes + shape.groups())) {
            return false;
        }
        out.means = reader.take(mean_bytes);
        out.pieces = reader.take(shape.groups());
        return true;
    }

    base::Result<void> decode_body(const Job& job, const ChunkView& view, ChunkWorkspace& workspace,
                                   std::span<std::byte> out) const override {
        const ChunkShape& shape = job.shape;
        const LaneKernels& kernels = lane_kernels();
        const bool is_unrotated = (view.header.flags & kIsUnrotated) != 0;
        const bool has_profile = (view.header.flags & kHasProfile) != 0;
        if ((view.header.flags & ~(kIsUnrotated | kHasProfile)) != 0) { return damaged("flags that no encoder sets"); }
        if (is_unrotated && !can_unrotate(job)) { return damaged("keys before their rotation, and no angles here"); }
        SectionReader reader(view.parameters);
        if (has_profile) {
            if (!profile_fits(job)) { return damaged("coded with a profile, and none of this model is here"); }
            if (!reader.has(sizeof profile_id_) || reader.number<std::uint32_t>() != profile_id_) {
                return damaged("coded with another profile than the one here");
            }
        }
        const Coded coded{view.header.raw_first, shape.tokens - view.header.raw_first - view.header.raw_last};
        const std::size_t row_bytes = shape.head_dim * shape.value_bytes();
        const std::size_t head_bytes = shape.tokens * row_bytes;
        const std::size_t begin_bytes = view.header.raw_first * row_bytes;
        SectionReader plain(view.plain);
        if (!take_raw_tokens(shape, coded, plain, out)) { return damaged("raw tokens end too early"); }
        const auto numbers = grown(workspace.numbers, std::size_t{shape.channels()} * coded.tokens);
        const auto floats = grown(workspace.floats, std::size_t{2} * shape.channels());
        const auto means = floats.first(shape.channels());
        const auto steps = floats.subspan(shape.channels());
        NumberDecoder decoder(shape, workspace, plain, SectionReader(view.escapes));
        if (auto begun = decoder.begin(view); !begun) { return begun; }
        PlaneParameters parameters;
        for (std::uint32_t plane = 0; plane < shape.planes() && coded.tokens > 0; ++plane) {
            if (!read_plane(shape, reader, parameters)) { return damaged("parameters end too early"); }
            for (std::uint32_t i = 0; i < shape.channels(); ++i) {
                means[i] = has_profile ? profile_->means[profile_at(job, plane) + i] : 0.0f;
                steps[i] =
                    has_profile ? parameters.step * profile_->steps[profile_at(job, plane) + i] : parameters.step;
            }
            if (!parameters.means.empty() && !read_means(parameters.means, means)) {
                return damaged("a mean that is no number");
            }
            const Rotation turned = rotation(job, is_unrotated, plane, coded);
            std::uint32_t head = 0;
            for (std::uint32_t group = 0; group < shape.groups(); ++group) {
                const auto piece = std::to_integer<std::uint8_t>(parameters.pieces[group]);
                if (auto taken = decoder.take({group, coded.tokens, 0, coded.tokens}, piece, numbers.data()); !taken) {
                    return taken;
                }
                for (; (head + 1) * shape.head_dim <= std::min((group + 1) * kLanes, shape.channels()); ++head) {
                    const HeadRows rows{.rows = coded.tokens,
                                        .head_dim = shape.head_dim,
                                        .is_bf16 = shape.is_bf16,
                                        .cosines = turned.cosines,
                                        .sines = turned.sines,
                                        .mean = means.data() + head * shape.head_dim,
                                        .channel_scale = steps.data() + head * shape.head_dim};
                    kernels.restore(rows, numbers.data() + std::size_t{head} * coded.tokens * shape.head_dim,
                                    out.data() + plane * shape.plane_values() * shape.value_bytes() +
                                        head * head_bytes + begin_bytes);
                }
            }
        }
        if (!reader.empty()) { return damaged("too many parameters"); }
        return decoder.end();
    }

    const std::shared_ptr<const RotaryTable> rotary_;
    const std::shared_ptr<const KvProfile> profile_;
    const std::uint32_t profile_id_;
};

}  // namespace

std::unique_ptr<Codec> make_sluice_codec(std::uint64_t numerics_id, std::shared_ptr<const RotaryTable> rotary,
                                         std::shared_ptr<const KvProfile> profile) {
    return std::make_unique<SluiceCodec>(numerics_id, std::move(rotary), std::move(profile));
}

base::Result<std::unique_ptr<Codec>> make_codec(std::string_view name, std::uint64_t numerics_id,
                                                std::shared_ptr<const RotaryTable> rotary,
                                                std::shared_ptr<const KvProfile> profile) {
    if (name == "exact") { return make_exact_codec(numerics_id); }
    if (name == "int8") { return make_int8_codec(numerics_id); }
    if (name == "cachegen") { return make_cachegen_codec(numerics_id); }
    if (name == "sluice") { return make_sluice_codec(numerics_id, std::move(rotary), std::move(profile)); }
    return base::fail(base::ErrorCode::not_found, "no KV codec \"" + std::string(name.substr(0, 32)) +
                                                      "\": there are exact, int8, cachegen and sluice");
}

}  // namespace kv_transfer
