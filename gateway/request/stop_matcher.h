#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace gateway {

/// Finds the first stop string in a stream of text, however the stream is cut into pieces, and says how much of the
/// text may be shown already. The match is the one that is complete first; of several that end at the same byte, the
/// longest. One Knuth-Morris-Pratt automaton for each stop string: O(stops) a byte. Owned by one sequence.
class StopMatcher {
public:
    struct Match {
        std::size_t begin;  // byte offset in the whole text at which the stop string starts
        std::size_t end;    // one past its last byte
        std::size_t stop;   // index of the stop string
    };

    /// No stop string may be empty.
    explicit StopMatcher(std::vector<std::string> stops);

    /// Takes the next piece. Once a match was found, further text is ignored.
    std::optional<Match> push(std::string_view piece);
    /// Takes text in which a stop string may begin, but none that is complete in it counts.
    void pass(std::string_view piece);

    /// Bytes at the end of the text so far that may be the beginning of a stop string.
    std::size_t held_bytes() const;
    const std::string& stop(std::size_t index) const { return stops_[index]; }

private:
    /// Whether `byte` completes the stop string.
    bool advance(std::size_t index, char byte);

    std::vector<std::string> stops_;
    std::vector<std::vector<std::size_t>> borders_;  // [stop][length matched] -> longest border
    std::vector<std::size_t> matched_;               // [stop] bytes matched at the end of the text
    std::size_t position_ = 0;                       // bytes seen
    std::optional<Match> found_;
};

}  // namespace gateway
