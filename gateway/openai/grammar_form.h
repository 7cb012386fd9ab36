#pragma once

#include "gateway/openai/fields.h"
#include "gateway/openai/request_form.h"

namespace gateway {

/// Reads what an answer has to keep to: `response_format` (OpenAI), `structured_outputs` and the older `guided_*`
/// (vLLM), `regex` and `json_schema` (SGLang, llama.cpp). At most one of them. Problems are left in `fields`; whether
/// it compiles is checked later, by prepare().
void read_grammar(Fields& fields, const FormLimits& limits, RequestForm& form);

}  // namespace gateway
