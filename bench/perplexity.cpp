#include "bench/perplexity.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <limits>
#include <memory>
#include <numbers>
#include <optional>
#include <utility>

#include "base/check.h"
#include "base/whole_file.h"
#include "bench/report_json.h"
#include "bench/text_source.h"
#include "engine/model/model_config.h"
#include "text/tokenizer.h"

namespace bench {
namespace {

using base::ErrorCode;
using base::Result;
using base::TokenId;
using Clock = std::chrono::steady_clock;

constexpr std::uint32_t kLogitRows = 64;  // made at a time

double seconds_since(Clock::time_point begin) {
    return std::chrono::duration<double>(Clock::now() - begin).count();
}

std::uint32_t processors_here() {
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) != 0) { return 1; }
    return static_cast<std::uint32_t>(std::max(1, CPU_COUNT(&set)));
}

/// The tokens of a text, and what stands at the beginning of a window.
struct TokenizedText {
    std::vector<TokenId> tokens;
    std::optional<TokenId> bos;  // of a model that begins its texts with one
};

Result<TokenizedText> tokenize(const text::Tokenizer& tokenizer, const std::string& text) {
    TokenizedText result;
    const auto probe = tokenizer.encode("a", {.add_special = true});
    if (!probe) { return base::pass_on(probe); }
    if (tokenizer.bos() && !probe->empty() && probe->front() == *tokenizer.bos()) { result.bos = tokenizer.bos(); }
    auto tokens = tokenizer.encode(text);
    if (!tokens) { return base::pass_on(tokens); }
    result.tokens = std::move(*tokens);
    if (result.bos) { result.tokens.insert(result.tokens.begin(), *result.bos); }
    return result;
}

engine::EngineOptions engine_options(const PerplexityOptions& options, const base::ModelShape& shape) {
    engine::EngineOptions chosen;
    chosen.model_dir = options.model_dir;
    chosen.device = options.device;
    chosen.kernels = options.kernels;
    chosen.weight_format = options.weight_format;
    chosen.threads = options.threads == 0 ? processors_here() : options.threads;
    chosen.packed_dir = options.packed_dir;
    chosen.batch_tokens_max = options.batch_tokens_max;
    chosen.batch_sequences_max = std::min(kLogitRows, options.batch_tokens_max);
    chosen.kv_pool_bytes = std::uint64_t{options.context + chosen.block_tokens} * shape.kv_elements_per_token() * 4;
    return chosen;
}

/// On a terminal: where it stands.
void show_progress(const Likelihood& likelihood, std::size_t done, std::size_t windows) {
    if (isatty(STDERR_FILENO) == 0) { return; }
    std::fprintf(stderr, "\rwindow %zu of %zu: perplexity %.4f%s", done, windows, likelihood.perplexity(),
                 done == windows ? "\n" : "");
}

boost::json::object json_of(const PerplexityOptions& options, const PerplexityReport& report) {
    const Likelihood& likelihood = report.likelihood;
    return {{"model", options.model_dir},
            {"text", options.text_path},
            {"text_bytes", report.text_bytes},
            {"text_tokens", report.text_tokens},
            {"text_is_cut", report.text_is_cut},
            {"context_tokens", report.plan.context},
            {"has_bos", report.has_bos},
            {"windows", report.plan.windows},
            {"tokens_scored", likelihood.tokens},
            {"bytes_scored", report.bytes_scored},
            {"nll_per_token", likelihood.nll / static_cast<double>(likelihood.tokens)},
            {"perplexity", likelihood.perplexity()},
            {"perplexity_error", likelihood.perplexity_error()},
            {"bits_per_byte", report.bits_per_byte()},
            {"engine", report.engine},
            {"load_s", report.load_s},
            {"score_s", report.score_s},
            {"machine", machine_json()},
            {"command", command_line()}};
}

void print(const PerplexityReport& report) {
    const Likelihood& likelihood = report.likelihood;
    std::printf("%s\n", report.engine.c_str());
    std::printf("%zu windows of %u tokens%s of a text of %zu tokens, %zu bytes%s\n", report.plan.windows,
                report.plan.context, report.has_bos ? ", each with BOS," : "", report.text_tokens, report.text_bytes,
                report.text_is_cut ? " (there is more of it: --bytes-max)" : "");
    std::printf("perplexity     %.4f +/- %.4f (%llu tokens scored)\n", likelihood.perplexity(),
                likelihood.perplexity_error(), static_cast<unsigned long long>(likelihood.tokens));
    std::printf("bits per byte  %.4f (of %llu bytes)\n", report.bits_per_byte(),
                static_cast<unsigned long long>(report.bytes_scored));
    std::printf("in %.1f s, %.0f tokens/s\n", report.score_s,
                static_cast<double>(report.plan.windows) * report.plan.context / report.score_s);
}

}  // namespace

void Likelihood::add(double token_nll) {
    ++tokens;
    nll += token_nll;
    nll_squares += token_nll * token_nll;
}

void Likelihood::add(const Likelihood& other) {
    tokens += other.tokens;
    nll += other.nll;
    nll_squares += other.nll_squares;
}

double Likelihood::perplexity() const {
    return tokens == 0 ? std::numeric_limits<double>::quiet_NaN() : std::exp(nll / static_cast<double>(tokens));
}

double Likelihood::perplexity_error() const {
    if (tokens < 2) { return 0; }
    const auto count = static_cast<double>(tokens);
    const double mean = nll / count;
    const double variance = std::max(0.0, nll_squares / count - mean * mean);
    return std::sqrt(variance / (count - 1)) * perplexity();
}

