#include "kv_transfer/codec/number_coder.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "kv_transfer/codec/class_tables.h"
#include "kv_transfer/codec/lane_kernels.h"

namespace kv_transfer {
namespace {

constexpr std::uint32_t kShiftMax = 3;
constexpr std::size_t kMeanMax = 5;  // of magnitudes of symbols: above it more than some are escapes
constexpr std::size_t kRowsSeen = 16;

/// Index of the first number of a piece's lanes: the other rows follow head_dim apart.
std::size_t number_at(const ChunkShape& shape, const NumberPiece& piece, const GroupPiece& part) {
    return (part.head * piece.plane_rows + piece.row_begin) * shape.head_dim + part.dim;
}

LaneRows rows_of(const ChunkShape& shape, const NumberPiece& piece, const GroupPiece& part) {
    return {.rows = piece.rows, .stride = shape.head_dim, .lanes = part.lanes};
}

/// Where the number of a symbol lies.
std::size_t number_of(const ChunkShape& shape, const NumberPiece& piece, std::uint32_t position) {
    const std::uint32_t channel = piece.group * kLanes + position % kLanes;
    return (channel / shape.head_dim * piece.plane_rows + piece.row_begin + position / kLanes) * shape.head_dim +
           channel % shape.head_dim;
}

std::uint32_t lanes_of(const ChunkShape& shape, std::uint32_t group) {
    return std::min(kLanes, shape.channels() - group * kLanes);
}

/// The escapes of a piece: positions among its symbols, without those of lanes that no channel has, which a damaged
/// stream may say.
std::span<const std::uint32_t> escapes_of(const ChunkShape& shape, const NumberPiece& piece, ChunkWorkspace& workspace,
                                          std::span<const std::uint8_t> symbols) {
    const auto positions = grown(workspace.positions, symbols.size());
    auto found = positions.first(lane_kernels().find_escapes(symbols.data(), symbols.size(), positions.data()));
    const std::uint32_t lanes = lanes_of(shape, piece.group);
    if (lanes == kLanes) { return found; }
    const auto end = std::remove_if(found.begin(), found.end(),
                                    [lanes](std::uint32_t position) { return position % kLanes >= lanes; });
    return found.first(static_cast<std::size_t>(end - found.begin()));
}

base::Result<void> damaged(const char* what) {
    return base::fail(base::ErrorCode::data_loss, std::string("KV chunk: ") + what);
}

/// The run that a byte of parameters names, for `rows` rows.
RansRun run_of(std::uint8_t parameter, std::size_t rows) {
    return {&signed_classes().tables[parameter & (kClasses - 1)], rows};
}

std::uint32_t shift_of(std::uint8_t parameter) {
    return parameter >> 6;
}

}  // namespace

NumberEncoder::NumberEncoder(const ChunkShape& shape, ChunkWorkspace& workspace, std::size_t rows, ChunkHeader& header)
    : shape_(shape), workspace_(workspace), stream_(begin_stream(workspace, rows, header)) {}

void NumberEncoder::add(const NumberPiece& piece, const std::int16_t* numbers) {
    const LaneKernels& kernels = lane_kernels();
    const auto symbols = grown(workspace_.symbols, piece.rows * kLanes);
    if (lanes_of(shape_, piece.group) < kLanes) {
        std::fill(symbols.begin(), symbols.end(), static_cast<std::uint8_t>(kSymbolZero));
    }
    std::uint64_t magnitudes = 0;
    std::uint64_t seen = 0;
    const std::size_t step = std::max<std::size_t>(1, piece.rows / kRowsSeen);
    const std::size_t rows_seen = (piece.rows + step - 1) / step;
    for_each_piece(shape_, piece.group, [&](const GroupPiece& part) {
        magnitudes += kernels.magnitudes({.rows = rows_seen, .stride = step * shape_.head_dim, .lanes = part.lanes},
                                         numbers + number_at(shape_, piece, part));
        seen += rows_seen * part.lanes;
    });
    std::uint32_t shift = 0;
    while (shift < kShiftMax && (magnitudes >> shift) > kMeanMax * seen) {
        ++shift;
    }
    bool has_escapes = false;
    for_each_piece(shape_, piece.group, [&](const GroupPiece& part) {
        has_escapes = kernels.to_symbols(rows_of(shape_, piece, part), numbers + number_at(shape_, piece, part), shift,
                                         symbols.data() + part.lane) ||
                      has_escapes;
    });
    const ClassChoice choice = choose_class(signed_classes(), symbols);
    const auto parameter = static_cast<std::uint8_t>(choice.id | shift << 6);
    ChunkSections& sections = workspace_.sections;
    sections.parameters.put_number(parameter);
    stream_.put(run_of(parameter, piece.rows), symbols.data());
    if (shift > 0) {
        const auto words = grown(workspace_.words, piece.rows * shift);
        std::fill(words.begin(), words.end(), 0u);
        for_each_piece(shape_, piece.group, [&](const GroupPiece& part) {
            kernels.low_words(rows_of(shape_, piece, part), numbers + number_at(shape_, piece, part), part.lane, shift,
                              words.data());
        });
        sections.plain.put(std::as_bytes(words));
    }
    if (has_escapes) {
        const auto escapes = escapes_of(shape_, piece, workspace_, symbols);
        std::byte* to = sections.escapes.put(escapes.size() * sizeof(std::int16_t));
        for (const std::uint32_t position : escapes) {
            std::memcpy(to, numbers + number_of(shape_, piece, position), sizeof(std::int16_t));
            to += sizeof(std::int16_t);
        }
    }
}

NumberDecoder::NumberDecoder(const ChunkShape& shape, ChunkWorkspace& workspace, SectionReader plain,
                             SectionReader escapes)
    : shape_(shape), workspace_(workspace), stream_(rans_kernels()), plain_(plain), escapes_(escapes) {}

base::Result<void> NumberDecoder::take(const NumberPiece& piece, std::uint8_t parameter, std::int16_t* numbers) {
    const LaneKernels& kernels = lane_kernels();
    const auto symbols = grown(workspace_.symbols, piece.rows * kLanes);
    if (auto taken = stream_.take(run_of(parameter, piece.rows), symbols.data()); !taken) { return taken; }
    const std::uint32_t shift = shift_of(parameter);
    for_each_piece(shape_, piece.group, [&](const GroupPiece& part) {
        kernels.to_numbers(rows_of(shape_, piece, part), symbols.data() + part.lane, shift,
                           numbers + number_at(shape_, piece, part));
    });
    if (shift > 0) {
        const std::size_t bytes = piece.rows * shift * sizeof(std::uint32_t);
        if (!plain_.has(bytes)) { return damaged("low bits end too early"); }
        const auto words = grown(workspace_.words, piece.rows * shift);
        if (bytes > 0) { std::memcpy(words.data(), plain_.take(bytes).data(), bytes); }
        for_each_piece(shape_, piece.group, [&](const GroupPiece& part) {
            kernels.put_low(rows_of(shape_, piece, part), words.data(), part.lane, shift,
                            numbers + number_at(shape_, piece, part));
        });
    }
    const auto escapes = escapes_of(shape_, piece, workspace_, symbols);
    if (!escapes_.has(escapes.size() * sizeof(std::int16_t))) { return damaged("escapes end too early"); }
    for (const std::uint32_t position : escapes) {
        numbers[number_of(shape_, piece, position)] = escapes_.number<std::int16_t>();
    }
    return {};
}

base::Result<void> NumberDecoder::end() const {
    if (!plain_.empty() || !escapes_.empty()) { return damaged("sections go on behind the last number"); }
    return stream_.end();
}

}  // namespace kv_transfer
