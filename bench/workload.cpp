#include "bench/workload.h"

#include <algorithm>
#include <array>
#include <boost/json.hpp>
#include <charconv>
#include <cmath>
#include <map>
#include <optional>
#include <utility>

#include "base/check.h"
#include "bench/trace_row.h"

namespace bench {
namespace {

// Short, common, and without capitals: most tokenizers take one or two tokens for each.
constexpr std::array kWords{
    "the",   "small", "girl",  "saw",   "a",     "big",  "red",   "ball",  "in",    "park", "and",   "wanted", "to",
    "play",  "with",  "her",   "mom",   "said",  "we",   "can",   "go",    "when",  "sun",  "is",    "up",     "dog",
    "ran",   "over",  "green", "grass", "then",  "they", "found", "old",   "tree",  "near", "river", "he",     "was",
    "happy", "but",   "bird",  "flew",  "away",  "so",   "asked", "why",   "it",    "had",  "blue",  "house",  "friend",
    "day",   "night", "light", "water", "stone", "made", "new",   "story", "about", "king", "who",   "lived"};

/// Uniform in [0, 1); written out because the standard distributions differ between libraries.
double uniform(std::mt19937_64& random) {
    return static_cast<double>(random() >> 11) * 0x1.0p-53;
}

/// A well-mixed number for each number (the finalizer of splitmix64, Steele et al., OOPSLA 2014).
std::uint64_t mix(std::uint64_t value) {
    value += 0x9e3779b97f4a7c15u;
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
    value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
    return value ^ (value >> 31);
}

std::uint32_t spread_length(std::mt19937_64& random, std::uint32_t length, double spread) {
    const double factor = 1 + spread * (2 * uniform(random) - 1);
    return static_cast<std::uint32_t>(std::max(1.0, std::round(length * factor)));
}

std::vector<std::string_view> split(std::string_view text, char separator) {
    std::vector<std::string_view> parts;
    while (true) {
        const std::size_t end = text.find(separator);
        parts.push_back(text.substr(0, end));
        if (end == std::string_view::npos) { return parts; }
        text.remove_prefix(end + 1);
    }
}

std::string_view trim(std::string_view text) {
    const auto is_space = [](char c) { return c == ' ' || c == '\t' || c == '\r'; };
    while (!text.empty() && is_space(text.front())) {
        text.remove_prefix(1);
    }
    while (!text.empty() && is_space(text.back())) {
        text.remove_suffix(1);
    }
    return text;
}

std::optional<double> parse_number(std::string_view text) {
    double value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{} || end != text.data() + text.size() || !std::isfinite(value)) { return std::nullopt; }
    return value;
}

struct CsvColumns {
    std::size_t arrival_s, prompt_tokens, output_tokens;
};

std::optional<CsvColumns> csv_columns(std::string_view header) {
    std::map<std::string_view, std::size_t> column;
    const auto names = split(header, ',');
    for (std::size_t i = 0; i < names.size(); ++i) {
        column.emplace(trim(names[i]), i);
    }
    const auto arrival = column.find("arrival_s");
    const auto input = column.find("input_tokens");
    const auto output = column.find("output_tokens");
    if (arrival == column.end() || input == column.end() || output == column.end()) { return std::nullopt; }
    return CsvColumns{arrival->second, input->second, output->second};
}

std::optional<TraceRow> csv_row(const CsvColumns& columns, std::string_view line) {
    const auto cells = split(line, ',');
    if (cells.size() <= std::max({columns.arrival_s, columns.prompt_tokens, columns.output_tokens})) {
        return std::nullopt;
    }
    const auto arrival_s = parse_number(trim(cells[columns.arrival_s]));
    const auto prompt_tokens = parse_number(trim(cells[columns.prompt_tokens]));
    const auto output_tokens = parse_number(trim(cells[columns.output_tokens]));
    if (!arrival_s || !prompt_tokens || !output_tokens) { return std::nullopt; }
    return TraceRow{*arrival_s, *prompt_tokens, *output_tokens};
}

/// At least one token, at most `tokens_max`.
std::uint32_t bounded_tokens(double tokens, std::uint32_t tokens_max) {
    return static_cast<std::uint32_t>(std::clamp(std::round(tokens), 1.0, static_cast<double>(tokens_max)));
}

}  // namespace