double PerplexityReport::bits_per_byte() const {
    return likelihood.nll / std::numbers::ln2 / static_cast<double>(bytes_scored);
}

Result<WindowPlan> plan_windows(std::size_t tokens, std::uint32_t context, std::uint32_t windows_max) {
    CHECK(context >= 4);
    if (tokens < context) {
        return base::fail(ErrorCode::invalid_argument, "the text has " + std::to_string(tokens) + " tokens, a window " +
                                                           std::to_string(context) +
                                                           ": take a longer text or a smaller --context");
    }
    std::size_t windows = tokens / context;
    if (windows_max > 0) { windows = std::min<std::size_t>(windows, windows_max); }
    return WindowPlan{.context = context, .windows = windows};
}

Result<Likelihood> score_window(engine::Engine& engine, std::span<const TokenId> window, std::uint32_t first_scored,
                                std::uint32_t batch_tokens_max) {
    CHECK(first_scored > 0 && first_scored < window.size());
    const std::uint32_t block_tokens = engine.layout().block_tokens();
    std::vector<base::BlockId> blocks;
    for (std::uint32_t i = 0; i * block_tokens < window.size(); ++i) {
        blocks.push_back(base::BlockId{i});
    }
    CHECK(blocks.size() <= engine.blocks_total());
    Likelihood likelihood;
    // Row r gives the token at r + 1, so the last token is never a row.
    const std::uint32_t first_row = first_scored - 1;
    const auto rows = static_cast<std::uint32_t>(window.size() - 1);
    for (std::uint32_t begin = 0; begin < rows;) {
        const bool is_scored = begin >= first_row;
        const std::uint32_t end = std::min(begin + batch_tokens_max, is_scored ? rows : first_row);
        engine::Batch batch;
        engine::BatchEntry& entry = batch.add();
        const auto tokens = window.subspan(begin, end - begin);
        entry.tokens.assign(tokens.begin(), tokens.end());
        entry.position = begin;
        entry.set_blocks(blocks);
        entry.score = is_scored;
        if (is_scored) {
            const auto targets = window.subspan(begin + 1, end - begin);
            entry.score_targets.assign(targets.begin(), targets.end());
        }
        const auto result = engine::run_to_end(engine, std::move(batch));
        if (!result) { return base::pass_on(result); }
        const engine::EntryResult& done = result->entries.front();
        if (done.error) { return base::fail(done.error->code, done.error->message); }
        for (const engine::SampledToken& score : done.scores) {
            likelihood.add(-static_cast<double>(score.logprob));
        }
        begin = end;
    }
    CHECK(likelihood.tokens == window.size() - first_scored);
    return likelihood;
}

Result<PerplexityReport> measure_perplexity(const PerplexityOptions& options) {
    const auto shape = engine::read_model_config(options.model_dir);
    if (!shape) { return base::pass_on(shape); }
    if (options.context > shape->context_tokens) {
        return base::fail(ErrorCode::invalid_argument, "--context is " + std::to_string(options.context) +
                                                           ", the model has room for " +
                                                           std::to_string(shape->context_tokens) + " tokens");
    }
    const auto source = read_text_source(options.text_path, options.text_bytes_max);
    if (!source) { return base::pass_on(source); }
    const auto tokenizer = text::Tokenizer::load(options.model_dir, {.text_bytes_max = options.text_bytes_max});
    if (!tokenizer) { return base::pass_on(tokenizer); }
    auto tokenized = tokenize(**tokenizer, source->text);
    if (!tokenized) { return base::pass_on(tokenized, options.text_path); }
    const auto plan = plan_windows(tokenized->tokens.size(), options.context, options.windows_max);
    if (!plan) { return base::pass_on(plan, options.text_path); }

    const Clock::time_point begin = Clock::now();
    const auto engine = engine::load_engine(engine_options(options, *shape));
    if (!engine) { return base::pass_on(engine); }
    PerplexityReport report;
    report.load_s = seconds_since(begin);
    report.engine = (*engine)->describe();
    report.text_bytes = source->text.size();
    report.text_tokens = tokenized->tokens.size();
    report.text_is_cut = source->is_cut;
    report.has_bos = tokenized->bos.has_value();
    report.plan = *plan;
    const Clock::time_point loaded = Clock::now();
    for (std::size_t number = 0; number < plan->windows; ++number) {
        const auto window = std::span(tokenized->tokens).subspan(number * plan->context, plan->context);
        if (tokenized->bos) { window.front() = *tokenized->bos; }
        const auto scored = score_window(**engine, window, plan->first_scored(), options.batch_tokens_max);
        if (!scored) { return base::pass_on(scored, "window " + std::to_string(number)); }
        report.likelihood.add(*scored);
        for (const TokenId token : window.subspan(plan->first_scored())) {
            report.bytes_scored += (*tokenizer)->token_bytes(token).size();
        }
        show_progress(report.likelihood, number + 1, plan->windows);
    }
    report.score_s = seconds_since(loaded);
    return report;
}

int bench_perplexity_main(const PerplexityOptions& options) {
    const auto report = measure_perplexity(options);
    if (!report) {
        std::fprintf(stderr, "bench perplexity: %s\n", report.error().message.c_str());
        return 1;
    }
    const std::string json = boost::json::serialize(json_of(options, *report));
    if (options.out_path == "-") {
        std::printf("%s\n", json.c_str());
        return 0;
    }
    print(*report);
    if (options.out_path.empty()) { return 0; }
    if (const auto written = base::write_whole_file(options.out_path, json + "\n"); !written) {
        std::fprintf(stderr, "bench perplexity: %s\n", written.error().message.c_str());
        return 1;
    }
    return 0;
}

}  // namespace bench
