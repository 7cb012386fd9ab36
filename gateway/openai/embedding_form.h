#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <boost/json/object.hpp>

#include "gateway/openai/prepare.h"
#include "gateway/openai/request_form.h"

namespace gateway {

/// Reads and checks a body of /v1/embeddings: `input` becomes the form's prompts. Unknown fields are accepted. Pure.
/// Errors: as read_form().
ApiResult<RequestForm> read_embedding_form(const boost::json::object& body, const FormLimits& limits,
                                           const Models& models);

/// From form to tokens: the texts with the special tokens that the model puts around them; what spells a special token
/// in a text stays text. Thread-safe. Errors: 400 (more text than `limits` allow, a text longer than the model takes,
/// with both numbers).
ApiResult<PreparedRequest> prepare_embedding(RequestForm form, const PrepareContext& context);

/// The first `dimensions` elements of a vector, of length 1 again. `dimensions`: at most as many as it has.
void cut_vector(std::vector<float>& vector, std::uint32_t dimensions);

/// The answer, in the order of the texts. `prompt_tokens`: of all of them.
std::string embedding_json(std::string_view model, const std::vector<std::vector<float>>& vectors, bool base64,
                           std::uint64_t prompt_tokens);

}  // namespace gateway
