#include "gateway/http/query.h"

namespace gateway {

std::map<std::string, std::string> query_pairs(std::string_view query) {
    std::map<std::string, std::string> pairs;
    while (!query.empty()) {
        const auto end = query.find('&');
        const std::string_view pair = query.substr(0, end);
        query = end == std::string_view::npos ? std::string_view() : query.substr(end + 1);
        const auto equals = pair.find('=');
        if (equals != std::string_view::npos) {
            pairs[std::string(pair.substr(0, equals))] = std::string(pair.substr(equals + 1));
        }
    }
    return pairs;
}

}  // namespace gateway
