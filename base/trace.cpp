#include "base/trace.h"

#include <algorithm>
#include <cstdio>
#include <random>

namespace base {
namespace {

constexpr std::size_t kTraceDigits = 32;
constexpr std::size_t kSpanDigits = 16;
constexpr std::size_t kLength = 2 + 1 + kTraceDigits + 1 + kSpanDigits + 1 + 2;  // 00-..-..-01

/// The value of a lower-case hexadecimal digit; -1: it is none.
int digit_of(char c) {
    if (c >= '0' && c <= '9') { return c - '0'; }
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool is_hexadecimal(std::string_view text) {
    return std::all_of(text.begin(), text.end(), [](char c) { return digit_of(c) >= 0; });
}

std::uint64_t number_of(std::string_view digits) {
    std::uint64_t number = 0;
    for (const char c : digits) {
        number = (number << 4) | static_cast<std::uint64_t>(digit_of(c));
    }
    return number;
}

std::mt19937_64& generator() {
    thread_local std::mt19937_64 kept = [] {
        std::random_device device;
        std::seed_seq seed{device(), device(), device(), device()};
        return std::mt19937_64(seed);
    }();
    return kept;
}

}  // namespace

std::optional<TraceContext> parse_traceparent(std::string_view text) {
    if (text.size() < kLength) { return std::nullopt; }
    const std::string_view version = text.substr(0, 2);
    const std::string_view trace = text.substr(3, kTraceDigits);
    const std::string_view span = text.substr(3 + kTraceDigits + 1, kSpanDigits);
    const std::string_view flags = text.substr(kLength - 2, 2);
    const bool has_marks = text[2] == '-' && text[3 + kTraceDigits] == '-' && text[kLength - 3] == '-';
    if (!has_marks || !is_hexadecimal(version) || !is_hexadecimal(trace) || !is_hexadecimal(span) ||
        !is_hexadecimal(flags) || version == "ff") {
        return std::nullopt;
    }
    if (text.size() > kLength && (version == "00" || text[kLength] != '-')) { return std::nullopt; }
    TraceContext context;
    bool is_zero = true;
    for (std::size_t at = 0; at < context.trace.size(); ++at) {
        context.trace[at] = static_cast<std::uint8_t>(number_of(trace.substr(2 * at, 2)));
        is_zero = is_zero && context.trace[at] == 0;
    }
    context.span = number_of(span);
    context.is_sampled = (number_of(flags) & 1) != 0;
    if (is_zero || context.span == 0) { return std::nullopt; }
    return context;
}

std::string trace_id_text(const TraceContext& context) {
    static constexpr std::string_view kDigits = "0123456789abcdef";
    std::string text;
    for (const std::uint8_t byte : context.trace) {
        text += kDigits[byte >> 4];
        text += kDigits[byte & 15];
    }
    return text;
}

std::string span_id_text(std::uint64_t span) {
    char text[kSpanDigits + 1];
    std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(span));
    return text;
}

std::string to_traceparent(const TraceContext& context) {
    return "00-" + trace_id_text(context) + "-" + span_id_text(context.span) + (context.is_sampled ? "-01" : "-00");
}

std::uint64_t random_span_id() {
    const std::uint64_t id = generator()();
    return id == 0 ? 1 : id;
}

TraceContext new_trace(double sampled_share) {
    TraceContext context{.span = random_span_id()};
    for (std::size_t at = 0; at < context.trace.size(); at += 8) {
        const std::uint64_t half = random_span_id();
        for (std::size_t byte = 0; byte < 8; ++byte) {
            context.trace[at + byte] = static_cast<std::uint8_t>(half >> (8 * byte));
        }
    }
    context.is_sampled = std::uniform_real_distribution<double>(0, 1)(generator()) < sampled_share;
    return context;
}

}  // namespace base
