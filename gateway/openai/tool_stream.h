#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "gateway/request/answer_style.h"

namespace gateway {

/// "hermes", ...; empty for none.
std::string_view tool_format_name(ToolFormat format);
/// The marks of a format's calls, which must not reach a client.
std::vector<std::string> tool_marks(ToolFormat format);

/// Those that are one token in the models that know them, in the order in which AnswerStyle::marks has them.
std::vector<std::string_view> special_marks(ToolFormat format);

/// What of an answer goes where.
struct AnswerEvent {
    enum class Kind { content, reasoning, call, arguments };
    Kind kind = Kind::content;
    std::string text = {};    // of a call its name
    std::uint32_t index = 0;  // of the call
};

/// Takes the calls out of an answer while it comes. What may yet become a mark or a call is held back, at most
/// kHeldBytesMax; what does not become one is content. Marks are never given out. Where calls stand alone, and in
/// hermes at an answer's beginning (some models forget the marks), an object counts by the name of a known tool. Pure.
class ToolStream {
public:
    static constexpr std::size_t kHeldBytesMax = 4096;  // until a call's name is known
    static constexpr std::uint32_t kCallsMax = 64;      // of one answer; what follows is left out

    struct Options {
        ToolFormat format = ToolFormat::none;
        std::vector<std::string> names = {};  // of the tools
        bool is_begun =
            false;  // the answer is a list of calls (format json) and nothing else, as a grammar has made it
        bool answers_in_json = false;  // what is no call is JSON, in which no mark is one
    };
    explicit ToolStream(Options options);

    std::vector<AnswerEvent> push(std::string_view text);
    /// The answer is over: what is held back comes out.
    std::vector<AnswerEvent> finish();
    std::uint32_t calls() const { return calls_; }

private:
    enum class State { content, between, envelope, arguments, after, named, rest };
    /// How an answer begins that may be a call without marks.
    struct Bare {
        enum class Found { more, none, object };
        Found found = Found::more;
        std::size_t at = 0;  // of the object
        bool is_fenced = false;
    };

    bool step(std::vector<AnswerEvent>& events, bool is_last);
    bool step_content(std::vector<AnswerEvent>& events, bool is_last);
    bool step_between(std::vector<AnswerEvent>& events, bool is_last);
    bool step_envelope(std::vector<AnswerEvent>& events, bool is_last);
    bool step_arguments(std::vector<AnswerEvent>& events, bool is_last);
    bool step_after(std::vector<AnswerEvent>& events, bool is_last);
    bool step_named(std::vector<AnswerEvent>& events, bool is_last);
    void give_content(std::vector<AnswerEvent>& events, std::string_view text);
    void begin_call(std::vector<AnswerEvent>& events, std::string name, std::size_t consumed, bool has_envelope);
    bool give_up_call();
    bool is_bare() const { return options_.format == ToolFormat::llama3 || options_.format == ToolFormat::json; }
    bool takes_bare() const { return is_bare() || options_.format == ToolFormat::hermes; }
    Bare find_bare() const;
    /// An object may as well be an answer in JSON: it is a call if it has the name of a tool.
    bool is_unsure() const;

    const Options options_;
    State state_ = State::content;
    std::string held_;
    bool content_seen_ = false;  // other than spaces
    bool has_envelope_ = false;  // the arguments stand in an object that is to be closed
    bool seen_call_ = false;
    bool is_marked_ = false;  // hermes, llama3: a mark stands before what comes
    bool is_fenced_ = false;  // its calls stand in a block of Markdown
    bool is_alone_ = false;   // hermes: the answer began with a call without marks, so what follows is calls
    std::uint32_t calls_ = 0;
    // Of the arguments that are read.
    std::uint32_t depth_ = 0;
    bool in_string_ = false;
    bool is_escaped_ = false;
    bool started_ = false;
    bool is_text_ = false;  // given as a JSON string, which is unpacked
    std::string packed_;
};

}  // namespace gateway
