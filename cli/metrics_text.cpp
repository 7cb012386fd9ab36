#include "cli/metrics_text.h"

#include <cctype>
#include <charconv>
#include <cstddef>
#include <limits>
#include <optional>
#include <utility>

namespace cli {
namespace {

constexpr std::size_t kSamplesMax = 200'000;

bool is_name(char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == ':';
}

std::string_view take_name(std::string_view& rest) {
    std::size_t end = 0;
    while (end < rest.size() && is_name(rest[end])) {
        ++end;
    }
    const std::string_view name = rest.substr(0, end);
    rest.remove_prefix(end);
    return name;
}

bool take(std::string_view& rest, char c) {
    if (rest.empty() || rest.front() != c) { return false; }
    rest.remove_prefix(1);
    return true;
}

/// What stands between quotes, of which the first is gone already.
std::optional<std::string> take_quoted(std::string_view& rest) {
    std::string value;
    while (!rest.empty()) {
        const char c = rest.front();
        rest.remove_prefix(1);
        if (c == '"') { return value; }
        if (c != '\\') {
            value += c;
            continue;
        }
        if (rest.empty()) { return std::nullopt; }
        value += rest.front() == 'n' ? '\n' : rest.front();
        rest.remove_prefix(1);
    }
    return std::nullopt;
}

std::optional<double> read_value(std::string_view text) {
    if (text == "+Inf" || text == "Inf") { return std::numeric_limits<double>::infinity(); }
    if (text == "-Inf") { return -std::numeric_limits<double>::infinity(); }
    if (text == "NaN" || text == "Nan" || text == "nan") { return std::numeric_limits<double>::quiet_NaN(); }
    double value = 0;
    const auto [at, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{} || at != text.data() + text.size()) { return std::nullopt; }
    return value;
}

std::optional<Sample> read_line(std::string_view rest) {
    Sample sample;
    sample.name = take_name(rest);
    if (sample.name.empty()) { return std::nullopt; }
    if (take(rest, '{')) {
        while (!take(rest, '}')) {
            const std::string_view key = take_name(rest);
            if (key.empty() || !take(rest, '=') || !take(rest, '"')) { return std::nullopt; }
            auto value = take_quoted(rest);
            if (!value) { return std::nullopt; }
            sample.labels.insert_or_assign(std::string(key), std::move(*value));
            static_cast<void>(take(rest, ','));
        }
    }
    while (take(rest, ' ')) {}
    const auto value = read_value(rest.substr(0, rest.find(' ')));
    if (!value) { return std::nullopt; }
    sample.value = *value;
    return sample;
}

}  // namespace

base::Result<std::vector<Sample>> parse_metrics(std::string_view text) {
    std::vector<Sample> samples;
    for (std::size_t number = 1; !text.empty(); ++number) {
        const std::size_t end = text.find('\n');
        std::string_view line = text.substr(0, end);
        text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
        while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) {
            line.remove_suffix(1);
        }
        if (line.empty() || line.front() == '#') { continue; }
        auto sample = read_line(line);
        if (!sample || samples.size() >= kSamplesMax) {
            return base::fail(base::ErrorCode::data_loss,
                              "line " + std::to_string(number) +
                                  (sample ? " is beyond what is read" : " is none of Prometheus' text format"));
        }
        samples.push_back(std::move(*sample));
    }
    return samples;
}

}  // namespace cli
