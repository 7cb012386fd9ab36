#include "cli/ask_gateway.h"

#include <utility>

#include "bench/load_generator.h"
#include "bench/openai_wire.h"

namespace cli {

namespace json = boost::json;
using base::ErrorCode;

namespace {

constexpr bench::Seconds kTimeout{30};

}  // namespace

base::Result<json::object> ask_gateway(const std::string& url, const std::string& api_key, const std::string& path,
                                       const std::string& body) {
    auto target = bench::parse_url(url);
    if (!target) { return base::pass_on(target); }
    target->api_key = api_key;
    const auto answer =
        body.empty() ? bench::http_get(*target, path, kTimeout) : bench::http_post(*target, path, body, kTimeout);
    if (!answer) { return base::pass_on(answer); }
    if (answer->status != 200) {
        const ErrorCode code = answer->status == 404   ? ErrorCode::not_found
                               : answer->status == 403 ? ErrorCode::permission_denied
                               : answer->status == 400 ? ErrorCode::invalid_argument
                                                       : ErrorCode::unavailable;
        return base::fail(code, bench::error_message_of(answer->body));
    }
    boost::system::error_code error;
    json::value value = json::parse(answer->body, error);
    if (error || !value.is_object()) {
        return base::fail(ErrorCode::data_loss, url +
                                                    " does not answer as a gateway of Sluice does, or says more than 8 "
                                                    "MiB (of cache: a smaller --limit says less)");
    }
    return std::move(value.get_object());
}

std::string_view text_of(const json::object& object, std::string_view name) {
    const json::value* value = object.if_contains(name);
    return value != nullptr && value->is_string() ? std::string_view(value->get_string()) : std::string_view();
}

double number_of(const json::object& object, std::string_view name) {
    const json::value* value = object.if_contains(name);
    boost::system::error_code error;
    const double number = value != nullptr && value->is_number() ? value->to_number<double>(error) : 0;
    return error ? 0 : number;
}

std::int64_t count_of(const json::object& object, std::string_view name) {
    return static_cast<std::int64_t>(number_of(object, name));
}

}  // namespace cli
