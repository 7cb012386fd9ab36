// The door of the HTTP server: what has arrived is refused, is not all there yet, or is a head with the promises of
// gate.h.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "gateway/http/gate.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string received(reinterpret_cast<const char*>(data), size);
    const gateway::HttpLimits limits;
    const auto end = gateway::find_head_end(received, limits);
    // Whatever comes in pieces must not be refused later than whole, nor end elsewhere.
    const auto half = gateway::find_head_end(std::string_view(received).substr(0, size / 2), limits);
    if (!half && end && *end) { std::abort(); }
    if (half && *half && (!end || *end != *half)) { std::abort(); }
    if (!end || !*end) { return 0; }
    if (**end > size || **end > limits.header_bytes_max) { std::abort(); }
    const auto head = gateway::check_head(std::string_view(received).substr(0, **end), limits);
    if (!head) {
        if (head.error().status < 400 || head.error().status > 599) { std::abort(); }
        return 0;
    }
    const bool is_good = !head->method.empty() && !head->path.empty() &&
                         (head->path.front() == '/' || head->path == "*") &&
                         head->fields.size() <= limits.header_fields_max &&
                         head->content_length <= limits.body_bytes_max && !(head->chunked && head->content_length > 0);
    if (!is_good) { std::abort(); }
    for (const auto& [name, value] : head->fields) {
        if (head->field(name) == nullptr || value.find_first_of("\r\n") != std::string::npos ||
            value.find('\0') != std::string::npos) {
            std::abort();
        }
    }
    return 0;
}
