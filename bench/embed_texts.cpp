#include "bench/embed_texts.h"

#include <time.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/json.hpp>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <memory>
#include <span>
#include <utility>

#include "engine/engine.h"
#include "text/model_text.h"

namespace bench {
namespace {

using base::ErrorCode;
using base::Result;
using Clock = std::chrono::steady_clock;
using Tokens = std::vector<base::TokenId>;

double seconds_since(Clock::time_point begin) {
    return std::chrono::duration<double>(Clock::now() - begin).count();
}

/// Of all threads of this process.
double cpu_seconds() {
    timespec now{};
    ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

Result<std::vector<std::string>> read_texts(const std::string& path) {
    std::ifstream file(path);
    if (!file) { return base::fail(ErrorCode::not_found, "cannot open " + path); }
    std::vector<std::string> texts;
    for (std::string line; std::getline(file, line);) {
        if (line.empty()) { continue; }
        if (line.front() == '{') {
            boost::system::error_code error;
            const boost::json::value document = boost::json::parse(line, error);
            const boost::json::object* fields = error ? nullptr : document.if_object();
            const boost::json::value* text = fields == nullptr ? nullptr : fields->if_contains("text");
            if (text == nullptr || !text->is_string()) {
                return base::fail(ErrorCode::invalid_argument, path + ": line " + std::to_string(texts.size() + 1) +
                                                                   " is no JSON object with a string 'text'");
            }
            line = std::string(text->get_string());
        }
        texts.push_back(std::move(line));
    }
    if (texts.empty()) { return base::fail(ErrorCode::invalid_argument, path + " holds no texts"); }
    return texts;
}

/// Cut to `longest`, with the last token, which ends the text, kept.
bool cut(Tokens& tokens, std::uint32_t longest) {
    if (tokens.size() <= longest) { return false; }
    const base::TokenId last = tokens.back();
    tokens.resize(longest);
    tokens.back() = last;
    return true;
}

/// One round over all texts in their order. Error: the engine's.
Result<std::uint32_t> run_round(engine::Engine& engine, const EmbedBenchOptions& options, std::span<const Tokens> texts,
                                engine::Batch& batch, std::vector<std::vector<float>>& vectors) {
    std::uint32_t steps = 0;
    for (std::size_t next = 0; next < texts.size(); ++steps) {
        batch.clear();
        std::size_t tokens = 0;
        const std::size_t first = next;
        while (next < texts.size() && next - first < options.batch_texts_max &&
               tokens + texts[next].size() <= options.batch_tokens_max) {
            engine::BatchEntry& entry = batch.add();
            entry.sequence = base::SequenceId{next};
            entry.tokens = texts[next];
            entry.pooling = engine::Pooling::own;
            tokens += texts[next++].size();
        }
        auto result = engine::run_to_end(engine, std::move(batch));
        if (!result) { return base::pass_on(result); }
        for (std::size_t i = 0; i < result->entries.size(); ++i) {
            vectors[first + i] = std::move(result->entries[i].pooled);
        }
        batch = std::move(result->batch);
    }
    return steps;
}

double flops_of(const base::ModelShape& shape, std::span<const Tokens> texts) {
    double flops = 0;
    const double hidden = shape.hidden;
    const double token = 2.0 * shape.layers * hidden * (4.0 * hidden + 2.0 * shape.intermediate);
    for (const Tokens& text : texts) {
        const auto rows = static_cast<double>(text.size());
        flops += rows * token + 4.0 * shape.layers * rows * rows * hidden;
    }
    return flops;
}

double median_of(const EmbedBenchReport& report) {
    return report.rounds_s[report.rounds_s.size() / 2];
}

boost::json::object json_of(const EmbedBenchReport& report) {
    const auto list = [](const std::vector<double>& values) {
        return boost::json::array(values.begin(), values.end());
    };
    const double median = median_of(report);
    return {{"engine", report.engine},
            {"texts", report.texts},
            {"tokens", report.tokens},
            {"truncated", report.truncated},
            {"steps", report.steps},
            {"tokenize_s", report.tokenize_s},
            {"rounds_s", list(report.rounds_s)},
            {"rounds_cpu_s", list(report.rounds_cpu_s)},
            {"median_s", median},
            {"texts_per_s", static_cast<double>(report.texts) / median},
            {"tokens_per_s", static_cast<double>(report.tokens) / median},
            {"flop_per_s", report.flops / median}};
}

void print(const EmbedBenchReport& report) {
    const double median = median_of(report);
    std::printf("%s\n\n", report.engine.c_str());
    std::printf("%llu texts, %llu tokens (%llu texts cut), %u steps a round\n",
                static_cast<unsigned long long>(report.texts), static_cast<unsigned long long>(report.tokens),
                static_cast<unsigned long long>(report.truncated), report.steps);
    std::printf("median of %zu rounds %.3f s, best %.3f s: %.1f texts/s, %.0f tokens/s, %.1f GFLOP/s\n",
                report.rounds_s.size(), median, report.rounds_s.front(), static_cast<double>(report.texts) / median,
                static_cast<double>(report.tokens) / median, report.flops / median / 1e9);
    std::printf("processor time of a round %.3f s (median)\n", report.rounds_cpu_s[report.rounds_cpu_s.size() / 2]);
    std::printf("tokenizer, once on one thread: %.3f s\n", report.tokenize_s);
}

Result<void> write_vectors(const std::string& path, const EmbedBenchReport& report) {
    std::ofstream file(path, std::ios::binary);
    for (const std::vector<float>& vector : report.vectors) {
        file.write(reinterpret_cast<const char*>(vector.data()),
                   static_cast<std::streamsize>(vector.size() * sizeof(float)));
    }
    file.close();
    if (!file) { return base::fail(ErrorCode::internal, "cannot write " + path); }
    return {};
}

}  // namespace

Result<EmbedBenchReport> measure_embed(const EmbedBenchOptions& options) {
    const auto written = read_texts(options.texts_path);
    if (!written) { return base::pass_on(written); }
    engine::EngineOptions chosen;
    chosen.model_dir = options.model_dir;
    chosen.kernels = options.kernels;
    chosen.weight_format = options.weight_format;
    chosen.threads = options.threads;
    chosen.batch_tokens_max = options.batch_tokens_max;
    chosen.batch_sequences_max = std::min(options.batch_texts_max, options.batch_tokens_max);
    const auto engine = engine::load_engine(chosen);
    if (!engine) { return base::pass_on(engine); }
    if ((*engine)->keeps_kv()) {
        return base::fail(
            ErrorCode::invalid_argument,
            options.model_dir + " holds no sentence encoder; 'bench engine' measures models that make text");
    }
    const auto text = text::ModelText::load(options.model_dir);
    if (!text) { return base::pass_on(text); }

    EmbedBenchReport report;
    report.engine = (*engine)->describe();
    report.texts = written->size();
    std::vector<Tokens> texts;
    const Clock::time_point tokenize = Clock::now();
    for (const std::string& one : *written) {
        auto tokens = text->tokenizer->encode(one, {.add_special = true});
        if (!tokens) { return base::pass_on(tokens); }
        texts.push_back(std::move(*tokens));
    }
    report.tokenize_s = seconds_since(tokenize);
    for (Tokens& tokens : texts) {
        if (cut(tokens, (*engine)->shape().context_tokens)) { ++report.truncated; }
        report.tokens += tokens.size();
    }
    report.flops = flops_of((*engine)->shape(), texts);
    report.vectors.resize(texts.size());
    engine::Batch batch;
    for (std::uint32_t round = 0; round <= options.rounds; ++round) {
        const Clock::time_point begin = Clock::now();
        const double cpu_begin = cpu_seconds();
        const auto steps = run_round(**engine, options, texts, batch, report.vectors);
        if (!steps) { return base::pass_on(steps); }
        report.steps = *steps;
        if (round == 0) { continue; }
        report.rounds_s.push_back(seconds_since(begin));
        report.rounds_cpu_s.push_back(cpu_seconds() - cpu_begin);
    }
    std::sort(report.rounds_s.begin(), report.rounds_s.end());
    std::sort(report.rounds_cpu_s.begin(), report.rounds_cpu_s.end());
    return report;
}

int bench_embed_main(const EmbedBenchOptions& options) {
    const auto fail = [](const std::string& message) {
        std::fprintf(stderr, "bench embed: %s\n", message.c_str());
        return 1;
    };
    const auto report = measure_embed(options);
    if (!report) { return fail(report.error().message); }
    if (!options.vectors_path.empty()) {
        if (const auto done = write_vectors(options.vectors_path, *report); !done) {
            return fail(done.error().message);
        }
    }
    const std::string json = boost::json::serialize(json_of(*report));
    if (options.out_path == "-") {
        std::printf("%s\n", json.c_str());
        return 0;
    }
    print(*report);
    if (options.out_path.empty()) { return 0; }
    std::ofstream file{options.out_path};
    file << json << '\n';
    file.close();
    return file ? 0 : fail("cannot write " + options.out_path);
}

void add_bench_embed(CLI::App& app, EmbedBenchOptions& options) {
    app.add_option("--model", options.model_dir, "folder of a sentence encoder, or its name in the store")->required();
    app.add_option("--texts", options.texts_path, "file with a text a line, or a JSON object with a field text")
        ->required();
    app.add_option("--kernels", options.kernels, "auto, amx, avx512, avx2, reference")->capture_default_str();
    app.add_option("--weight-format", options.weight_format, "auto, f32, bf16")->capture_default_str();
    app.add_option("--threads", options.threads, "compute threads")->check(CLI::Range(1, 1024))->capture_default_str();
    app.add_option("--batch-tokens", options.batch_tokens_max, "tokens of a step at most")
        ->check(CLI::Range(1, 65536))
        ->capture_default_str();
    app.add_option("--batch-texts", options.batch_texts_max, "texts of a step at most")
        ->check(CLI::Range(1, 65536))
        ->capture_default_str();
    app.add_option("--rounds", options.rounds, "rounds over all texts, after one that is not counted")
        ->check(CLI::Range(1, 1000))
        ->capture_default_str();
    app.add_option("--out", options.out_path, "JSON; -: standard output");
    app.add_option("--vectors", options.vectors_path, "the vectors as little-endian floats");
}

}  // namespace bench
