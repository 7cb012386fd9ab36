#include "bench/length_source.h"

#include <algorithm>
#include <boost/json.hpp>
#include <charconv>
#include <cmath>
#include <optional>
#include <random>

#include "base/check.h"

namespace bench {
namespace {

namespace json = boost::json;

std::size_t words_of(std::string_view text) {
    std::size_t words = 0;
    bool in_word = false;
    for (const char c : text) {
        const bool is_space = c == ' ' || c == '\n' || c == '\t' || c == '\r';
        if (!is_space && !in_word) { ++words; }
        in_word = !is_space;
    }
    return words;
}

std::string_view text_field(const json::value& turn, std::string_view name) {
    const json::value* value = turn.is_object() ? turn.get_object().if_contains(name) : nullptr;
    return value != nullptr && value->is_string() ? std::string_view(value->get_string()) : std::string_view();
}

base::Result<std::vector<LengthSample>> parse_sharegpt(std::string_view text) {
    boost::system::error_code error;
    const json::value value = json::parse(text, error);
    if (error || !value.is_array()) {
        return base::fail(base::ErrorCode::invalid_argument, "the lengths begin like ShareGPT's but are no JSON array");
    }
    std::vector<LengthSample> samples;
    for (std::size_t i = 0; i < value.get_array().size(); ++i) {
        const json::value& one = value.get_array()[i];
        const json::value* turns = one.is_object() ? one.get_object().if_contains("conversations") : nullptr;
        if (turns == nullptr || !turns->is_array()) {
            return base::fail(base::ErrorCode::invalid_argument,
                              "entry " + std::to_string(i) + " of the lengths has no list of `conversations`");
        }
        if (turns->get_array().size() < 2) { continue; }
        const json::value& asked = turns->get_array()[0];
        const std::string_view from = text_field(asked, "from");
        const std::string_view prompt = text_field(asked, "value");
        const std::string_view answer = text_field(turns->get_array()[1], "value");
        if ((from != "human" && from != "user") || prompt.empty() || answer.empty()) { continue; }
        LengthSample sample;
        sample.prompt = prompt;
        sample.prompt_words = words_of(prompt);
        sample.answer_words = words_of(answer);
        if (sample.prompt_words > 0 && sample.answer_words > 0) { samples.push_back(std::move(sample)); }
    }
    return samples;
}

std::vector<std::string_view> split(std::string_view text, char separator) {
    std::vector<std::string_view> parts;
    while (true) {
        const std::size_t end = text.find(separator);
        std::string_view part = text.substr(0, end);
        while (!part.empty() && (part.back() == '\r' || part.back() == ' ')) {
            part.remove_suffix(1);
        }
        parts.push_back(part);
        if (end == std::string_view::npos) { return parts; }
        text.remove_prefix(end + 1);
    }
}

std::optional<double> number(std::string_view text) {
    double value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value) || value < 0) {
        return std::nullopt;
    }
    return value;
}

base::Result<std::vector<LengthSample>> parse_csv(std::string_view text) {
    const auto lines = split(text, '\n');
    const auto header = split(lines.front(), ',');
    const auto column = [&](std::string_view name) {
        return static_cast<std::size_t>(std::find(header.begin(), header.end(), name) - header.begin());
    };
    const std::size_t input = column("input_tokens");
    const std::size_t output = column("output_tokens");
    if (std::max(input, output) >= header.size()) {
        return base::fail(base::ErrorCode::invalid_argument,
                          "the lengths are neither ShareGPT's JSON nor CSV with input_tokens and output_tokens in its "
                          "header");
    }
    std::vector<LengthSample> samples;
    for (std::size_t i = 1; i < lines.size(); ++i) {
        if (lines[i].empty()) { continue; }
        const auto cells = split(lines[i], ',');
        LengthSample sample;
        const auto in = cells.size() > input ? number(cells[input]) : std::nullopt;
        const auto out = cells.size() > output ? number(cells[output]) : std::nullopt;
        if (!in || !out) {
            return base::fail(base::ErrorCode::invalid_argument,
                              "line " + std::to_string(i + 1) + " of the lengths has no two numbers");
        }
        sample.prompt_tokens = *in;
        sample.output_tokens = *out;
        samples.push_back(std::move(sample));
    }
    return samples;
}

}  // namespace

base::Result<std::vector<LengthSample>> parse_lengths(std::string_view text) {
    const std::size_t begin = text.find_first_not_of(" \t\r\n");
    const bool is_json = begin != std::string_view::npos && text[begin] == '[';
    auto samples = is_json ? parse_sharegpt(text) : parse_csv(text);
    if (samples && samples->empty()) {
        return base::fail(base::ErrorCode::invalid_argument, "the file of lengths has none");
    }
    return samples;
}

base::Result<std::vector<std::string>> draw_lengths(std::vector<PlannedRequest>& plan,
                                                    const std::vector<LengthSample>& samples,
                                                    const LengthOptions& options) {
    CHECK(options.divisor > 0);
    struct Lengths {
        std::uint32_t prompt;
        std::uint32_t output;
        const std::string* text;
    };
    std::vector<Lengths> usable;
    for (const LengthSample& sample : samples) {
        const bool is_text = !sample.prompt.empty();
        const double divisor = is_text ? 1 : options.divisor;
        const double per_word = options.word_length.tokens_per_word;
        const double prompt =
            is_text ? options.word_length.tokens_fixed + per_word * static_cast<double>(sample.prompt_words)
                    : sample.prompt_tokens / divisor;
        const double output =
            is_text ? per_word * static_cast<double>(sample.answer_words) : sample.output_tokens / divisor;
        if (prompt > options.prompt_tokens_max) { continue; }
        usable.push_back({static_cast<std::uint32_t>(std::max(1.0, std::round(prompt))),
                          static_cast<std::uint32_t>(
                              std::clamp(std::round(output), 1.0, static_cast<double>(options.output_tokens_max))),
                          is_text ? &sample.prompt : nullptr});
    }
    if (usable.empty()) {
        return base::fail(base::ErrorCode::invalid_argument,
                          "no prompt of the file of lengths is short enough for --max-prompt-tokens");
    }
    std::mt19937_64 random{options.seed ^ 0x6c656e6774687321u};
    std::vector<std::string> texts;
    for (PlannedRequest& request : plan) {
        const Lengths& drawn = usable[random() % usable.size()];
        request.prompt_tokens = drawn.prompt;
        request.output_tokens = drawn.output;
        if (drawn.text != nullptr) { texts.push_back(*drawn.text); }
    }
    return texts;
}

}  // namespace bench
