#include <algorithm>
#include <cstring>

#include "kv_transfer/codec/chunk_codec.h"
#include "kv_transfer/codec/class_tables.h"
#include "kv_transfer/codec/codecs.h"
#include "kv_transfer/codec/lane_kernels.h"

namespace kv_transfer {
namespace {

// Parameters, for each plane and group: class (6 bits) | kOwnTops, then the top exponent: one, or one for each lane.
// Plain: sign and mantissa of every value, in the order of the KV: a byte of bf16, three planes of bytes of f32.
// Escapes: whole exponents, in the order of the symbols.
constexpr std::uint8_t kOwnTops = 0x40;
constexpr std::uint32_t kRowsSeen = 16;  // of a group, to choose its class

std::size_t rest_bytes(const ChunkShape& shape) {
    return shape.values() * (shape.is_bf16 ? 1 : 3);
}

/// Index of the first value of a piece: its other tokens follow head_dim apart.
std::size_t value_at(const ChunkShape& shape, std::uint32_t plane, const GroupPiece& piece) {
    return (std::size_t{plane} * shape.heads + piece.head) * shape.tokens * shape.head_dim + piece.dim;
}

LaneRows rows_of(const ChunkShape& shape, const GroupPiece& piece) {
    return {.rows = shape.tokens, .stride = shape.head_dim, .lanes = piece.lanes};
}

std::uint8_t exponent_at(std::span<const std::byte> raw, bool is_bf16, std::size_t index) {
    if (is_bf16) {
        std::uint16_t bits;
        std::memcpy(&bits, raw.data() + index * 2, sizeof bits);
        return static_cast<std::uint8_t>(bits >> 7);
    }
    std::uint32_t bits;
    std::memcpy(&bits, raw.data() + index * 4, sizeof bits);
    return static_cast<std::uint8_t>(bits >> 23);
}

void put_exponent(std::span<std::byte> raw, bool is_bf16, std::size_t index, std::uint8_t exponent) {
    if (is_bf16) {
        std::uint16_t bits;
        std::memcpy(&bits, raw.data() + index * 2, sizeof bits);
        bits = static_cast<std::uint16_t>((bits & 0x807fu) | std::uint32_t{exponent} << 7);
        std::memcpy(raw.data() + index * 2, &bits, sizeof bits);
        return;
    }
    std::uint32_t bits;
    std::memcpy(&bits, raw.data() + index * 4, sizeof bits);
    bits = (bits & 0x807fffffu) | std::uint32_t{exponent} << 23;
    std::memcpy(raw.data() + index * 4, &bits, sizeof bits);
}

/// Calls visit(index of the value) for each escape of a group, in the order of its symbols.
template <class Visit>
void for_each_escape(const ChunkShape& shape, std::uint32_t plane, std::uint32_t group,
                     std::span<const std::uint8_t> symbols, const Visit& visit) {
    const std::uint8_t* const begin = symbols.data();
    const std::uint8_t* const end = begin + symbols.size();
    const auto* at = static_cast<const std::uint8_t*>(std::memchr(begin, kEscape, symbols.size()));
    while (at != nullptr) {
        const auto index = static_cast<std::size_t>(at - begin);
        const auto channel = static_cast<std::uint32_t>(group * kLanes + index % kLanes);
        if (channel < shape.channels()) {  // the lanes behind hold zeros; a damaged stream may say otherwise
            const GroupPiece piece{0, 1, channel / shape.head_dim, channel % shape.head_dim};
            if (!visit(value_at(shape, plane, piece) + index / kLanes * shape.head_dim)) { return; }
        }
        ++at;
        at = at == end ? nullptr
                       : static_cast<const std::uint8_t*>(std::memchr(at, kEscape, static_cast<std::size_t>(end - at)));
    }
}

class ExactCodec final : public ChunkCodec {
public:
    explicit ExactCodec(std::uint64_t numerics_id) : ChunkCodec(ChunkKind::exact, numerics_id) {}
    std::string_view name() const override { return "exact"; }
    bool has_level(std::uint32_t level) const override { return level == 0; }
    bool is_lossy(std::uint32_t) const override { return false; }

private:
    void encode_body(const Job& job, std::span<const std::byte> raw, ChunkWorkspace& workspace,
                     ChunkHeader& header) const override {
        const ChunkShape& shape = job.shape;
        const LaneKernels& kernels = lane_kernels();
        ChunkSections& sections = workspace.sections;
        const std::size_t group_symbols = std::size_t{shape.tokens} * kLanes;
        const std::size_t groups = std::size_t{shape.planes()} * shape.groups();
        const auto own = grown(workspace.symbols, group_symbols);
        auto* rest = reinterpret_cast<std::uint8_t*>(sections.plain.put(rest_bytes(shape)));
        RansEncoder stream = begin_stream(workspace, groups * shape.tokens, header);
        for (std::size_t i = groups; i-- > 0;) {  // backwards, as the entropy stage goes
            const auto plane = static_cast<std::uint32_t>(i / shape.groups());
            const auto group = static_cast<std::uint32_t>(i % shape.groups());
            std::uint8_t tops[kLanes] = {};
            for_each_piece(shape, group, [&](const GroupPiece& piece) {
                kernels.top_exponents(rows_of(shape, piece),
                                      raw.data() + value_at(shape, plane, piece) * shape.value_bytes(), shape.is_bf16,
                                      tops + piece.lane);
            });
            /// Every `step`-th row into the beginning of `own`; signs and mantissas to where they belong.
            const auto split = [&](const std::uint8_t* with, std::uint32_t step) {
                const std::size_t rows = (shape.tokens + step - 1) / step;
                const auto into = own.first(rows * kLanes);
                if ((group + 1) * kLanes > shape.channels()) { std::fill(into.begin(), into.end(), std::uint8_t{0}); }
                for_each_piece(shape, group, [&](const GroupPiece& piece) {
                    const std::size_t at = value_at(shape, plane, piece);
                    kernels.split({.rows = rows, .stride = std::size_t{step} * shape.head_dim, .lanes = piece.lanes},
                                  raw.data() + at * shape.value_bytes(), shape.is_bf16, with + piece.lane,
                                  into.data() + piece.lane, rest + at, shape.values());
                });
                return into;
            };
            std::uint8_t one_top[kLanes];
            std::fill(std::begin(one_top), std::end(one_top), *std::max_element(std::begin(tops), std::end(tops)));
            const std::uint32_t step = std::max(1u, shape.tokens / kRowsSeen);
            const ClassChoice one = choose_class(exponent_classes(), split(one_top, step));
            const ClassChoice each = choose_class(exponent_classes(), split(tops, step));
            const double saved = (one.bits - each.bits) * static_cast<double>(group_symbols);
            const bool has_own_tops = saved > 8.0 * (kLanes - 1);
            const std::uint8_t id = has_own_tops ? each.id : one.id;
            const std::uint8_t* used = has_own_tops ? tops : one_top;
            split(used, 1);
            sections.parameters.put(std::as_bytes(std::span(used, has_own_tops ? kLanes : 1)));
            sections.parameters.put_number(static_cast<std::uint8_t>(id | (has_own_tops ? kOwnTops : 0)));
            std::size_t count = 0;
            for_each_escape(shape, plane, group, own, [&](std::size_t) { return ++count > 0; });
            std::byte* to = sections.escapes.put(count);
            if (count > 0) {
                for_each_escape(shape, plane, group, own, [&](std::size_t index) {
                    *to++ = std::byte{exponent_at(raw, shape.is_bf16, index)};
                    return true;
                });
            }
            stream.put({&exponent_classes().tables[id], shape.tokens}, own.data());
        }
        sections.stream = stream.end();
    }

