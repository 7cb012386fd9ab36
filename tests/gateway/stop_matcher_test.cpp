#include "gateway/request/stop_matcher.h"

#include <optional>
#include <random>
#include <string>
#include <vector>

#include "tests/support/catch.h"

namespace {

/// By the definition: the match that ends first; of those, the longest.
std::optional<gateway::StopMatcher::Match> simple_match(const std::string& text,
                                                        const std::vector<std::string>& stops) {
    for (std::size_t end = 1; end <= text.size(); ++end) {
        std::optional<gateway::StopMatcher::Match> best;
        for (std::size_t index = 0; index < stops.size(); ++index) {
            const std::string& stop = stops[index];
            if (stop.size() > end || text.compare(end - stop.size(), stop.size(), stop) != 0) { continue; }
            if (!best || end - stop.size() < best->begin) { best = {end - stop.size(), end, index}; }
        }
        if (best) { return best; }
    }
    return std::nullopt;
}

std::string random_text(std::mt19937& random, std::size_t length) {
    std::string text;
    while (text.size() < length) {
        text += static_cast<char>('a' + random() % 2);
    }
    return text;
}

}  // namespace

TEST_CASE("a stop string is found however the text is cut in two", "[gateway]") {
    const std::string text = "one two STOP three";
    for (std::size_t cut = 0; cut <= text.size(); ++cut) {
        CAPTURE(cut);
        gateway::StopMatcher matcher({"STOP"});
        auto match = matcher.push(text.substr(0, cut));
        if (!match) { match = matcher.push(text.substr(cut)); }
        REQUIRE(match);
        REQUIRE(match->begin == 8u);
        REQUIRE(match->end == 12u);
    }
}

TEST_CASE("text that may begin a stop string is held, and let go when it does not", "[gateway]") {
    gateway::StopMatcher matcher({"\n\nUser:", "END"});
    REQUIRE_FALSE(matcher.push("hello\n"));
    REQUIRE(matcher.held_bytes() == 1u);
    REQUIRE_FALSE(matcher.push("\nUs"));
    REQUIRE(matcher.held_bytes() == 4u);
    REQUIRE_FALSE(matcher.push("ual EN"));
    REQUIRE(matcher.held_bytes() == 2u);
    matcher.pass("D of a part that cannot stop, but begin E");
    REQUIRE(matcher.held_bytes() == 1u);
    const auto match = matcher.push("ND");
    REQUIRE(match);
    REQUIRE(match->stop == 1u);
}

TEST_CASE("the first stop string to be complete wins, whatever the pieces", "[gateway][property]") {
    const auto seed = GENERATE(range(0u, 300u));
    CAPTURE(seed);
    std::mt19937 random{seed};
    std::vector<std::string> stops;
    for (std::size_t count = 1 + random() % 3; count > 0; --count) {
        stops.push_back(random_text(random, 1 + random() % 5));
    }
    const std::string text = random_text(random, 40);
    const auto expected = simple_match(text, stops);

    gateway::StopMatcher matcher(stops);
    std::optional<gateway::StopMatcher::Match> found;
    std::size_t at = 0;
    while (at < text.size() && !found) {
        const std::size_t length = std::min<std::size_t>(1 + random() % 6, text.size() - at);
        found = matcher.push(std::string_view(text).substr(at, length));
        at += length;
        if (!found && expected) { REQUIRE(at - matcher.held_bytes() <= expected->begin); }  // nothing of it was let go
    }
    REQUIRE(found.has_value() == expected.has_value());
    if (found) {
        REQUIRE(found->begin == expected->begin);
        REQUIRE(found->end == expected->end);
        REQUIRE(stops[found->stop] == stops[expected->stop]);
    }
}
