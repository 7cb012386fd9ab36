#include "kv_transfer/codec/number_coder.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string>

#include "kv_transfer/codec/class_tables.h"
#include "kv_transfer/codec/lane_kernels.h"

namespace kv_transfer {
namespace {

constexpr std::uint32_t kShiftMax = 3;
constexpr std::size_t kMeanMax = 5;  // of magnitudes of symbols: above it more than some are escapes
constexpr std::size_t kRowsSeen = 16;

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

/// Some lanes of a piece whose numbers lie side by side.
struct PieceLanes {
    LaneRows rows;
    std::size_t at = 0;  // the first number
    std::uint32_t lane = 0;
};

/// Where the numbers of a piece lie: in the plane, or where they were gathered, [rows][kLanes].
class PiecePlaces {
public:
    PiecePlaces(const ChunkShape& shape, const NumberPiece& piece) : shape_(shape), piece_(piece) {}

    template <class Visit>
    void for_each(const Visit& visit) const {
        if (piece_.order != nullptr) {
            visit(PieceLanes{{.rows = piece_.rows, .stride = kLanes, .lanes = lanes_of(shape_, piece_.group)}, 0, 0});
            return;
        }
        for_each_piece(shape_, piece_.group, [&](const GroupPiece& part) {
            visit(PieceLanes{{.rows = piece_.rows, .stride = shape_.head_dim, .lanes = part.lanes},
                             first_of(part.head * shape_.head_dim + part.dim),
                             part.lane});
        });
    }
    /// Of a symbol.
    std::size_t at(std::uint32_t position) const {
        if (piece_.order != nullptr) { return position; }
        return first_of(piece_.group * kLanes + position % kLanes) + position / kLanes * shape_.head_dim;
    }
    /// Copies each number of the plane to where it is gathered, or back.
    void gather(const std::int16_t* numbers, std::int16_t* gathered) const {
        for_each_gathered([&](std::size_t at, std::size_t gathered_at) { gathered[gathered_at] = numbers[at]; });
    }
    void scatter(const std::int16_t* gathered, std::int16_t* numbers) const {
        for_each_gathered([&](std::size_t at, std::size_t gathered_at) { numbers[at] = gathered[gathered_at]; });
    }

private:
    template <class Visit>
    void for_each_gathered(const Visit& visit) const {
        const std::uint32_t lanes = lanes_of(shape_, piece_.group);
        std::array<std::size_t, kLanes> firsts{};
        for (std::uint32_t lane = 0; lane < lanes; ++lane) {
            firsts[lane] = first_of(piece_.order[piece_.group * kLanes + lane]);
        }
        for (std::size_t row = 0; row < piece_.rows; ++row) {
            for (std::uint32_t lane = 0; lane < lanes; ++lane) {
                visit(firsts[lane] + row * shape_.head_dim, row * kLanes + lane);
            }
        }
    }
    /// A channel's number in the piece's first row; the other rows follow head_dim apart.
    std::size_t first_of(std::uint32_t channel) const {
        return (channel / shape_.head_dim * piece_.plane_rows + piece_.row_begin) * shape_.head_dim +
               channel % shape_.head_dim;
    }

