#pragma once

#include <string>
#include <string_view>

#include "gateway/openai/errors.h"
#include "gateway/openai/response_form.h"
#include "gateway/openai/tool_stream.h"

namespace gateway {

/// The answer of an endpoint that gives a list of items (reasoning, text, calls of tools) instead of choices: takes the
/// parts of one sequence as they come and writes what a stream tells of them, or the whole at the end. Its ids follow
/// from the answer's id. Pure: no clock, no chance.
class ItemAnswer {
public:
    virtual ~ItemAnswer() = default;

    /// The first events of a stream. `usage`: with the prompt counted.
    virtual std::string open(const Usage& usage) = 0;
    /// The next part; gives the events of a stream (of a whole answer: none). `call_id`: of a part that begins a call.
    virtual std::string push(const AnswerEvent& event, std::string_view call_id) = 0;
    /// The last events of a stream. Once, as whole().
    virtual std::string close(const GenerationEnd& end, const Usage& usage) = 0;
    /// The body of an answer that is no stream.
    virtual std::string whole(const GenerationEnd& end, const Usage& usage) = 0;
    /// The last events of a stream that fails. `is_open`: open() has been sent.
    virtual std::string failed(const ApiError& error, const Usage& usage, bool is_open) = 0;
    /// What keeps a silent stream alive, once it is open.
    virtual std::string_view ping() const = 0;
};

/// `event: <name>\ndata: <json>\n\n`
std::string named_event(std::string_view name, std::string_view json);

}  // namespace gateway
