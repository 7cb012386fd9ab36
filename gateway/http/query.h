#pragma once

#include <map>
#include <string>
#include <string_view>

namespace gateway {

/// NAME=VALUE pairs of a query, the last of a name; what is percent-encoded stays as it is: no name of ours needs it.
std::map<std::string, std::string> query_pairs(std::string_view query);

}  // namespace gateway
