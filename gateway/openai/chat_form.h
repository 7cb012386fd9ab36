#pragma once

#include "gateway/openai/fields.h"
#include "gateway/openai/request_form.h"

namespace gateway {

/// Reads messages and what goes with them into the context of the chat template. Problems are left in `fields`.
void read_chat(Fields& fields, RequestForm& form);

}  // namespace gateway
