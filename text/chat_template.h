#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"
#include "text/civil_time.h"

struct SluiceTemplate;

namespace text {

class TextProcess;

struct ChatTemplateLimits {
    std::size_t source_bytes_max = std::size_t{1} << 20;    // the longest template known: 30 KB
    std::size_t context_bytes_max = std::size_t{64} << 20;  // messages, tools and documents of one request, as JSON
    std::size_t output_bytes_max = std::size_t{16} << 20;   // also of what is printed into macros and set blocks
    std::uint64_t fuel = 20'000'000;                        // instructions of one render: about a second
    std::uint32_t recursion_max = 200;                      // depth of macros
};

/// A chat template (Jinja), rendered as Hugging Face's `apply_chat_template` renders it: trimmed blocks, loop controls,
/// `tojson`, `raise_exception`, `strftime_now`, Python's methods and printing. Immutable; used from many threads at
/// once.
class ChatTemplate {
public:
    /// `process`: where it does its work (TokenizerOptions::process). Errors: invalid_argument with line and reason;
    /// resource_exhausted when the source is too long or needs more than a bound of `process`.
    [[nodiscard]] static base::Result<std::shared_ptr<const ChatTemplate>> compile(
        std::string_view source, const ChatTemplateLimits& limits = {}, std::shared_ptr<TextProcess> process = nullptr);
    ~ChatTemplate();
    ChatTemplate(const ChatTemplate&) = delete;
    ChatTemplate& operator=(const ChatTemplate&) = delete;

    /// Renders with the variables in `context_json`, one JSON object: `messages`, `tools`, `documents`,
    /// `add_generation_prompt`, `bos_token`, ... What is missing of tools and documents is null.
    /// Errors: invalid_argument when the template refuses the context (the message is that of its raise_exception) or
    /// cannot deal with it (the message begins with kTemplateFailed), or when `context_json` is no JSON object;
    /// resource_exhausted when a limit is reached.
    [[nodiscard]] base::Result<std::string> render(std::string_view context_json, const CivilTime& now) const;

    /// Compiles a source and renders it once: nothing of it stays in `process`. Errors: compile()'s and render()'s.
    [[nodiscard]] static base::Result<std::string> render_once(std::string_view source, std::string_view context_json,
                                                               const CivilTime& now,
                                                               const ChatTemplateLimits& limits = {},
                                                               const std::shared_ptr<TextProcess>& process = nullptr);

    /// Begins every message of render() that is not the template's own.
    static constexpr std::string_view kTemplateFailed = "the chat template failed: ";

private:
    explicit ChatTemplate(const ChatTemplateLimits& limits) : limits_(limits) {}
    SluiceTemplate* handle_ = nullptr;      // owned; null where there is a process
    std::shared_ptr<TextProcess> process_;  // may be null
    std::size_t index_ = 0;                 // in the process
    ChatTemplateLimits limits_;
};

}  // namespace text
