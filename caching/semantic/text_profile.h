#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace caching {

/// What of a question decides its answer, whatever a vector says of it. All lists hold hashes of normalised tokens in
/// the order of the text; they are what an entry keeps, 4 bytes a token.
struct TextProfile {
    std::vector<std::uint32_t> content;      // stems of all words but fillers
    std::vector<std::uint32_t> numbers;      // 12, 3.5, "twelve", "second", with their unit or currency
    std::vector<std::uint32_t> identifiers;  // paths, globs, flags, names_with_marks, things in quotes
    std::vector<std::uint32_t> names;        // capitalised inside a sentence, sorted
    std::vector<std::uint32_t> all;          // every word, sorted: where a name is looked for
    std::vector<std::uint32_t> times;        // today, now, latest, weekdays, months; sorted
    std::vector<std::uint32_t> directed;     // names, numbers and the words around "to", "from", "than", in order
    std::vector<std::int32_t> poles;         // of pairs of opposites (enable, disable): +-number of the pair, in order
    std::uint32_t negations = 0;
};

TextProfile profile_of(std::string_view text);

/// Why two texts must not share an answer.
enum class Gate { none, numbers, identifiers, names, times, poles, negation, order };
const char* gate_name(Gate gate);

/// A set of gates, a bit each.
using Gates = std::uint32_t;
constexpr Gates gate_bit(Gate gate) {
    return Gates{1} << static_cast<unsigned>(gate);
}
constexpr Gates kAllGates = ~Gates{0};
/// Where questions are long-winded and answers few, a "not" or a "yesterday" more or less is evidence and no veto.
constexpr Gates kSupportGates =
    gate_bit(Gate::numbers) | gate_bit(Gate::identifiers) | gate_bit(Gate::poles) | gate_bit(Gate::order);

/// The first gate of `gates` that the two do not pass together; symmetric.
Gate first_conflict(const TextProfile& a, const TextProfile& b, Gates gates = kAllGates);

/// Share of the content that only one of the two has: 0 = the same words, 1 = none in common.
double unmatched_share(const TextProfile& a, const TextProfile& b);

}  // namespace caching
