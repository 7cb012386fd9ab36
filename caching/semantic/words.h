#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace caching {

/// Mixed FNV-1a of bytes: the name of a feature. Fixed for ever: the projection in the repository is trained on it.
std::uint32_t feature_hash(std::string_view prefix, std::string_view bytes);

/// Runs of letters, digits and bytes beyond ASCII, in lower case, apostrophes left out ("can't" is "cant"); at most
/// `limit`. The words that the hashed features are made of.
std::vector<std::string> words_of(std::string_view text, std::size_t limit = 256);

/// A feature of a text and how much it counts.
struct Feature {
    std::uint32_t hash = 0;
    float weight = 0;
};

/// Words, pairs of neighbouring words, and runs of 3 and 4 bytes inside a word. A hash may come more than once.
std::vector<Feature> features_of(std::string_view text);

/// The text with runs of blanks made one and blanks at the ends taken off: what formatting alone changes.
/// Texts with a line break inside (code, tables) keep their blanks, only the ends are trimmed.
std::string canonical_text(std::string_view text);

/// An earlier turn of the user: canonical, and without the full stops, question and exclamation marks at the ends of
/// words, which a client may add or lose when it sends the conversation again.
std::string canonical_turn(std::string_view text);

}  // namespace caching