std::vector<PlannedRequest> plan_synthetic(const SyntheticWorkload& workload) {
    CHECK(workload.rate > 0, "rate " << workload.rate);
    std::mt19937_64 random{workload.seed};
    std::vector<PlannedRequest> plan;
    plan.reserve(workload.requests);
    Seconds due{};
    for (std::size_t i = 0; i < workload.requests; ++i) {
        const double gap = workload.arrival == Arrival::poisson ? -std::log1p(-uniform(random)) : 1.0;
        due += Seconds(gap / workload.rate);
        const std::uint32_t prompt_tokens = spread_length(random, workload.prompt_tokens, workload.length_spread);
        const std::uint32_t output_tokens = spread_length(random, workload.output_tokens, workload.length_spread);
        plan.push_back({.due = due, .prompt_tokens = prompt_tokens, .output_tokens = output_tokens});
    }
    return plan;
}

base::Result<std::vector<PlannedRequest>> parse_trace(std::string_view text, const TraceOptions& options) {
    CHECK(options.time_scale > 0, "time scale " << options.time_scale);
    std::optional<CsvColumns> columns;
    std::vector<PlannedRequest> plan;
    bool is_csv = false;
    std::size_t line_number = 0;
    for (std::string_view line : split(text, '\n')) {
        ++line_number;
        line = trim(line);
        if (line.empty()) { continue; }
        if (!is_csv && plan.empty() && line.front() != '{') {
            is_csv = true;
            columns = csv_columns(line);
            if (!columns) {
                return base::fail(base::ErrorCode::invalid_argument,
                                  "the trace is neither JSON lines nor CSV with arrival_s, input_tokens, output_tokens "
                                  "in its header");
            }
            continue;
        }
        std::optional<TraceRow> row = is_csv ? csv_row(*columns, line) : json_row(line, options.with_blocks);
        if (!row || row->prompt_tokens < 0 || row->output_tokens < 0) {
            return base::fail(
                base::ErrorCode::invalid_argument,
                "line " + std::to_string(line_number) + " of the trace is not a request: " +
                    (is_csv ? "three numbers are needed" : "timestamp, input_length and output_length are needed"));
        }
        plan.push_back(
            {.due = Seconds(row->arrival_s * options.time_scale),
             .prompt_tokens = bounded_tokens(row->prompt_tokens / options.length_divisor, options.prompt_tokens_max),
             .output_tokens = bounded_tokens(row->output_tokens / options.length_divisor, options.output_tokens_max),
             .blocks = std::move(row->blocks),
             .block_tokens = row->block_tokens});
    }
    if (plan.empty()) { return base::fail(base::ErrorCode::invalid_argument, "the trace has no requests"); }
    const auto is_before = [](const PlannedRequest& a, const PlannedRequest& b) { return a.due < b.due; };
    if (!std::is_sorted(plan.begin(), plan.end(), is_before)) { std::stable_sort(plan.begin(), plan.end(), is_before); }
    if (options.requests > 0 && plan.size() > options.requests) { plan.resize(options.requests); }
    const Seconds first = plan.front().due;
    for (PlannedRequest& request : plan) {
        request.due -= first;
    }
    return plan;
}

PromptMaker::PromptMaker(Options options) : options_(std::move(options)), random_(options_.seed) {
    CHECK(options_.token_id_first >= 0 && options_.token_id_first <= options_.token_id_last);
    CHECK(options_.word_length.tokens_per_word > 0);
}

std::string PromptMaker::random_words(std::mt19937_64& random, std::size_t count) {
    std::string text;
    for (std::size_t i = 0; i < count; ++i) {
        if (i > 0) { text.push_back(' '); }
        text += kWords[random() % kWords.size()];
    }
    return text;
}

std::size_t PromptMaker::words_for(std::uint32_t tokens) const {
    const double words = (tokens - options_.word_length.tokens_fixed) / options_.word_length.tokens_per_word;
    return static_cast<std::size_t>(std::max(1.0, std::round(words)));
}

