#include "base/log.h"

#include <spdlog/sinks/stdout_sinks.h>

#include <cstdio>
#include <memory>

#include "base/log_pattern.h"

namespace base {

void init_log(const LogOptions& options) {
    auto logger = std::make_shared<spdlog::logger>("sluice", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    logger->set_pattern(log_pattern(options.role));
    const auto level = spdlog::level::from_str(options.level);
    logger->set_level(level == spdlog::level::off && options.level != "off" ? spdlog::level::info : level);
    logger->flush_on(spdlog::level::info);
    spdlog::set_default_logger(std::move(logger));
}

std::string log_safe(std::string_view text, std::size_t max_bytes) {
    std::string safe;
    for (const char character : text.substr(0, max_bytes)) {
        const auto byte = static_cast<unsigned char>(character);
        if (byte < 0x20 || byte == 0x7f || byte >= 0x80 || character == '\\') {
            char escaped[5];
            std::snprintf(escaped, sizeof escaped, "\\x%02x", byte);
            safe += escaped;
        } else {
            safe += character;
        }
    }
    if (text.size() > max_bytes) { safe += "..."; }
    return safe;
}

}  // namespace base
