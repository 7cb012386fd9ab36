#include "text/json_file.h"

#include <utility>

#include "base/json_place.h"
#include "text/file_bytes.h"

namespace text {

namespace json = boost::json;

base::Result<json::object> read_json_object(const std::filesystem::path& path, std::size_t bytes_max) {
    const auto bytes = read_file(path, bytes_max);
    if (!bytes) { return base::pass_on(bytes); }
    json::parse_options options;
    options.max_depth = 128;
    boost::system::error_code error;
    json::parser parser({}, options);
    const std::size_t read = parser.write(bytes->data(), bytes->size(), error);
    if (error) {
        return base::fail(base::ErrorCode::invalid_argument, path.string() + " is not JSON: " + error.message() +
                                                                 " at " + base::describe_json_error(*bytes, read));
    }
    json::value value = parser.release();
    if (!value.is_object()) {
        return base::fail(base::ErrorCode::invalid_argument, path.string() + " is not a JSON object");
    }
    return std::move(value.get_object());
}

std::optional<std::string> token_text(const json::object& config, std::string_view name) {
    const json::value* token = config.if_contains(name);
    if (token != nullptr && token->is_object()) { token = token->get_object().if_contains("content"); }
    if (token == nullptr || !token->is_string()) { return std::nullopt; }
    return std::string(token->get_string());
}

}  // namespace text
