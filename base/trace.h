#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace base {

/// Where something stands in a trace: W3C Trace Context, level 1.
struct TraceContext {
    std::array<std::uint8_t, 16> trace{};  // not all 0
    std::uint64_t span = 0;                // not 0
    bool is_sampled = true;                // somebody keeps it
    bool operator==(const TraceContext&) const = default;
};

/// The value of a field `traceparent`. Empty: it is none of a version that is known, or says nothing. Later versions
/// are read as this one, as their specification wants it.
std::optional<TraceContext> parse_traceparent(std::string_view text);
std::string to_traceparent(const TraceContext& context);
/// Lower-case hexadecimal digits, 32 and 16.
std::string trace_id_text(const TraceContext& context);
std::string span_id_text(std::uint64_t span);

/// Not 0. Any thread.
std::uint64_t random_span_id();
/// A trace of its own, sampled with this chance, which also decides for whoever shares the trace.
TraceContext new_trace(double sampled_share);

/// One named value of a span.
struct SpanAttribute {
    std::string name;
    std::variant<std::string, std::int64_t, double, bool, std::vector<std::string>> value;
};

/// A piece of work that has ended, as OpenTelemetry's data model has it. Times are of the wall clock.
struct Span {
    enum class Kind { internal = 1, server = 2, client = 3 };  // OTLP's numbers
    TraceContext context;                                      // its own
    std::uint64_t parent = 0;                                  // 0: none
    std::string name;
    Kind kind = Kind::internal;
    std::int64_t begin_unix_us = 0;
    std::int64_t end_unix_us = 0;
    std::vector<SpanAttribute> attributes = {};
    std::optional<std::string> error = {};  // it failed, and how
};

/// Where spans go. Any thread; never waits, and may leave some out when there are too many.
class SpanSink {
public:
    virtual ~SpanSink() = default;
    virtual void add(Span span) = 0;
};

}  // namespace base