    base::Result<void> decode_body(const Job& job, const ChunkView& view, ChunkWorkspace& workspace,
                                   std::span<std::byte> out) const override {
        const ChunkShape& shape = job.shape;
        const LaneKernels& kernels = lane_kernels();
        if (view.plain.size() != rest_bytes(shape)) { return damaged("mantissas of another size"); }
        const auto own = grown(workspace.symbols, std::size_t{shape.tokens} * kLanes);
        RansDecoder stream(rans_kernels());
        if (auto begun = stream.begin(view.stream, view.header.groups); !begun) { return begun; }
        SectionReader parameters(view.parameters);
        SectionReader escapes(view.escapes);
        const auto* rest = reinterpret_cast<const std::uint8_t*>(view.plain.data());
        bool has_too_few = false;
        for (std::size_t i = 0; i < std::size_t{shape.planes()} * shape.groups(); ++i) {
            const auto plane = static_cast<std::uint32_t>(i / shape.groups());
            const auto group = static_cast<std::uint32_t>(i % shape.groups());
            if (!parameters.has(1)) { return damaged("parameters end too early"); }
            const auto kind = parameters.number<std::uint8_t>();
            const std::size_t top_count = (kind & kOwnTops) != 0 ? kLanes : 1;
            if ((kind & 0x80) != 0 || !parameters.has(top_count)) { return damaged("parameters end too early"); }
            const auto named = parameters.take(top_count);
            std::uint8_t tops[kLanes];
            for (std::uint32_t lane = 0; lane < kLanes; ++lane) {
                tops[lane] = std::to_integer<std::uint8_t>(named[top_count == 1 ? 0 : lane]);
            }
            const RansRun run{&exponent_classes().tables[kind & (kClasses - 1)], shape.tokens};
            if (auto taken = stream.take(run, own.data()); !taken) { return taken; }
            for_each_piece(shape, group, [&](const GroupPiece& piece) {
                const std::size_t at = value_at(shape, plane, piece);
                kernels.join(rows_of(shape, piece), own.data() + piece.lane, rest + at, shape.values(),
                             tops + piece.lane, shape.is_bf16, out.data() + at * shape.value_bytes());
            });
            for_each_escape(shape, plane, group, own, [&](std::size_t index) {
                has_too_few = has_too_few || !escapes.has(1);
                if (!has_too_few) { put_exponent(out, shape.is_bf16, index, escapes.number<std::uint8_t>()); }
                return !has_too_few;
            });
        }
        if (!parameters.empty()) { return damaged("too many parameters"); }
        if (has_too_few || !escapes.empty()) { return damaged("escapes do not fit the symbols"); }
        return stream.end();
    }
};

}  // namespace

std::unique_ptr<Codec> make_exact_codec(std::uint64_t numerics_id) {
    return std::make_unique<ExactCodec>(numerics_id);
}

}  // namespace kv_transfer
