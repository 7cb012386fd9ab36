#include "text/chat_template.h"

#include <utility>

#include "text/shim_call.h"
#include "text/text_process.h"

namespace text {

namespace {

base::Result<void> check_source(std::string_view source, const ChatTemplateLimits& limits) {
    if (source.size() <= limits.source_bytes_max) { return {}; }
    return base::fail(base::ErrorCode::resource_exhausted, "a chat template of " + std::to_string(source.size()) +
                                                               " bytes; at most " +
                                                               std::to_string(limits.source_bytes_max));
}

base::Result<void> check_context(std::string_view context_json, const ChatTemplateLimits& limits) {
    if (context_json.size() <= limits.context_bytes_max) { return {}; }
    return base::fail(base::ErrorCode::resource_exhausted, std::string(ChatTemplate::kTemplateFailed) +
                                                               "a context of " + std::to_string(context_json.size()) +
                                                               " bytes; at most " +
                                                               std::to_string(limits.context_bytes_max));
}

SluiceTemplateLimits bounds_of(const ChatTemplateLimits& limits) {
    return {.fuel = limits.fuel, .output_bytes = limits.output_bytes_max, .recursion = limits.recursion_max};
}

SluiceCivilTime time_of(const CivilTime& now) {
    return {.year = now.year,
            .month = now.month,
            .day = now.day,
            .hour = now.hour,
            .minute = now.minute,
            .second = now.second,
            .microsecond = now.microsecond};
}

auto compile_error(std::int32_t code, const std::string& message) {
    const base::Error error = shim_error(code, message);
    return base::fail(error.code, "the chat template does not compile: " + error.message);
}

base::Result<std::string> rendered(std::int32_t code, std::string text) {
    if (code == SLUICE_OK) { return text; }
    const base::Error error = shim_error(code, text);
    if (code == SLUICE_RAISED) { return base::fail(error.code, error.message); }
    return base::fail(error.code, std::string(ChatTemplate::kTemplateFailed) + error.message);
}

}  // namespace

base::Result<std::shared_ptr<const ChatTemplate>> ChatTemplate::compile(std::string_view source,
                                                                        const ChatTemplateLimits& limits,
                                                                        std::shared_ptr<TextProcess> process) {
    if (auto checked = check_source(source, limits); !checked) { return base::pass_on(checked); }
    const std::shared_ptr<ChatTemplate> result(new ChatTemplate(limits));
    std::string message;
    std::int32_t code = SLUICE_OK;
    if (process) {
        code = process->compile(source, bounds_of(limits), result->index_, message);
        result->process_ = std::move(process);
    } else {
        ShimBuffer out;
        code = sluice_template_compile(shim_bytes(source), bounds_of(limits), &result->handle_, out.out());
        message = out.view();
    }
    if (code == SLUICE_OK) { return result; }
    return compile_error(code, message);
}

ChatTemplate::~ChatTemplate() {
    sluice_template_free(handle_);
}

base::Result<std::string> ChatTemplate::render(std::string_view context_json, const CivilTime& now) const {
    if (auto checked = check_context(context_json, limits_); !checked) { return base::pass_on(checked); }
    std::string text;
    std::int32_t code = SLUICE_OK;
    if (process_) {
        code = process_->render(index_, context_json, time_of(now), text);
    } else {
        ShimBuffer out;
        code = sluice_template_render(handle_, shim_bytes(context_json), time_of(now), out.out());
        text = out.view();
    }
    return rendered(code, std::move(text));
}

base::Result<std::string> ChatTemplate::render_once(std::string_view source, std::string_view context_json,
                                                    const CivilTime& now, const ChatTemplateLimits& limits,
                                                    const std::shared_ptr<TextProcess>& process) {
    if (process == nullptr) {
        auto compiled = compile(source, limits);
        if (!compiled) { return base::pass_on(compiled); }
        return (*compiled)->render(context_json, now);
    }
    if (auto checked = check_source(source, limits); !checked) { return base::pass_on(checked); }
    if (auto checked = check_context(context_json, limits); !checked) { return base::pass_on(checked); }
    std::string text;
    bool is_compiled = false;
    const std::int32_t code =
        process->render_source(source, bounds_of(limits), context_json, time_of(now), is_compiled, text);
    if (code == SLUICE_INVALID && !is_compiled) { return compile_error(code, text); }
    return rendered(code, std::move(text));
}

}  // namespace text
