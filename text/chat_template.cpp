#include "text/chat_template.h"

#include "text/shim_call.h"

namespace text {

base::Result<std::shared_ptr<const ChatTemplate>> ChatTemplate::compile(std::string_view source,
                                                                        const ChatTemplateLimits& limits) {
    if (source.size() > limits.source_bytes_max) {
        return base::fail(base::ErrorCode::resource_exhausted, "a chat template of " + std::to_string(source.size()) +
                                                                   " bytes; at most " +
                                                                   std::to_string(limits.source_bytes_max));
    }
    const SluiceTemplateLimits bounds{
        .fuel = limits.fuel, .output_bytes = limits.output_bytes_max, .recursion = limits.recursion_max};
    SluiceTemplate* handle = nullptr;
    ShimBuffer message;
    const std::int32_t code = sluice_template_compile(shim_bytes(source), bounds, &handle, message.out());
    if (code != SLUICE_OK) {
        const base::Error error = shim_error(code, message.view());
        return base::fail(error.code, "the chat template does not compile: " + error.message);
    }
    return std::shared_ptr<const ChatTemplate>(new ChatTemplate(handle, limits));
}

ChatTemplate::~ChatTemplate() {
    sluice_template_free(handle_);
}

base::Result<std::string> ChatTemplate::render(std::string_view context_json, const CivilTime& now) const {
    if (context_json.size() > limits_.context_bytes_max) {
        return base::fail(base::ErrorCode::resource_exhausted,
                          std::string(kTemplateFailed) + "a context of " + std::to_string(context_json.size()) +
                              " bytes; at most " + std::to_string(limits_.context_bytes_max));
    }
    const SluiceCivilTime time{.year = now.year,
                               .month = now.month,
                               .day = now.day,
                               .hour = now.hour,
                               .minute = now.minute,
                               .second = now.second,
                               .microsecond = now.microsecond};
    ShimBuffer out;
    const std::int32_t code = sluice_template_render(handle_, shim_bytes(context_json), time, out.out());
    if (code == SLUICE_OK) { return std::string(out.view()); }
    const base::Error error = shim_error(code, out.view());
    if (code == SLUICE_RAISED) { return base::fail(error.code, error.message); }
    return base::fail(error.code, std::string(kTemplateFailed) + error.message);
}

}  // namespace text
