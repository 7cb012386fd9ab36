#pragma once

#include <string_view>

#include "gateway/explain/timeline_book.h"
#include "gateway/http/exchange.h"
#include "gateway/openai/errors.h"

namespace gateway {

/// Where `GET /explain` and `GET /explain/ID` begin, without the version.
inline constexpr std::string_view kExplainPath = "/explain";

/// From this machine, and for nobody else: a proxy here that names whom it asks for is not the one who gets the answer.
bool is_from_here(const HttpRequest& request);

/// The answer: a summary of the last `since` seconds (query; default 600), or one request's timeline.
/// Errors: 403 for whoever does not ask from this machine (unless explain.from_anywhere), 404 for a request that is not
/// kept or where nothing is recorded, 400 for a `since` that is no number of seconds up to a day.
ApiResult<std::string> answer_explain(const HttpRequest& request, std::string_view route, const ExplainOptions& options,
                                      const TimelineBook& book);

}  // namespace gateway
