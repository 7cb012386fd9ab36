#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "gateway/openai/tool_stream.h"

namespace gateway {

/// Splits the text of one answer, while it comes, into reasoning, content and calls. What may become a mark is held
/// back. Pure.
class AnswerReader {
public:
    struct Options {
        bool reasons = false;           // what stands between <think> and </think> is reasoning
        bool begins_reasoning = false;  // the prompt has opened it
        std::optional<ToolStream::Options> tools = {};
        bool does_anything() const { return reasons || tools.has_value(); }
    };
    explicit AnswerReader(Options options);

    std::vector<AnswerEvent> push(std::string_view text);
    std::vector<AnswerEvent> finish();
    std::uint32_t calls() const { return tools_.calls(); }

private:
    enum class State { before, inside, leaving, after };
    void read(std::string_view text, bool is_last, std::vector<AnswerEvent>& events);
    void give(std::string_view content, std::vector<AnswerEvent>& events);

    State state_;
    std::string held_;
    ToolStream tools_;
};

}  // namespace gateway
