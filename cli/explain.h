#pragma once

#include <CLI/CLI.hpp>
#include <boost/json/object.hpp>
#include <chrono>
#include <string>
#include <string_view>

#include "base/result.h"

namespace cli {

/// `sluice explain`: why a request was late, or what was late lately and what would help.
struct ExplainCommand {
    std::string request_id;  // empty: the summary
    std::string url = "http://127.0.0.1:8000";
    std::string api_key;  // of scope admin, where the gateway has keys
    std::string since = "10m";
    bool json = false;  // as the gateway says it
};
void add_explain(CLI::App& app, ExplainCommand& command);
int explain_main(const ExplainCommand& command);

/// "90", "90s", "10m", "2h". Error: invalid_argument; also below a second and beyond a day.
base::Result<std::chrono::seconds> parse_since(std::string_view text);

/// For people: what GET /explain/ID and GET /explain say. Fields that are not there are left out. Pure.
std::string timeline_text(const boost::json::object& timeline);
std::string summary_text(const boost::json::object& summary);

}  // namespace cli
