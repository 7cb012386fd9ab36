#include <charconv>
#include <string>

#include "net/fault.h"

namespace net {

using base::ErrorCode;
using base::fail;
using base::Result;

namespace {

std::vector<std::string_view> split(std::string_view text, char separator) {
    std::vector<std::string_view> parts;
    while (true) {
        const std::size_t end = text.find(separator);
        parts.push_back(text.substr(0, end));
        if (end == std::string_view::npos) { return parts; }
        text.remove_prefix(end + 1);
    }
}

template <class Number>
bool parse_number(std::string_view text, Number& value) {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    return error == std::errc{} && end == text.data() + text.size();
}

std::optional<FaultKind> fault_kind(std::string_view name) {
    if (name == "drop") { return FaultKind::drop; }
    if (name == "delay") { return FaultKind::delay; }
    if (name == "corrupt") { return FaultKind::corrupt; }
    if (name == "reorder") { return FaultKind::reorder; }
    if (name == "duplicate") { return FaultKind::duplicate; }
    if (name == "cut") { return FaultKind::cut; }
    return std::nullopt;
}

bool set_field(FaultRule& rule, std::string_view key, std::string_view value) {
    if (key == "nth") { return parse_number(value, rule.nth); }
    if (key == "probability") {
        return parse_number(value, rule.probability) && rule.probability >= 0.0 && rule.probability <= 1.0;
    }
    if (key == "kind") {
        std::uint16_t kind = 0;
        if (!parse_number(value, kind)) { return false; }
        rule.message_kind = MessageKind{kind};
        return true;
    }
    if (key == "ms") {
        std::uint32_t milliseconds = 0;
        if (!parse_number(value, milliseconds)) { return false; }
        rule.delay = std::chrono::milliseconds(milliseconds);
        return true;
    }
    return false;
}

}  // namespace

Result<FaultPlan> parse_fault_plan(std::string_view text) {
    FaultPlan plan;
    for (const std::string_view part : split(text, ';')) {
        const auto bad = [&] {
            return fail(ErrorCode::invalid_argument, "fault plan: cannot read \"" + std::string(part) + "\"");
        };
        if (part.empty()) { continue; }
        if (part.starts_with("seed=")) {
            if (!parse_number(part.substr(5), plan.seed)) { return bad(); }
            continue;
        }
        const std::size_t colon = part.find(':');
        const auto kind = fault_kind(part.substr(0, colon));
        if (!kind) { return bad(); }
        FaultRule rule{.fault = *kind};
        if (colon != std::string_view::npos) {
            for (const std::string_view field : split(part.substr(colon + 1), ',')) {
                const std::size_t equals = field.find('=');
                if (equals == std::string_view::npos ||
                    !set_field(rule, field.substr(0, equals), field.substr(equals + 1))) {
                    return bad();
                }
            }
        }
        plan.rules.push_back(rule);
    }
    return plan;
}

}  // namespace net
