#include "bench/kv_quality.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "base/whole_file.h"
#include "bench/kv_policies.h"
#include "bench/report_json.h"
#include "bench/zstd_codec.h"

namespace bench {
namespace {

using base::ErrorCode;
using base::Result;

/// A policy: what it leaves of a prompt's KV.
using Policy = std::function<KvLeft(const KvTrial& trial, std::span<const std::byte> kv)>;

/// A codec at a level, or a policy, and what it has done so far. Raw has neither.
struct Contender {
    const kv_transfer::Codec* codec = nullptr;
    Policy policy;
    KvQuality row;
    std::uint64_t bytes = 0;
    double error = 0;
    double energy = 0;
    double nll = 0;
    double change = 0;
    double change_squares = 0;
    std::uint32_t answers_equal = 0;
    double tokens_equal = 0;
    std::uint32_t found = 0;
    std::uint64_t values = 0;
};

/// Codes and decodes `kv` in chunks; what comes out.
Result<std::vector<std::byte>> through(Contender& contender, const KvTrial& trial, std::span<const std::byte> kv,
                                       const KvChunks& chunks) {
    if (contender.policy) {
        KvLeft left = contender.policy(trial, kv);
        contender.bytes += left.bytes;
        return std::move(left.kv);
    }
    std::vector<std::byte> all(kv.size());
    std::vector<std::byte> coded;
    for (const kv_cache::KvRange& range : chunks_of(trial.whole(), chunks)) {
        const std::vector<std::byte> raw = cut_range(trial.layout(), trial.whole(), kv, range);
        if (contender.codec == nullptr) {
            contender.bytes += raw.size();
            put_range(trial.layout(), trial.whole(), all, range, raw);
            continue;
        }
        coded.resize(contender.codec->bound(raw.size()));
        const auto bytes = contender.codec->encode(trial.layout(), range, contender.row.level, raw, coded);
        if (!bytes) { return base::pass_on(bytes); }
        contender.bytes += *bytes;
        std::vector<std::byte> back(raw.size());
        const auto decoded =
            contender.codec->decode(trial.layout(), range, contender.row.level, std::span(coded).first(*bytes), back);
        if (!decoded) { return base::pass_on(decoded); }
        put_range(trial.layout(), trial.whole(), all, range, back);
    }
    return all;
}

void compare_kv(Contender& contender, bool is_bf16, std::span<const std::byte> kv, std::span<const std::byte> other) {
    const std::size_t values = kv.size() / (is_bf16 ? 2 : 4);
    for (std::size_t i = 0; i < values; ++i) {
        const auto value = static_cast<double>(value_at(kv, is_bf16, i));
        const double difference = value - static_cast<double>(value_at(other, is_bf16, i));
        contender.error += difference * difference;
        contender.energy += value * value;
    }
}

Result<std::unique_ptr<kv_transfer::Codec>> codec_of(const std::string& name, const KvTrial& trial,
                                                     std::shared_ptr<const kv_transfer::KvProfile> profile) {
    if (name != "zstd") {
        return kv_transfer::make_codec(name, trial.numerics_id(), trial.rotary(), std::move(profile));
    }
    auto zstd = make_zstd_codec(trial.numerics_id());
    if (zstd == nullptr) {
        return base::fail(ErrorCode::not_found, "the system has no libzstd.so.1 for the codec zstd");
    }
    return zstd;
}

/// Whether a greedy answer is what was to be found in the window.
bool is_found(const KvTrial& trial, std::span<const base::TokenId> answer) {
    const auto expected = trial.expected();
    return !expected.empty() && std::equal(expected.begin(), expected.end(), answer.begin(), answer.end());
}

bool is_policy(const std::string& name) {
    return name == "razor" || name == "think";
}

/// What the options name, "all" spelt out.
std::vector<std::string> names_of(const KvQualityOptions& options) {
    if (options.codecs != std::vector<std::string>{"all"}) { return options.codecs; }
    std::vector<std::string> names{"raw", "exact", "int8", "zstd", "cachegen", "sluice"};
    if (system_zstd() == nullptr) { std::erase(names, "zstd"); }
    if (options.trial.device == "host") { names.insert(names.end(), {"razor", "think"}); }  // they see queries
    return names;
}

/// A policy at the levels asked for, which are percents.
Result<void> add_policy(const KvQualityOptions& options, const std::string& name, KvTrial& trial,
                        std::vector<Contender>& contenders) {
    std::vector<std::uint32_t> levels = options.levels;
    if (levels.empty()) {
        levels = name == "razor" ? std::vector<std::uint32_t>{50, 30, 15} : std::vector<std::uint32_t>{20, 40, 60};
    }
    std::vector<HeadScore> scores;
    if (name == "razor") {
        auto scored = score_heads(trial);
        if (!scored) { return base::pass_on(scored); }
        scores = std::move(*scored);
    }
    for (const std::uint32_t level : levels) {
        if (level > 100) {
            return base::fail(ErrorCode::invalid_argument,
                              "a level of " + name + " is a percentage, not " + std::to_string(level));
        }
        contenders.push_back({});
        contenders.back().row.codec = name;
        contenders.back().row.level = level;
        if (name == "think") {
            contenders.back().policy = [level](const KvTrial& of, std::span<const std::byte> kv) {
                return think(of, kv, level);
            };
            continue;
        }
        const auto heads = retrieval_heads(scores, trial.queries().heads_q, trial.layout().kv_heads(), level);
        contenders.back().policy = [heads](const KvTrial& of, std::span<const std::byte> kv) {
            return razor(of, kv, heads);
        };
    }
    return {};
}

Result<void> add_contenders(const KvQualityOptions& options, KvTrial& trial,
                            std::vector<std::unique_ptr<kv_transfer::Codec>>& codecs,
                            std::vector<Contender>& contenders) {
    std::shared_ptr<const kv_transfer::KvProfile> profile;
    if (!options.profile_path.empty()) {
        auto read = kv_transfer::read_profile(options.profile_path);
        if (!read) { return base::pass_on(read); }
        if (const auto fits = read->fits(trial.layout(), trial.numerics_id()); !fits) { return base::pass_on(fits); }
        profile = std::make_shared<const kv_transfer::KvProfile>(std::move(*read));
    }
    for (const std::string& name : names_of(options)) {
        if (is_policy(name)) {
            if (const auto added = add_policy(options, name, trial, contenders); !added) { return added; }
            continue;
        }
        if (name == "raw") {
            contenders.push_back({});
            contenders.back().row.codec = name;
            continue;
        }
        auto codec = codec_of(name, trial, profile);
        if (!codec) { return base::pass_on(codec); }
        std::size_t found = 0;
        for (std::uint32_t level = 0; level < 16; ++level) {
            const bool is_wanted = options.levels.empty() || std::find(options.levels.begin(), options.levels.end(),
                                                                       level) != options.levels.end();
            if (!(*codec)->has_level(level) || !is_wanted) { continue; }
            contenders.push_back({});
            contenders.back().codec = codec->get();
            contenders.back().row.codec = name;
            contenders.back().row.level = level;
            ++found;
        }
        if (found == 0) {
            return base::fail(ErrorCode::invalid_argument, "the codec " + name + " has none of the levels asked for");
        }
        codecs.push_back(std::move(*codec));
    }
    return {};
}

/// Everything of one window for all contenders.
Result<void> try_window(const KvQualityOptions& options, KvTrial& trial, std::uint32_t window,
                        std::vector<Contender>& contenders, KvQualityReport& report, double& nll) {
    const auto kv = trial.compute_prompt(window);
    if (!kv) { return base::pass_on(kv); }
    const auto expected = trial.score();
    if (!expected) { return base::pass_on(expected); }
    const auto answer = trial.answer();
    if (!answer) { return base::pass_on(answer); }
    for (const double logprob : *expected) {
        nll -= logprob;
    }
    report.tokens_scored += expected->size();
    report.recall += is_found(trial, *answer) ? 1 : 0;
    const bool is_bf16 = trial.layout().format().dtype == kv_cache::KvDtype::bf16;
    for (Contender& contender : contenders) {
        const auto changed = through(contender, trial, *kv, options.chunks);
        if (!changed) { return base::pass_on(changed, contender.row.codec); }
        compare_kv(contender, is_bf16, *kv, *changed);
        contender.values += kv->size() / (is_bf16 ? 2 : 4);
        if (const auto put = trial.put(trial.whole(), *changed); !put) { return put; }
        const auto scored = trial.score();
        if (!scored) { return base::pass_on(scored); }
        for (std::size_t i = 0; i < scored->size(); ++i) {
            const double change = (*expected)[i] - (*scored)[i];
            contender.nll -= (*scored)[i];
            contender.change += change;
            contender.change_squares += change * change;
        }
        const auto answered = trial.answer();
        if (!answered) { return base::pass_on(answered); }
        const auto [first, ignored] = std::mismatch(answer->begin(), answer->end(), answered->begin());
        contender.answers_equal += first == answer->end() ? 1 : 0;
        contender.found += is_found(trial, *answered) ? 1 : 0;
        if (!answer->empty()) {
            contender.tokens_equal +=
                static_cast<double>(first - answer->begin()) / static_cast<double>(answer->size());
        }
    }
    return {};
}

KvQuality row_of(std::uint32_t windows, const KvQualityReport& report, const Contender& contender) {
    const auto scored = static_cast<double>(report.tokens_scored);
    KvQuality row = contender.row;
    row.bits_per_value = 8.0 * static_cast<double>(contender.bytes) / static_cast<double>(contender.values);
    row.relative_error = contender.energy == 0 ? 0 : contender.error / contender.energy;
    row.perplexity = std::exp(contender.nll / scored);
    row.perplexity_change = row.perplexity / report.perplexity - 1;
    const double mean = contender.change / scored;
    const double squares = contender.change_squares / scored;
    row.perplexity_change_error =
        std::sqrt(std::max(0.0, squares - mean * mean) / scored) * (1 + row.perplexity_change);
    row.logprob_change_rms = std::sqrt(squares);
    row.answers_equal = static_cast<double>(contender.answers_equal) / windows;
    row.tokens_equal = contender.tokens_equal / windows;
    row.recall = static_cast<double>(contender.found) / windows;
    row.answer_logprob = -contender.nll / windows;
    return row;
}

/// What `windows` windows say together.
KvQualityReport report_of(const KvQualityReport& sums, std::uint32_t windows, double nll,
                          std::span<const Contender> contenders) {
    KvQualityReport report = sums;
    report.windows = windows;
    report.perplexity = std::exp(nll / static_cast<double>(report.tokens_scored));
    report.recall /= windows;
    report.answer_logprob = -nll / windows;
    for (const Contender& contender : contenders) {
        report.rows.push_back(row_of(windows, report, contender));
    }
    return report;
}

bool finds(const KvQualityOptions& options) {
    return !options.trial.longeval_path.empty() || options.trial.passkeys > 0;
}

boost::json::object json_of(const KvQualityOptions& options, const KvQualityReport& report) {
    boost::json::array rows;
    for (const KvQuality& row : report.rows) {
        rows.push_back({{"codec", row.codec},
                        {"level", row.level},
                        {"bits_per_value", row.bits_per_value},
                        {"relative_error", row.relative_error},
                        {"perplexity", row.perplexity},
                        {"perplexity_change", row.perplexity_change},
                        {"perplexity_change_error", row.perplexity_change_error},
                        {"logprob_change_rms", row.logprob_change_rms},
                        {"answers_equal", row.answers_equal},
                        {"tokens_equal", row.tokens_equal}});
        if (finds(options)) {
            rows.back().as_object()["recall"] = row.recall;
            rows.back().as_object()["answer_logprob"] = row.answer_logprob;
        }
    }
    boost::json::value recall;  // null: nothing was to be found
    if (finds(options)) {
        recall = {{"longeval", options.trial.longeval_path},
                  {"longeval_lines", options.trial.longeval_lines},
                  {"passkeys", options.trial.passkeys},
                  {"recall", report.recall},
                  {"answer_logprob", report.answer_logprob}};
    }
    return {{"model", options.trial.model_dir},
            {"text", options.trial.text_path},
            {"text_tokens", report.text_tokens},
            {"profile", options.profile_path},
            {"context_tokens", options.trial.context},
            {"continuation_tokens", options.trial.continuation},
            {"generated_tokens", options.trial.generated},
            {"windows", report.windows},
            {"chunk_tokens", options.chunks.tokens},
            {"chunk_layers", options.chunks.layers},
            {"tokens_scored", report.tokens_scored},
            {"perplexity", report.perplexity},
            {"recall", std::move(recall)},
            {"rows", std::move(rows)},
            {"engine", report.engine},
            {"machine", machine_json()},
            {"command", command_line()}};
}

void print(const KvQualityOptions& options, const KvQualityReport& report) {
    std::printf("%s\n%u windows: %u tokens of KV, then %u scored and %u answered; chunks of %u tokens, %u layers\n",
                report.engine.c_str(), report.windows, options.trial.context, options.trial.continuation,
                options.trial.generated, options.chunks.tokens, options.chunks.layers);
    if (finds(options)) {
        std::printf(
            "with the KV as it is %.1f %% are found, the right answer has a log-probability of %.3f\n%-12s %10s %10s "
            "%8s %12s %8s\n",
            100 * report.recall, report.answer_logprob, "codec", "bits/value", "error", "found", "log-prob.",
            "answers");
        for (const KvQuality& row : report.rows) {
            std::printf("%-12s %10.3f %10.2e %7.1f%% %12.3f %7.1f%%\n",
                        (row.codec + "/" + std::to_string(row.level)).c_str(), row.bits_per_value, row.relative_error,
                        100 * row.recall, row.answer_logprob, 100 * row.answers_equal);
        }
        return;
    }
    std::printf("perplexity with the KV as it is: %.4f\n", report.perplexity);
    std::printf("%-12s %10s %10s %12s %20s %10s %8s %8s\n", "codec", "bits/value", "error", "perplexity", "change",
                "rms nats", "answers", "tokens");
    for (const KvQuality& row : report.rows) {
        std::printf("%-12s %10.3f %10.2e %12.4f %+9.3f %% +/- %.3f %10.4f %7.1f%% %7.1f%%\n",
                    (row.codec + "/" + std::to_string(row.level)).c_str(), row.bits_per_value, row.relative_error,
                    row.perplexity, 100 * row.perplexity_change, 100 * row.perplexity_change_error,
                    row.logprob_change_rms, 100 * row.answers_equal, 100 * row.tokens_equal);
    }
}

}  // namespace

Result<KvQualityReport> measure_kv_quality(
    const KvQualityOptions& options, const std::function<Result<void>(const KvQualityReport& so_far)>& after_window) {
    KvTrialOptions wanted = options.trial;
    const std::vector<std::string> names = names_of(options);
    wanted.keeps_queries = std::any_of(names.begin(), names.end(), is_policy);
    auto trial = KvTrial::make(wanted);
    if (!trial) { return base::pass_on(trial); }
    std::vector<std::unique_ptr<kv_transfer::Codec>> codecs;
    std::vector<Contender> contenders;
    if (const auto added = add_contenders(options, *trial, codecs, contenders); !added) { return base::pass_on(added); }
    KvQualityReport sums;
    sums.engine = trial->describe();
    sums.text_tokens = trial->text_tokens();
    double nll = 0;
    KvQualityReport report;
    for (std::uint32_t window = 0; window < trial->windows(); ++window) {
        const auto tried = try_window(options, *trial, window, contenders, sums, nll);
        if (!tried) { return base::pass_on(tried, "window " + std::to_string(window)); }
        report = report_of(sums, window + 1, nll, contenders);
        if (after_window) {
            if (const auto told = after_window(report); !told) { return base::pass_on(told); }
        }
        if (isatty(STDERR_FILENO) != 0) {
            std::fprintf(stderr, "\rwindow %u of %u%s", window + 1, trial->windows(),
                         window + 1 == trial->windows() ? "\n" : "");
        }
    }
    return report;
}

int bench_kv_main(const KvQualityOptions& options) {
    const bool writes = !options.out_path.empty() && options.out_path != "-";
    const auto json = [&](const KvQualityReport& report) {
        return boost::json::serialize(json_of(options, report)) + "\n";
    };
    // Long measurements that are ended have told what they know by then.
    const auto report = measure_kv_quality(options, [&](const KvQualityReport& so_far) -> Result<void> {
        return writes ? base::write_whole_file(options.out_path, json(so_far)) : Result<void>{};
    });
    if (!report) {
        std::fprintf(stderr, "bench kv: %s\n", report.error().message.c_str());
        return 1;
    }
    if (options.out_path == "-") {
        std::fputs(json(*report).c_str(), stdout);
    } else {
        print(options, *report);
    }
    return 0;
}

void add_kv_trial_flags(CLI::App& app, KvTrialOptions& options) {
    app.add_option("--model", options.model_dir, "a model's folder, a GGUF file, or a name of the store")->required();
    app.add_option("--text", options.text_path,
                   "a plain text, or .jsonl with a field \"text\" in each line; either may be compressed (.gz)");
    app.add_option("--context", options.context, "tokens of a prompt")
        ->check(CLI::Range(16u, 1u << 20))
        ->capture_default_str();
    app.add_option("--continuation", options.continuation, "tokens behind a prompt, to be scored")
        ->check(CLI::Range(4u, 1u << 16))
        ->capture_default_str();
    app.add_option("--windows", options.windows, "prompts at most")
        ->check(CLI::Range(1u, 1u << 20))
        ->capture_default_str();
    app.add_option("--device", options.device, "auto, host, cuda:0, ...")->capture_default_str();
    app.add_option("--kv-dtype", options.kv_dtype, "as engine.kv_dtype")->capture_default_str();
    app.add_option("--threads", options.threads, "compute threads of the host; 0: the machine's cores")
        ->check(CLI::Range(0u, 1024u))
        ->capture_default_str();
    app.add_option("--packed-dir", options.packed_dir, "as engine.packed_dir");
}

void add_bench_kv(CLI::App& app, KvQualityOptions& options) {
    add_kv_trial_flags(app, options.trial);
    app.add_option("--generated", options.trial.generated, "tokens of a greedy answer; 0: none")
        ->check(CLI::Range(0u, 4096u))
        ->capture_default_str();
    app.add_option("--codec", options.codecs,
                   "raw, exact, int8, zstd (of int8, the system's), cachegen, sluice, or what a policy leaves of the "
                   "KV: razor, think (repeated), or all")
        ->capture_default_str();
    app.add_option(
        "--level", options.levels,
        "of the codecs (repeated); without: each that they have. razor: percent of the query heads that look back "
        "and keep all tokens; think: percent of the keys' channels that are dropped");
    app.add_option(
        "--longeval", options.trial.longeval_path,
        "LongEval's lines (JSON lines, .gz or not): how many of the numbers asked for are found, in place of a text");
    app.add_option("--longeval-lines", options.trial.longeval_lines, "of each record; 0: all of them")
        ->check(CLI::Range(0u, 100'000u))
        ->capture_default_str();
    app.add_option("--passkeys", options.trial.passkeys,
                   "so many prompts of --context tokens out of the text, each with a pass key to find")
        ->check(CLI::Range(0u, 10'000u))
        ->capture_default_str();
    app.add_option("--profile", options.profile_path,
                   "what sluice kv calibrate made of the model, for the codec sluice");
    app.add_option("--chunk-tokens", options.chunks.tokens, "tokens of a chunk")
        ->check(CLI::Range(1u, 65536u))
        ->capture_default_str();
    app.add_option("--chunk-layers", options.chunks.layers, "layers of a chunk")
        ->check(CLI::Range(1u, 1024u))
        ->capture_default_str();
    app.add_option("--out", options.out_path,
                   "JSON file, written anew after each window; - writes to standard output instead of the table");
    app.footer(
        "What a KV codec costs: bits of each value, and how much worse a model reads and answers what follows a "
        "prompt\n"
        "whose KV went through it.");
}

}  // namespace bench
