#pragma once

#include <boost/json.hpp>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace cli {

/// What the gateway at `url` answers to a GET of `path`, or, where `body` is not empty, to a POST; within 30 s.
/// Errors: of the way there; not_found, permission_denied, invalid_argument and unavailable with the gateway's own
/// words; data_loss, when it does not answer with an object of JSON, or with more than 8 MiB.
base::Result<boost::json::object> ask_gateway(const std::string& url, const std::string& api_key,
                                              const std::string& path, const std::string& body = {});

// Members of such an answer; where there is none of that name and kind: empty, or 0.
std::string_view text_of(const boost::json::object& object, std::string_view name);
double number_of(const boost::json::object& object, std::string_view name);
std::int64_t count_of(const boost::json::object& object, std::string_view name);

}  // namespace cli