Prompt PromptMaker::make(std::uint32_t tokens) {
    CHECK(tokens > 0);
    if (!options_.texts.empty()) { return options_.texts[next_text_++ % options_.texts.size()]; }
    std::mt19937_64 prefix_random{options_.seed ^ 0x9e3779b97f4a7c15u};  // starts anew each time: the same prefix
    if (options_.token_ids) {
        const auto id_count = static_cast<std::uint64_t>(options_.token_id_last - options_.token_id_first) + 1;
        std::vector<std::int32_t> ids(tokens);
        for (std::uint32_t i = 0; i < tokens; ++i) {
            std::mt19937_64& random = i < options_.shared_prefix_tokens ? prefix_random : random_;
            ids[i] = options_.token_id_first + static_cast<std::int32_t>(random() % id_count);
        }
        return ids;
    }
    const std::size_t words = words_for(tokens);
    const std::size_t prefix_words =
        options_.shared_prefix_tokens == 0 ? 0 : std::min(words - 1, words_for(options_.shared_prefix_tokens));
    std::string text = random_words(prefix_random, prefix_words);
    if (prefix_words > 0) { text.push_back(' '); }
    return text + random_words(random_, words - prefix_words);
}

Prompt PromptMaker::make(std::uint32_t tokens, std::span<const BlockRun> blocks, std::uint32_t block_tokens) {
    CHECK(tokens > 0 && block_tokens > 0);
    const auto id_count = static_cast<std::uint64_t>(options_.token_id_last - options_.token_id_first) + 1;
    const std::size_t units = options_.token_ids ? tokens : words_for(tokens);
    const std::size_t units_per_block =
        options_.token_ids
            ? block_tokens
            : static_cast<std::size_t>(std::max(1.0, std::round(block_tokens / options_.word_length.tokens_per_word)));
    std::vector<std::int32_t> ids;
    std::string text;
    std::size_t made = 0;
    const auto add_block = [&](std::uint64_t seed) {
        for (std::size_t i = 0; i < units_per_block && made < units; ++i, ++made) {
            const std::uint64_t drawn = mix(seed + i);
            if (options_.token_ids) {
                ids.push_back(options_.token_id_first + static_cast<std::int32_t>(drawn % id_count));
            } else {
                if (made > 0) { text.push_back(' '); }
                text += kWords[drawn % kWords.size()];
            }
        }
    };
    for (const BlockRun& run : blocks) {
        for (std::uint32_t block = 0; block < run.count && made < units; ++block) {
            add_block(mix(options_.seed ^ mix(run.first + block)));
        }
    }
    while (made < units) {
        add_block(random_());
    }
    if (options_.token_ids) { return ids; }
    return text;
}

WordLength fit_word_length(std::size_t words_a, std::uint32_t tokens_a, std::size_t words_b, std::uint32_t tokens_b) {
    if (words_b <= words_a || tokens_b <= tokens_a || tokens_a == 0) { return {}; }
    const double per_word = static_cast<double>(tokens_b - tokens_a) / static_cast<double>(words_b - words_a);
    return {.tokens_fixed = tokens_a - per_word * static_cast<double>(words_a), .tokens_per_word = per_word};
}

base::Result<std::vector<std::string>> parse_prompts(std::string_view text) {
    std::vector<std::string> prompts;
    std::size_t line_number = 0;
    for (std::string_view line : split(text, '\n')) {
        ++line_number;
        line = trim(line);
        if (line.empty()) { continue; }
        if (line.front() != '{') {
            prompts.emplace_back(line);
            continue;
        }
        boost::system::error_code error;
        const boost::json::value value = boost::json::parse(line, error);
        const boost::json::value* prompt =
            !error && value.is_object() ? value.get_object().if_contains("prompt") : nullptr;
        if (prompt == nullptr || !prompt->is_string()) {
            return base::fail(
                base::ErrorCode::invalid_argument,
                "line " + std::to_string(line_number) + " of the prompts is not an object with a text `prompt`");
        }
        prompts.emplace_back(prompt->get_string());
    }
    if (prompts.empty()) { return base::fail(base::ErrorCode::invalid_argument, "the prompts file has no prompt"); }
    return prompts;
}

}  // namespace bench
