#include "text/chat_template.h"

#include <utility>

#include "text/shim_call.h"
#include "text/text_process.h"

namespace text {

base::Result<std::shared_ptr<const ChatTemplate>> ChatTemplate::compile(std::string_view source,
                                                                        const ChatTemplateLimits& limits,
                                                                        std::shared_ptr<TextProcess> process) {
    if (source.size() > limits.source_bytes_max) {
        return base::fail(base::ErrorCode::resource_exhausted, "a chat template of " + std::to_string(source.size()) +
                                                                   " bytes; at most " +
                                                                   std::to_string(limits.source_bytes_max));
    }
    const SluiceTemplateLimits bounds{
        .fuel = limits.fuel, .output_bytes = limits.output_bytes_max, .recursion = limits.recursion_max};
    const std::shared_ptr<ChatTemplate> result(new ChatTemplate(limits));
    std::string message;
    std::int32_t code = SLUICE_OK;
    if (process) {
        code = process->compile(source, bounds, result->index_, message);
        result->process_ = std::move(process);
    } else {
        ShimBuffer out;
        code = sluice_template_compile(shim_bytes(source), bounds, &result->handle_, out.out());
        message = out.view();
    }
    if (code == SLUICE_OK) { return result; }
    const base::Error error = shim_error(code, message);
    return base::fail(error.code, "the chat template does not compile: " + error.message);
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
    std::string text;
    std::int32_t code = SLUICE_OK;
    if (process_) {
        code = process_->render(index_, context_json, time, text);
    } else {
        ShimBuffer out;
        code = sluice_template_render(handle_, shim_bytes(context_json), time, out.out());
        text = out.view();
    }
    if (code == SLUICE_OK) { return text; }
    const base::Error error = shim_error(code, text);
    if (code == SLUICE_RAISED) { return base::fail(error.code, error.message); }
    return base::fail(error.code, std::string(kTemplateFailed) + error.message);
}

}  // namespace text