    const ChunkShape& shape_;
    const NumberPiece& piece_;
};

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

void order_channels(std::span<const std::uint8_t> kinds_of, std::uint32_t kinds, std::vector<std::uint32_t>& order) {
    order.clear();
    for (std::uint32_t kind = 0; kind < kinds; ++kind) {
        for (std::uint32_t channel = 0; channel < kinds_of.size(); ++channel) {
            if (kinds_of[channel] == kind) { order.push_back(channel); }
        }
    }
}

void NumberEncoder::add(const NumberPiece& piece, const std::int16_t* numbers) {
    const LaneKernels& kernels = lane_kernels();
    const PiecePlaces places(shape_, piece);
    if (piece.order != nullptr) {
        const auto gathered = grown(workspace_.gathered, piece.rows * kLanes);
        places.gather(numbers, gathered.data());
        numbers = gathered.data();
    }
    const auto symbols = grown(workspace_.symbols, piece.rows * kLanes);
    if (lanes_of(shape_, piece.group) < kLanes) {
        std::fill(symbols.begin(), symbols.end(), static_cast<std::uint8_t>(kSymbolZero));
    }
    std::uint64_t magnitudes = 0;
    std::uint64_t seen = 0;
    const std::size_t step = std::max<std::size_t>(1, piece.rows / kRowsSeen);
    const std::size_t rows_seen = (piece.rows + step - 1) / step;
    places.for_each([&](const PieceLanes& part) {
        magnitudes += kernels.magnitudes(
            {.rows = rows_seen, .stride = step * part.rows.stride, .lanes = part.rows.lanes}, numbers + part.at);
        seen += rows_seen * part.rows.lanes;
    });
    std::uint32_t shift = 0;
    while (shift < kShiftMax && (magnitudes >> shift) > kMeanMax * seen) {
        ++shift;
    }
    bool has_escapes = false;
    places.for_each([&](const PieceLanes& part) {
        has_escapes =
            kernels.to_symbols(part.rows, numbers + part.at, shift, symbols.data() + part.lane) || has_escapes;
    });
    const ClassChoice choice = choose_class(signed_classes(), symbols);
    const auto parameter = static_cast<std::uint8_t>(choice.id | shift << 6);
    ChunkSections& sections = workspace_.sections;
    sections.parameters.put_number(parameter);
    stream_.put(run_of(parameter, piece.rows), symbols.data());
    if (shift > 0) {
        const auto words = grown(workspace_.words, piece.rows * shift);
        std::fill(words.begin(), words.end(), 0u);
        places.for_each([&](const PieceLanes& part) {
            kernels.low_words(part.rows, numbers + part.at, part.lane, shift, words.data());
        });
        sections.plain.put(std::as_bytes(words));
    }
    if (has_escapes) {
        const auto escapes = escapes_of(shape_, piece, workspace_, symbols);
        std::byte* to = sections.escapes.put(escapes.size() * sizeof(std::int16_t));
        for (const std::uint32_t position : escapes) {
            std::memcpy(to, numbers + places.at(position), sizeof(std::int16_t));
            to += sizeof(std::int16_t);
        }
    }
}

NumberDecoder::NumberDecoder(const ChunkShape& shape, ChunkWorkspace& workspace, SectionReader plain,
                             SectionReader escapes)
    : shape_(shape), workspace_(workspace), stream_(rans_kernels()), plain_(plain), escapes_(escapes) {}

base::Result<void> NumberDecoder::take(const NumberPiece& piece, std::uint8_t parameter, std::int16_t* numbers) {
    const LaneKernels& kernels = lane_kernels();
    const PiecePlaces places(shape_, piece);
    std::int16_t* const to = piece.order == nullptr ? numbers : grown(workspace_.gathered, piece.rows * kLanes).data();
    const auto symbols = grown(workspace_.symbols, piece.rows * kLanes);
    if (auto taken = stream_.take(run_of(parameter, piece.rows), symbols.data()); !taken) { return taken; }
    const std::uint32_t shift = shift_of(parameter);
    places.for_each([&](const PieceLanes& part) {
        kernels.to_numbers(part.rows, symbols.data() + part.lane, shift, to + part.at);
    });
    if (shift > 0) {
        const std::size_t bytes = piece.rows * shift * sizeof(std::uint32_t);
        if (!plain_.has(bytes)) { return damaged("low bits end too early"); }
        const auto words = grown(workspace_.words, piece.rows * shift);
        if (bytes > 0) { std::memcpy(words.data(), plain_.take(bytes).data(), bytes); }
        places.for_each(
            [&](const PieceLanes& part) { kernels.put_low(part.rows, words.data(), part.lane, shift, to + part.at); });
    }
    const auto escapes = escapes_of(shape_, piece, workspace_, symbols);
    if (!escapes_.has(escapes.size() * sizeof(std::int16_t))) { return damaged("escapes end too early"); }
    for (const std::uint32_t position : escapes) {
        to[places.at(position)] = escapes_.number<std::int16_t>();
    }
    if (piece.order != nullptr) { places.scatter(to, numbers); }
    return {};
}

base::Result<void> NumberDecoder::end() const {
    if (!plain_.empty() || !escapes_.empty()) { return damaged("sections go on behind the last number"); }
    return stream_.end();
}

}  // namespace kv_transfer
