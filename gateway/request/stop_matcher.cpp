#include "gateway/request/stop_matcher.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace gateway {
namespace {

/// borders[k]: length of the longest proper prefix of `text` that is also a suffix of its first k bytes.
std::vector<std::size_t> borders_of(const std::string& text) {
    std::vector<std::size_t> borders(text.size() + 1, 0);
    for (std::size_t end = 1, border = 0; end < text.size(); ++end) {
        while (border > 0 && text[end] != text[border]) {
            border = borders[border];
        }
        if (text[end] == text[border]) { ++border; }
        borders[end + 1] = border;
    }
    return borders;
}

}  // namespace

StopMatcher::StopMatcher(std::vector<std::string> stops) : stops_(std::move(stops)), matched_(stops_.size(), 0) {
    for (const std::string& stop : stops_) {
        CHECK(!stop.empty());
        borders_.push_back(borders_of(stop));
    }
}

bool StopMatcher::advance(std::size_t index, char byte) {
    const std::string& stop = stops_[index];
    std::size_t& matched = matched_[index];
    while (matched > 0 && stop[matched] != byte) {
        matched = borders_[index][matched];
    }
    if (stop[matched] == byte) { ++matched; }
    if (matched < stop.size()) { return false; }
    matched = borders_[index][matched];
    return true;
}

std::optional<StopMatcher::Match> StopMatcher::push(std::string_view piece) {
    if (found_) { return found_; }
    for (const char byte : piece) {
        ++position_;
        for (std::size_t index = 0; index < stops_.size(); ++index) {
            if (!advance(index, byte)) { continue; }
            const Match match{.begin = position_ - stops_[index].size(), .end = position_, .stop = index};
            if (!found_ || match.begin < found_->begin) { found_ = match; }
        }
        if (found_) { return found_; }
    }
    return std::nullopt;
}

void StopMatcher::pass(std::string_view piece) {
    for (const char byte : piece) {
        ++position_;
        for (std::size_t index = 0; index < stops_.size(); ++index) {
            advance(index, byte);
        }
    }
}

std::size_t StopMatcher::held_bytes() const {
    if (found_) { return 0; }
    const auto longest = std::max_element(matched_.begin(), matched_.end());
    return longest == matched_.end() ? 0 : *longest;
}

}  // namespace gateway
