#include "cli/json_lines.h"

#include <istream>
#include <ostream>
#include <string>

namespace cli {
namespace {

namespace json = boost::json;

constexpr std::size_t kLineBytesMax = std::size_t{64} << 20;

/// False at the end of the input. A longer line is cut to one byte more than the limit.
bool read_line(std::istream& in, std::string& line) {
    line.clear();
    bool is_any = false;
    for (int c = in.rdbuf()->sbumpc(); c != std::char_traits<char>::eof(); c = in.rdbuf()->sbumpc()) {
        is_any = true;
        if (c == '\n') { break; }
        if (line.size() <= kLineBytesMax) { line.push_back(static_cast<char>(c)); }
    }
    return is_any;
}

base::Result<json::object> parse(const std::string& line) {
    if (line.size() > kLineBytesMax) {
        return base::fail(base::ErrorCode::resource_exhausted, "a line of more than 64 MiB");
    }
    json::parse_options options;
    options.max_depth = 128;
    boost::system::error_code error;
    json::value value = json::parse(line, error, {}, options);
    if (error) { return base::fail(base::ErrorCode::invalid_argument, "not JSON: " + error.message()); }
    if (!value.is_object()) { return base::fail(base::ErrorCode::invalid_argument, "not a JSON object"); }
    return std::move(value.get_object());
}

}  // namespace

void answer_json_lines(std::istream& in, std::ostream& out,
                       const std::function<base::Result<json::object>(const json::object&)>& answer) {
    std::string line;
    while (out && read_line(in, line)) {
        if (line.find_first_not_of(" \t\r") == std::string::npos) { continue; }
        const auto request = parse(line);
        const auto response = request ? answer(*request) : base::Result<json::object>(base::pass_on(request));
        out << (response ? json::serialize(*response)
                         : json::serialize(json::object{{"error", response.error().message}}))
            << '\n'
            << std::flush;
    }
}

}  // namespace cli
