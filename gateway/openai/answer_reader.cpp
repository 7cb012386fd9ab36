#include "gateway/openai/answer_reader.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace gateway {
namespace {

constexpr std::string_view kBegin = "<think>";
constexpr std::string_view kEnd = "</think>";
constexpr std::string_view kSpaces = " \t\r\n";

/// Bytes at the end of `text` that a mark may begin with.
std::size_t begun_at_end(std::string_view text, std::string_view mark) {
    for (std::size_t size = std::min(text.size(), mark.size() - 1); size > 0; --size) {
        if (text.substr(text.size() - size) == mark.substr(0, size)) { return size; }
    }
    return 0;
}

}  // namespace

AnswerReader::AnswerReader(Options options)
    : state_(!options.reasons           ? State::after
             : options.begins_reasoning ? State::inside
                                        : State::before),
      tools_(options.tools.value_or(ToolStream::Options{})) {}

std::vector<AnswerEvent> AnswerReader::push(std::string_view text) {
    std::vector<AnswerEvent> events;
    read(text, false, events);
    return events;
}

std::vector<AnswerEvent> AnswerReader::finish() {
    std::vector<AnswerEvent> events;
    read({}, true, events);
    auto last = tools_.finish();
    std::move(last.begin(), last.end(), std::back_inserter(events));
    return events;
}

void AnswerReader::give(std::string_view content, std::vector<AnswerEvent>& events) {
    auto parts = tools_.push(content);
    std::move(parts.begin(), parts.end(), std::back_inserter(events));
}

void AnswerReader::read(std::string_view text, bool is_last, std::vector<AnswerEvent>& events) {
    if (state_ == State::after) { return give(text, events); }
    held_ += text;
    if (state_ == State::before) {
        const std::size_t at = std::min(held_.find_first_not_of(kSpaces), held_.size());
        const std::string_view rest = std::string_view(held_).substr(at);
        if (rest.substr(0, kBegin.size()) == kBegin) {
            held_.erase(0, at + kBegin.size());
            state_ = State::inside;
        } else if (!is_last && rest.size() < kBegin.size() && kBegin.substr(0, rest.size()) == rest) {
            return;
        } else {
            state_ = State::after;
            return give(std::exchange(held_, {}), events);
        }
    }
    if (state_ == State::inside) {
        const std::size_t end = held_.find(kEnd);
        const std::size_t keep = is_last || end != std::string::npos ? 0 : begun_at_end(held_, kEnd);
        const std::size_t size = end != std::string::npos ? end : held_.size() - keep;
        if (size > 0) { events.push_back({AnswerEvent::Kind::reasoning, held_.substr(0, size), 0}); }
        held_.erase(0, end != std::string::npos ? end + kEnd.size() : size);
        if (end == std::string::npos) { return; }
        state_ = State::leaving;
    }
    // The empty lines after the mark belong to it.
    const std::size_t at = std::min(held_.find_first_not_of(kSpaces), held_.size());
    held_.erase(0, at);
    if (held_.empty()) { return; }
    state_ = State::after;
    give(std::exchange(held_, {}), events);
}

}  // namespace gateway
