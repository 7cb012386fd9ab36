#pragma once

#include <boost/json/fwd.hpp>
#include <memory>
#include <string>
#include <vector>

#include "gateway/openai/fields.h"
#include "gateway/openai/request_form.h"

namespace gateway {

/// Reads `tools` with `tool_choice` and `parallel_tool_calls`, or the older `functions` with `function_call`, into the
/// form and into the context of the chat template. Problems are left in `fields`.
void read_tools(Fields& fields, RequestForm& form, boost::json::object& context);

/// What an answer that must be a call keeps to: the name of a tool with arguments as its schema wants them, one call or
/// (where the client allows it) up to sixteen, in the form that the model knows. Pure.
proto::Grammar call_grammar(const ToolsForm& tools, ToolFormat format);

/// What an answer keeps to in which the model decides itself whether it calls: text, and calls of the tools in the
/// model's form, with arguments as the schema wants them where the tool is strict. `marks`: AnswerStyle::marks, or
/// empty: they are written as text, as whoever checks a grammar without knowing the model's tokens needs it.
/// `answer_schema`: JSON that an answer without calls is, in place of text, and then nothing stands before calls;
/// empty: any text. Only of forms whose calls stand behind marks. Pure.
proto::Grammar open_grammar(const ToolsForm& tools, ToolFormat format, const std::vector<base::TokenId>& marks,
                            const std::string& answer_schema = {});

/// The schema of an answer that keeps to `grammar`, for open_grammar(); empty: the grammar is none of JSON. Pure.
std::string answer_schema_of(const proto::Grammar& grammar);

}  // namespace gateway
