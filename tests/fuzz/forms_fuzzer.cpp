// Bodies of the OpenAI routes: refused with a message, or a form within the limits. The first byte says which route.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "gateway/openai/embedding_form.h"
#include "gateway/openai/fields.h"
#include "gateway/openai/request_form.h"
#include "tests/fuzz/no_text.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) { return 0; }
    const std::string body(reinterpret_cast<const char*>(data) + 1, size - 1);
    const gateway::FormLimits limits;
    static_cast<void>(gateway::seems_to_ask_for_stream(body));
    const auto object = gateway::parse_body(body);
    if (!object) { return 0; }
    static_cast<void>(gateway::asks_for_stream(*object));
    const auto form = data[0] % 3 == 2 ? gateway::read_embedding_form(*object, limits, fuzz::models())
                                       : gateway::read_form(data[0] % 3 == 0 ? gateway::Endpoint::chat
                                                                             : gateway::Endpoint::completions,
                                                            *object, limits, fuzz::models());
    if (form && !fuzz::in_bounds(*form, limits)) { std::abort(); }
    return 0;
}
