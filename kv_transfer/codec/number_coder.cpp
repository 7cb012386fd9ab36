#include "kv_transfer/codec/number_coder.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "kv_transfer/codec/class_tables.h"

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

/// Where the number of a lane and row of the piece lies.
std::size_t number_of_lane(const ChunkShape& shape, const NumberPiece& piece, std::uint32_t channel, std::size_t row) {
    return (channel / shape.head_dim * piece.plane_rows + piece.row_begin + row) * shape.head_dim +
           channel % shape.head_dim;
}

/// Calls visit(row, channel) for the escapes of a piece.
template <class Visit>
bool for_each_escape(const ChunkShape& shape, const NumberPiece& piece, std::span<const std::uint8_t> symbols,
                     const Visit& visit) {
    std::size_t from = 0;
    while (from < symbols.size()) {
        const void* found = std::memchr(symbols.data() + from, kEscape, symbols.size() - from);
        if (found == nullptr) { return true; }
        const auto index = static_cast<std::size_t>(static_cast<const std::uint8_t*>(found) - symbols.data());
        const auto channel = static_cast<std::uint32_t>(piece.group * kLanes + index % kLanes);
        if (channel < shape.channels() && !visit(index / kLanes, channel)) { return false; }
        from = index + 1;
    }
    return true;
}

std::uint32_t lanes_of(const ChunkShape& shape, std::uint32_t group) {
    return std::min(kLanes, shape.channels() - group * kLanes);
}

}  // namespace

NumberEncoder::NumberEncoder(const ChunkShape& shape, ChunkWorkspace& workspace, std::span<std::uint8_t> symbols)
    : shape_(shape), workspace_(workspace), symbols_(symbols) {
    workspace_.runs.clear();
}

void NumberEncoder::add(const NumberPiece& piece, const std::int16_t* numbers) {
    const LaneKernels& kernels = lane_kernels();
    const auto own = symbols_.subspan(done_, piece.rows * kLanes);
    done_ += own.size();
    const std::uint32_t lanes = lanes_of(shape_, piece.group);
    if (lanes < kLanes) { std::fill(own.begin(), own.end(), static_cast<std::uint8_t>(kSymbolZero)); }

    std::size_t magnitudes = 0;
    std::size_t seen = 0;
    const std::size_t step = std::max<std::size_t>(1, piece.rows / kRowsSeen);
    for_each_piece(shape_, piece.group, [&](const GroupPiece& part) {
        const std::int16_t* from = numbers + number_at(shape_, piece, part);
        for (std::size_t row = 0; row < piece.rows; row += step) {
            for (std::uint32_t lane = 0; lane < part.lanes; ++lane) {
                magnitudes += static_cast<std::size_t>(std::abs(from[row * shape_.head_dim + lane]));
            }
            seen += part.lanes;
        }
    });
    std::uint32_t shift = 0;
    while (shift < kShiftMax && (magnitudes >> shift) > kMeanMax * seen) {
        ++shift;
    }
    bool has_escapes = false;
    for_each_piece(shape_, piece.group, [&](const GroupPiece& part) {
        has_escapes = kernels.to_symbols(rows_of(shape_, piece, part), numbers + number_at(shape_, piece, part), shift,
                                         own.data() + part.lane) ||
                      has_escapes;
    });
    const ClassChoice choice = choose_class(signed_classes(), own);
    const auto parameter = static_cast<std::uint8_t>(choice.id | shift << 6);
    ChunkSections& sections = workspace_.sections;
    append(sections.parameters, parameter);
    workspace_.runs.push_back(run_of(parameter, piece.rows));
    if (shift > 0) {
        const auto words = grown(workspace_.words, low_words(parameter, piece.rows));
        std::fill(words.begin(), words.end(), 0u);
        for_each_piece(shape_, piece.group, [&](const GroupPiece& part) {
            kernels.low_words(rows_of(shape_, piece, part), numbers + number_at(shape_, piece, part), part.lane, shift,
                              words.data());
        });
        const auto bytes = std::as_bytes(words);
        sections.plain.insert(sections.plain.end(), bytes.begin(), bytes.end());
    }
    if (has_escapes) {
        for_each_escape(shape_, piece, own, [&](std::size_t row, std::uint32_t channel) {
            append(sections.escapes, numbers[number_of_lane(shape_, piece, channel, row)]);
            return true;
        });
    }
}

RansRun run_of(std::uint8_t parameter, std::size_t rows) {
    return {&signed_classes().tables[parameter & (kClasses - 1)], rows};
}

std::size_t low_words(std::uint8_t parameter, std::size_t rows) {
    return rows * (parameter >> 6);
}

NumberDecoder::NumberDecoder(const ChunkShape& shape, ChunkWorkspace& workspace, std::span<const std::uint8_t> symbols,
                             SectionReader plain, SectionReader escapes)
    : shape_(shape), words_(workspace.words), symbols_(symbols), plain_(plain), escapes_(escapes) {}

bool NumberDecoder::take(const NumberPiece& piece, std::uint8_t parameter, std::int16_t* numbers) {
    const LaneKernels& kernels = lane_kernels();
    const auto own = symbols_.subspan(done_, piece.rows * kLanes);
    done_ += own.size();
    const std::uint32_t shift = parameter >> 6;
    for_each_piece(shape_, piece.group, [&](const GroupPiece& part) {
        kernels.to_numbers(rows_of(shape_, piece, part), own.data() + part.lane, shift,
                           numbers + number_at(shape_, piece, part));
    });
    if (shift > 0) {
        const std::size_t count = low_words(parameter, piece.rows);
        if (!plain_.has(count * sizeof(std::uint32_t))) { return false; }
        const auto words = grown(words_, count);
        std::memcpy(words.data(), plain_.take(count * sizeof(std::uint32_t)).data(), count * sizeof(std::uint32_t));
        for_each_piece(shape_, piece.group, [&](const GroupPiece& part) {
            kernels.put_low(rows_of(shape_, piece, part), words.data(), part.lane, shift,
                            numbers + number_at(shape_, piece, part));
        });
    }
    return for_each_escape(shape_, piece, own, [&](std::size_t row, std::uint32_t channel) {
        if (!escapes_.has(sizeof(std::int16_t))) { return false; }
        numbers[number_of_lane(shape_, piece, channel, row)] = escapes_.number<std::int16_t>();
        return true;
    });
}

}  // namespace kv_transfer
