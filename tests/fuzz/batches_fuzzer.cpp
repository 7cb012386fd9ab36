// What clients send for batches: the form that a file comes in, a batch's own form, the lines of its input. The first
// byte says which; what is read keeps the promises of multipart.h and batch_form.h.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <set>
#include <string>
#include <string_view>

#include "gateway/batch/batch_form.h"
#include "gateway/batch/multipart.h"

namespace {

void check(bool is_good) {
    if (!is_good) { std::abort(); }
}

void read_form(const std::string& text) {
    const std::size_t end = text.find('\n');
    const std::string type = text.substr(0, end);
    const std::string body = end == std::string::npos ? std::string() : text.substr(end + 1);
    const auto parts = gateway::read_form(type, body);
    if (!parts) {
        check(parts.error().status == 400 || parts.error().status == 415);
        return;
    }
    check(parts->size() <= gateway::kFormPartsMax);
    const char* last = body.data();
    for (const gateway::FormPart& part : *parts) {
        check(!part.name.empty());
        check(part.bytes.data() >= last && part.bytes.data() + part.bytes.size() <= body.data() + body.size());
        last = part.bytes.data() + part.bytes.size();
    }
}

void read_input(const std::string& text) {
    constexpr std::size_t kRequestsMax = 50;
    const auto input = gateway::read_batch_input(text, "/v1/chat/completions", kRequestsMax);
    check(input.lines.empty() != input.problems.empty());
    check(input.lines.size() <= kRequestsMax && input.problems.size() <= gateway::kBatchProblemsMax);
    std::set<std::string> ids;
    for (const gateway::BatchLine& line : input.lines) {
        check(line.begin + line.bytes <= text.size() && ids.insert(line.custom_id).second);
        check(gateway::body_of_line(std::string_view(text).substr(line.begin, line.bytes)).starts_with('{'));
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) { return 0; }
    const std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
    switch (data[0] % 3) {
        case 0:
            read_form(text);
            break;
        case 1:
            read_input(text);
            break;
        default:
            if (const auto form = gateway::read_batch_form(text)) {
                check(gateway::batch_endpoint(form->endpoint).has_value() && form->window_s >= 3600);
                check(form->window_s <= 7 * 24 * 3600);
            }
    }
    return 0;
}
