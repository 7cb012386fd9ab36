#pragma once

#include <vector>

#include "base/ids.h"

namespace gateway {

/// How a model writes its calls of tools.
enum class ToolFormat {
    none,      // not known: calls are text
    hermes,    // <tool_call>{"name": .., "arguments": {..}}</tool_call>, also Qwen's
    llama3,    // {"name": .., "parameters": {..}} alone, maybe after <|python_tag|>, several with ";" between them
    mistral,   // [TOOL_CALLS][{"name": .., "arguments": {..}}, ..], or [TOOL_CALLS]name[ARGS]{..}
    deepseek,  // between <｜tool▁calls▁begin｜> and <｜tool▁calls▁end｜>
    json,      // an object as llama3's, or a list of them, and nothing else
};

/// What of a model's answers is no plain text, as its template says.
struct AnswerStyle {
    ToolFormat tools = ToolFormat::none;
    bool marks_are_special = false;         // of its calls or its reasoning: not seen where special tokens are left out
    std::vector<base::TokenId> marks = {};  // special_marks() of `tools` as special tokens; -1: it is none
    bool reasons = false;                   // between <think> and </think>
    base::TokenId reasoning_begin = -1;     // these two as tokens, where it `reasons`
    base::TokenId reasoning_end = -1;
};

/// The tokens by which a model is asked for the middle of a text: a mark and what stands before it, a mark and what
/// stands behind it, and a mark that the answer follows.
struct FillMarks {
    base::TokenId prefix = -1;
    base::TokenId suffix = -1;
    base::TokenId middle = -1;
    std::vector<base::TokenId> ends = {};  // of such an answer, beside those of every text
};

}  // namespace gateway
