#include "gateway/openai/tool_stream.h"

#include <algorithm>
#include <boost/json.hpp>
#include <optional>
#include <utility>

namespace gateway {
namespace {

constexpr std::string_view kSpaces = " \t\r\n";
/// Of those before a call, which belong to it: so many wait for what follows them.
constexpr std::size_t kSpacesHeldMax = 64;

/// What begins calls in an answer; empty: calls stand alone.
std::vector<std::string_view> begins_of(ToolFormat format) {
    switch (format) {
        case ToolFormat::hermes:
            return {"<tool_call>"};
        case ToolFormat::llama3:
            return {"<|python_tag|>"};
        case ToolFormat::mistral:
            return {"[TOOL_CALLS]"};
        case ToolFormat::deepseek:
            return {"<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>"};
        default:
            return {};
    }
}

/// What stands between and after calls and is left out.
std::vector<std::string_view> separators_of(ToolFormat format) {
    switch (format) {
        case ToolFormat::hermes:
            return {"</tool_call>", "<tool_call>"};
        case ToolFormat::llama3:
            return {"<|python_tag|>", "<|eom_id|>", "<|eot_id|>", ";", ","};
        case ToolFormat::mistral:
            return {"[TOOL_CALLS]", "[", "]", ","};
        case ToolFormat::deepseek:
            return {"<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>",
                    "```"};
        case ToolFormat::json:
            return {"[", "]", ",", ";"};
        default:
            return {};
    }
}

bool begins_with(std::string_view text, std::string_view part) {
    return text.substr(0, part.size()) == part;
}

/// `text` ends with a beginning of `mark`, of so many bytes; 0: it does not.
std::size_t begun_at_end(std::string_view text, std::string_view mark) {
    for (std::size_t size = std::min(text.size(), mark.size() - 1); size > 0; --size) {
        if (text.substr(text.size() - size) == mark.substr(0, size)) { return size; }
    }
    return 0;
}

std::size_t skip_spaces(std::string_view text, std::size_t at) {
    while (at < text.size() && kSpaces.find(text[at]) != std::string_view::npos) {
        ++at;
    }
    return at;
}

/// At most kSpacesHeldMax.
std::size_t spaces_at_end(std::string_view text) {
    std::size_t spaces = 0;
    while (spaces < std::min(text.size(), kSpacesHeldMax) &&
           kSpaces.find(text[text.size() - 1 - spaces]) != std::string_view::npos) {
        ++spaces;
    }
    return spaces;
}

/// The end of the JSON string that begins at `at`; npos: it is not there yet.
std::size_t string_end(std::string_view text, std::size_t at) {
    for (std::size_t i = at + 1; i < text.size(); ++i) {
        if (text[i] == '\\') {
            ++i;
        } else if (text[i] == '"') {
            return i + 1;
        }
    }
    return std::string_view::npos;
}

std::optional<std::string> unpacked(std::string_view json_text) {
    boost::json::error_code error;
    const boost::json::value value =
        boost::json::parse(boost::json::string_view(json_text.data(), json_text.size()), error);
    if (error || !value.is_string()) { return std::nullopt; }
    return std::string(value.get_string().data(), value.get_string().size());
}

/// The beginning of a call's object up to its arguments.
struct Envelope {
    enum class Found { more, none, name };
    Found found = Found::more;
    std::string name = {};
    std::size_t consumed = 0;  // up to the value of the arguments, or to the end of an object without any
    bool has_arguments = true;
};

/// {"name": "..", "arguments" or "parameters": ..; members of other names with texts as values are passed over.
/// `is_exact`: only "type" may be another one, and arguments have to follow.
Envelope read_envelope(std::string_view text, bool is_exact) {
    Envelope none{.found = Envelope::Found::none};
    std::size_t at = skip_spaces(text, 0);
    if (at == text.size()) { return {}; }
    if (text[at] != '{') { return none; }
    std::optional<std::string> name;
    at = skip_spaces(text, at + 1);
    while (true) {
        if (at == text.size()) { return {}; }
        if (text[at] == '}' && name && !is_exact) {
            return {.found = Envelope::Found::name, .name = *name, .consumed = at, .has_arguments = false};
        }
        if (text[at] != '"') { return none; }
        const std::size_t key_end = string_end(text, at);
        if (key_end == std::string_view::npos) { return {}; }
        const std::string_view key = text.substr(at + 1, key_end - at - 2);
        const bool is_arguments = key == "arguments" || key == "parameters";
        if (is_exact && !is_arguments && (name || (key != "type" && key != "name"))) { return none; }
        at = skip_spaces(text, key_end);
        if (at == text.size()) { return {}; }
        if (text[at] != ':') { return none; }
        at = skip_spaces(text, at + 1);
        if (at == text.size()) { return {}; }
        if (is_arguments) {
            if (!name) { return none; }
            return {.found = Envelope::Found::name, .name = *name, .consumed = at};
        }
        if (text[at] != '"') { return none; }
        const std::size_t value_end = string_end(text, at);
        if (value_end == std::string_view::npos) { return {}; }
        if (key == "name") { name = unpacked(text.substr(at, value_end - at)); }
        if (key == "name" && (!name || name->empty())) { return none; }
        at = skip_spaces(text, value_end);
        if (at == text.size()) { return {}; }
        if (text[at] == ',') {
            at = skip_spaces(text, at + 1);
        } else if (text[at] != '}') {
            return none;
        }
    }
}

}  // namespace

std::string_view tool_format_name(ToolFormat format) {
    switch (format) {
        case ToolFormat::hermes:
            return "hermes";
        case ToolFormat::llama3:
            return "llama3";
        case ToolFormat::mistral:
            return "mistral";
        case ToolFormat::deepseek:
            return "deepseek";
        case ToolFormat::json:
            return "json";
        default:
            return "";
    }
}

std::vector<std::string_view> special_marks(ToolFormat format) {
    switch (format) {
        case ToolFormat::hermes:
            return {"<tool_call>", "</tool_call>"};
        case ToolFormat::mistral:
            return {"[TOOL_CALLS]", "[ARGS]"};
        case ToolFormat::deepseek:
            return {"<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>",
                    "<｜tool▁calls▁end｜>"};
        default:
            return {};
    }
}

std::vector<std::string> tool_marks(ToolFormat format) {
    std::vector<std::string> marks;
    for (const auto& list : {begins_of(format), separators_of(format)}) {
        for (const std::string_view mark : list) {
            if (mark.size() > 3) { marks.emplace_back(mark); }
        }
    }
    if (format == ToolFormat::mistral) { marks.emplace_back("[ARGS]"); }
    if (format == ToolFormat::deepseek) { marks.emplace_back("<｜tool▁sep｜>"); }
    return marks;
}

ToolStream::ToolStream(Options options)
    : options_(std::move(options)), state_(options_.is_begun ? State::between : State::content) {}

std::vector<AnswerEvent> ToolStream::push(std::string_view text) {
    std::vector<AnswerEvent> events;
    held_ += text;
    while (step(events, false)) {}
    return events;
}

std::vector<AnswerEvent> ToolStream::finish() {
    std::vector<AnswerEvent> events;
    while (step(events, true)) {}
    return events;
}

bool ToolStream::step(std::vector<AnswerEvent>& events, bool is_last) {
    switch (state_) {
        case State::content:
            return step_content(events, is_last);
        case State::between:
            return step_between(events, is_last);
        case State::envelope:
            return step_envelope(events, is_last);
        case State::arguments:
            return step_arguments(events, is_last);
        case State::after:
            return step_after(events, is_last);
        case State::named:
            return step_named(events, is_last);
        case State::rest:
            held_.clear();
            return false;
    }
    return false;
}

void ToolStream::give_content(std::vector<AnswerEvent>& events, std::string_view text) {
    if (text.empty()) { return; }
    if (skip_spaces(text, 0) < text.size()) { content_seen_ = true; }
    if (!events.empty() && events.back().kind == AnswerEvent::Kind::content) {
        events.back().text += text;
    } else {
        events.push_back({.kind = AnswerEvent::Kind::content, .text = std::string(text)});
    }
}

/// Spaces and "{"; of json, or behind Llama's mark, maybe "[" between them, of hermes "```" or "```json".
ToolStream::Bare ToolStream::find_bare() const {
    constexpr std::string_view kFence = "```";
    constexpr std::string_view kLanguage = "json";
    const std::string_view text = held_;
    Bare bare;
    bare.at = skip_spaces(text, 0);
    const auto is_begun = [&](std::string_view word) {
        const std::string_view rest = text.substr(bare.at);
        return rest.size() < word.size() && begins_with(word, rest);
    };
    if (options_.format == ToolFormat::hermes) {
        if (is_begun(kFence)) { return bare; }
        bare.is_fenced = begins_with(text.substr(bare.at), kFence);
        if (bare.is_fenced) {
            bare.at += kFence.size();
            if (is_begun(kLanguage)) { return bare; }
            if (begins_with(text.substr(bare.at), kLanguage)) { bare.at += kLanguage.size(); }
        }
    } else if ((options_.format == ToolFormat::json || is_marked_) && begins_with(text.substr(bare.at), "[")) {
        ++bare.at;
    }
    bare.at = skip_spaces(text, bare.at);
    if (bare.at < text.size()) { bare.found = text[bare.at] == '{' ? Bare::Found::object : Bare::Found::none; }
    if (bare.at > kHeldBytesMax) { bare.found = Bare::Found::none; }
    return bare;
}

bool ToolStream::is_unsure() const {
    if (options_.is_begun) { return false; }
    return options_.format == ToolFormat::hermes ? !is_marked_ : is_bare() && !seen_call_;
}

bool ToolStream::step_content(std::vector<AnswerEvent>& events, bool is_last) {
    if (held_.empty()) { return false; }
    if (options_.format == ToolFormat::none) {
        give_content(events, std::exchange(held_, {}));
        return false;
    }
    if (takes_bare() && !content_seen_ && !seen_call_) {
        const Bare bare = find_bare();
        if (bare.found == Bare::Found::object) {
            state_ = State::envelope;
            return true;
        }
        if (bare.found == Bare::Found::more && !is_last) { return false; }
        if (bare.at > kHeldBytesMax) { content_seen_ = true; }
    }
    std::size_t first = std::string::npos;
    std::size_t keep = 0;
    std::string_view mark;
    for (const std::string_view one : begins_of(options_.format)) {
        if (const std::size_t at = held_.find(one); at < first) {
            first = at;
            mark = one;
        }
        keep = std::max(keep, begun_at_end(held_, one));
    }
    if (options_.answers_in_json) {
        const std::size_t at = skip_spaces(held_, 0);
        const bool may_be_mark = first == at || at + keep == held_.size();
        if (content_seen_ || !may_be_mark) {
            give_content(events, std::exchange(held_, {}));
            return false;
        }
    }
    if (first != std::string::npos) {
        std::string_view before = std::string_view(held_).substr(0, first);
        give_content(events, before.substr(0, before.size() - spaces_at_end(before)));
        held_.erase(0, first + mark.size());
        is_marked_ = true;
        state_ = State::between;
        return true;
    }
    if (is_last) { keep = 0; }
    // Spaces at the end may be those before a call.
    std::size_t end = held_.size() - keep;
    if (!is_last) { end -= spaces_at_end(std::string_view(held_).substr(0, end)); }
    if (end == 0) { return false; }
    give_content(events, std::string_view(held_).substr(0, end));
    held_.erase(0, end);
    return false;
}

/// Where a call may begin.
bool ToolStream::step_between(std::vector<AnswerEvent>& events, bool is_last) {
    static_cast<void>(events);
    std::size_t at = skip_spaces(held_, 0);
    if (!is_bare() || !is_unsure()) {
        auto separators = separators_of(options_.format);
        if (is_fenced_) { separators.push_back("```"); }
        while (true) {
            const std::string_view rest = std::string_view(held_).substr(at);
            const auto is_begun = [&](std::string_view one) {
                return !rest.empty() && rest.size() < one.size() && begins_with(one, rest);
            };
            if (std::any_of(separators.begin(), separators.end(), is_begun)) {
                held_.erase(0, is_last ? held_.size() : at);  // a mark that was cut off is none for a client either
                return false;
            }
            const auto found = std::find_if(separators.begin(), separators.end(),
                                            [&](std::string_view one) { return begins_with(rest, one); });
            if (found == separators.end()) { break; }
            if (*found == "<tool_call>") { is_marked_ = true; }
            at = skip_spaces(held_, at + found->size());
        }
        held_.erase(0, at);
        at = 0;
    } else if (at < held_.size() && held_[at] == '[') {
        at = skip_spaces(held_, at + 1);
    }
    if (at >= held_.size()) { return is_last && is_unsure() ? give_up_call() : false; }
    if (held_[at] == '{') {
        state_ = State::envelope;
        return true;
    }
    if (is_unsure()) { return give_up_call(); }
    if (options_.format == ToolFormat::mistral || options_.format == ToolFormat::deepseek) {
        state_ = State::named;
        return true;
    }
    state_ = State::content;  // text after the calls
    return true;
}

bool ToolStream::give_up_call() {
    content_seen_ = true;
    state_ = State::content;  // what is held is read once more, as text
    return true;
}

bool ToolStream::step_envelope(std::vector<AnswerEvent>& events, bool is_last) {
    Bare bare;
    if (takes_bare() && !options_.is_begun && !seen_call_) { bare = find_bare(); }
    const Envelope envelope =
        read_envelope(std::string_view(held_).substr(bare.at), options_.answers_in_json && is_unsure());
    if (envelope.found == Envelope::Found::name) {
        const bool is_known =
            std::find(options_.names.begin(), options_.names.end(), envelope.name) != options_.names.end();
        if (is_unsure() && !is_known) { return give_up_call(); }
        is_fenced_ = is_fenced_ || bare.is_fenced;
        is_alone_ = is_alone_ || (!seen_call_ && !is_marked_);
        begin_call(events, envelope.name, bare.at + envelope.consumed, true);
        if (!envelope.has_arguments) {
            events.push_back({.kind = AnswerEvent::Kind::arguments, .text = "{}", .index = calls_ - 1});
            state_ = State::after;
        }
        return true;
    }
    const bool is_call = !is_unsure() || is_alone_;
    if (envelope.found == Envelope::Found::more && held_.size() <= kHeldBytesMax && (!is_last || is_call)) {
        if (is_last) { held_.clear(); }  // a call that was cut off before its name is known
        return false;
    }
    return give_up_call();
}

void ToolStream::begin_call(std::vector<AnswerEvent>& events, std::string name, std::size_t consumed,
                            bool has_envelope) {
    held_.erase(0, consumed);
    seen_call_ = true;
    is_marked_ = false;
    if (calls_ == kCallsMax) {
        state_ = State::rest;
        return;
    }
    events.push_back({.kind = AnswerEvent::Kind::call, .text = std::move(name), .index = calls_++});
    has_envelope_ = has_envelope;
    depth_ = 0;
    in_string_ = is_escaped_ = started_ = is_text_ = false;
    packed_.clear();
    state_ = State::arguments;
}

/// Up to the end of the value that begins here.
bool ToolStream::step_arguments(std::vector<AnswerEvent>& events, bool is_last) {
    std::size_t at = 0;
    bool is_over = false;
    if (!started_) {
        at = skip_spaces(held_, 0);
        held_.erase(0, at);
        at = 0;
        if (held_.empty()) { return false; }
        started_ = true;
        is_text_ = held_.front() == '"';
    }
    for (; at < held_.size() && !is_over; ++at) {
        const char c = held_[at];
        if (in_string_) {
            if (is_escaped_) {
                is_escaped_ = false;
            } else if (c == '\\') {
                is_escaped_ = true;
            } else if (c == '"') {
                in_string_ = false;
                is_over = depth_ == 0;
            }
        } else if (c == '"') {
            in_string_ = true;
        } else if (c == '{' || c == '[') {
            ++depth_;
        } else if (c == '}' || c == ']') {
            if (depth_ == 0) { break; }  // of the object around a value that is a number or a word
            is_over = --depth_ == 0;
        } else if (depth_ == 0 && c == ',') {
            break;
        }
    }
    const bool is_broken_off = at < held_.size() && !is_over;
    const std::string piece = held_.substr(0, at);
    held_.erase(0, at);
    is_over = is_over || is_broken_off;
    if (is_text_) {
        packed_ += piece;
        if (is_over || is_last) {
            const auto text = unpacked(packed_);
            events.push_back({AnswerEvent::Kind::arguments, text.value_or(packed_), calls_ - 1});
            packed_.clear();
        }
    } else if (!piece.empty()) {
        events.push_back({AnswerEvent::Kind::arguments, piece, calls_ - 1});
    }
    if (!is_over) { return false; }
    state_ = State::after;
    return true;
}

/// What closes a call.
bool ToolStream::step_after(std::vector<AnswerEvent>& events, bool is_last) {
    static_cast<void>(events);
    static_cast<void>(is_last);
    if (!has_envelope_) {
        state_ = State::between;
        return !held_.empty();
    }
    // Other members of the object are passed over.
    while (!held_.empty()) {
        const char c = held_.front();
        if (in_string_) {
            if (is_escaped_) {
                is_escaped_ = false;
            } else if (c == '\\') {
                is_escaped_ = true;
            } else if (c == '"') {
                in_string_ = false;
            }
        } else if (c == '"') {
            in_string_ = true;
        } else if (c == '{' || c == '[') {
            ++depth_;
        } else if (c == '}' || c == ']') {
            if (depth_ == 0) {
                held_.erase(0, 1);
                state_ = State::between;
                return true;
            }
            --depth_;
        } else if (depth_ == 0 && c == '<') {
            state_ = State::between;  // it was never closed
            return true;
        }
        held_.erase(0, 1);
    }
    return false;
}

/// name[ARGS]{..} of Mistral; name<｜tool▁sep｜>{..} and function<｜tool▁sep｜>name\n```json\n{..} of DeepSeek.
bool ToolStream::step_named(std::vector<AnswerEvent>& events, bool is_last) {
    const std::size_t brace = held_.find('{');
    if (brace == std::string::npos) {
        if (!is_last && held_.size() <= kHeldBytesMax) { return false; }
        held_.clear();  // marks without a call
        state_ = State::rest;
        return false;
    }
    std::string name = held_.substr(0, brace);
    const std::string_view separator = options_.format == ToolFormat::mistral ? "[ARGS]" : "<｜tool▁sep｜>";
    if (const std::size_t at = name.find(separator); at != std::string::npos) {
        const std::string after = name.substr(at + separator.size());
        const std::size_t word = skip_spaces(after, 0);
        const bool name_follows = options_.format == ToolFormat::deepseek && word < after.size() && after[word] != '`';
        name = name_follows ? after.substr(word) : name.substr(0, at);
    }
    name.erase(0, skip_spaces(name, 0));
    name.resize(std::min(name.find_first_of(" \t\r\n`["), name.size()));
    if (name.empty()) {
        held_.erase(0, brace + 1);
        state_ = State::content;
        return true;
    }
    begin_call(events, std::move(name), brace, false);
    return true;
}

}  // namespace gateway
