#include "bench/serve.h"

#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <span>
#include <utility>
#include <vector>

#include "bench/goodput_search.h"
#include "bench/load_generator.h"
#include "bench/report.h"
#include "bench/report_json.h"

namespace bench {
namespace {

namespace json = boost::json;

constexpr Seconds kGetTimeout{30};
constexpr std::size_t kProbeWords[2] = {16, 64};  // of the two probes that tell how long a word is for the tokenizer

int complain(const base::Error& error) {
    std::fprintf(stderr, "bench serve: %s\n", error.message.c_str());
    return error.code == base::ErrorCode::invalid_argument ? 2 : 1;
}

base::Result<std::string> read_file(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) { return base::fail(base::ErrorCode::not_found, "cannot read " + path + ": " + std::strerror(errno)); }
    return std::string{std::istreambuf_iterator<char>(file), {}};
}

/// The program blocks the signals that end a server; a benchmark is ended by them at once (SIGINT: with its report).
class UnblockedSignals {
public:
    UnblockedSignals() {
        sigset_t signals;
        sigemptyset(&signals);
        sigaddset(&signals, SIGINT);
        sigaddset(&signals, SIGTERM);
        pthread_sigmask(SIG_UNBLOCK, &signals, &before_);
    }
    ~UnblockedSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
    UnblockedSignals(const UnblockedSignals&) = delete;
    UnblockedSignals& operator=(const UnblockedSignals&) = delete;

private:
    sigset_t before_{};
};

/// An overloaded server keeps many requests in flight, each with a connection.
void allow_many_connections() {
    rlimit limit{};
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) { return; }
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);  // where it fails the default holds, and "connect" errors tell of it
}

/// Everything that stays the same over the runs of a sweep.
struct Session {
    Target target;
    RequestForm form;
    SloTargets targets;
    PromptMaker::Options prompts;
    std::vector<PlannedRequest> trace;  // empty: synthetic
};

struct RunResult {
    double rate = 0;  // requests/s asked of the run
    std::vector<RequestRecord> records;
    Report report;
};

LoadOptions load_options(const ServeBenchOptions& options, const Session& session) {
    LoadOptions load;
    load.endpoint = session.form.endpoint;
    load.timeout = Seconds(options.timeout_s);
    load.in_flight_max = options.in_flight_max;
    load.check_length = options.ignore_eos;
    return load;
}

/// On a terminal one line that is written over; elsewhere a line now and then.
void show_progress(const LoadProgress& progress) {
    constexpr std::size_t kBarWidth = 30;
    const bool is_last = progress.ended == progress.total;
    if (isatty(STDERR_FILENO) != 0) {
        const std::size_t filled = progress.total == 0 ? kBarWidth : progress.ended * kBarWidth / progress.total;
        const std::string bar = std::string(filled, '#') + std::string(kBarWidth - filled, '.');
        std::fprintf(stderr, "\r[%s] %zu/%zu answered, %zu in flight, %zu failed, %.0f s%s", bar.c_str(),
                     progress.ended, progress.total, progress.sent - progress.ended, progress.failed,
                     progress.elapsed.count(), is_last ? "\n" : " ");
    } else {
        std::fprintf(stderr, "%zu of %zu answered, %zu in flight, %zu failed, %.0f s\n", progress.ended, progress.total,
                     progress.sent - progress.ended, progress.failed, progress.elapsed.count());
    }
    std::fflush(stderr);
}

std::vector<LoadRequest> make_requests(const Session& session, std::span<const PlannedRequest> plan) {
    PromptMaker prompts(session.prompts);
    std::vector<LoadRequest> requests;
    requests.reserve(plan.size());
    for (const PlannedRequest& planned : plan) {
        requests.push_back(
            {planned, request_body(session.form, prompts.make(planned.prompt_tokens), planned.output_tokens)});
    }
    return requests;
}

/// Sends the requests of `plan` one after the other. Error: unavailable when one fails, with what the server said.
base::Result<std::vector<RequestRecord>> run_in_turn(const ServeBenchOptions& options, const Session& session,
                                                     std::span<const LoadRequest> requests) {
    LoadOptions load = load_options(options, session);
    load.in_flight_max = 1;
    load.check_length = false;
    auto records = run_load(session.target, requests, load);
    if (!records) { return records; }
    if (records->size() < requests.size()) { return base::fail(base::ErrorCode::cancelled, "interrupted"); }
    for (const RequestRecord& record : *records) {
        if (!record.is_ok()) {
            return base::fail(base::ErrorCode::unavailable,
                              "a first request failed (" + record.error_kind + "): " + record.error_message);
        }
    }
    return records;
}

/// Two short requests tell how many tokens a word is and what the template adds.
base::Result<WordLength> probe_word_length(const ServeBenchOptions& options, const Session& session) {
    std::mt19937_64 random{options.seed};
    std::vector<LoadRequest> probes;
    for (const std::size_t words : kProbeWords) {
        const PlannedRequest plan{.due = {}, .prompt_tokens = 0, .output_tokens = 1};
        probes.push_back({plan, request_body(session.form, PromptMaker::random_words(random, words), 1)});
    }
    const auto records = run_in_turn(options, session, probes);
    if (!records) { return base::pass_on(records); }
    return fit_word_length(kProbeWords[0], (*records)[0].prompt_tokens, kProbeWords[1], (*records)[1].prompt_tokens);
}

base::Result<Session> prepare(const ServeBenchOptions& options) {
    Session session;
    auto target = parse_url(options.url);
    if (!target) { return base::pass_on(target); }
    session.target = *target;
    session.target.api_key = options.api_key;
    session.form = {.endpoint = options.endpoint == "chat" ? Endpoint::chat : Endpoint::completions,
                    .model = options.model,
                    .ignore_eos = options.ignore_eos,
                    .temperature = options.temperature};
    if (options.slo_ttft_ms) { session.targets.ttft = Seconds(*options.slo_ttft_ms / 1e3); }
    if (options.slo_tpot_ms) { session.targets.tpot = Seconds(*options.slo_tpot_ms / 1e3); }
    if (options.token_ids && session.form.endpoint != Endpoint::completions) {
        return base::fail(base::ErrorCode::invalid_argument, "--token-ids needs --endpoint completions");
    }
    if (options.token_ids && !options.prompts_path.empty()) {
        return base::fail(base::ErrorCode::invalid_argument, "--token-ids and --prompts exclude each other");
    }
    if (options.token_id_first < 0 || options.token_id_first > options.token_id_last) {
        return base::fail(base::ErrorCode::invalid_argument, "--token-id-first must lie in 0..--token-id-last");
    }
    if (options.find_goodput && !session.targets.ttft && !session.targets.tpot) {
        return base::fail(base::ErrorCode::invalid_argument, "--find-goodput needs --slo-ttft-ms or --slo-tpot-ms");
    }

    if (!options.trace_path.empty()) {
        auto text = read_file(options.trace_path);
        if (!text) { return base::pass_on(text); }
        auto trace = parse_trace(*text, {.time_scale = options.trace_scale,
                                         .requests = options.requests,
                                         .prompt_tokens_max = options.prompt_tokens_max,
                                         .output_tokens_max = options.output_tokens_max});
        if (!trace) { return base::pass_on(trace, options.trace_path); }
        session.trace = std::move(*trace);
    }
    session.prompts = {.seed = options.seed,
                       .word_length = {},
                       .token_ids = options.token_ids,
                       .token_id_first = options.token_id_first,
                       .token_id_last = options.token_id_last,
                       .texts = {},
                       .shared_prefix_tokens = options.shared_prefix_tokens};
    if (!options.prompts_path.empty()) {
        auto text = read_file(options.prompts_path);
        if (!text) { return base::pass_on(text); }
        auto prompts = parse_prompts(*text);
        if (!prompts) { return base::pass_on(prompts, options.prompts_path); }
        session.prompts.texts = std::move(*prompts);
    }

    if (session.form.model.empty()) {
        const auto answer = http_get(session.target, "/models", kGetTimeout);
        if (!answer) { return base::pass_on(answer); }
        if (answer->status != 200) {
            return base::fail(base::ErrorCode::unavailable, "the list of models was answered with status " +
                                                                std::to_string(answer->status) + ": " +
                                                                error_message_of(answer->body));
        }
        auto model = first_model_of(answer->body);
        if (!model) { return base::pass_on(model); }
        session.form.model = std::move(*model);
    }
    if (!options.token_ids && session.prompts.texts.empty()) {
        const auto word_length = probe_word_length(options, session);
        if (!word_length) { return base::pass_on(word_length); }
        session.prompts.word_length = *word_length;
    }
    return session;
}

/// The trace at its own speed for `rate` 0, else sped up or slowed down to that mean rate; without a trace a synthetic
/// plan.
std::vector<PlannedRequest> make_plan(const ServeBenchOptions& options, const Session& session, double rate) {
    if (session.trace.empty()) {
        return plan_synthetic({.arrival = options.arrival == "constant" ? Arrival::constant : Arrival::poisson,
                               .rate = rate,
                               .requests = options.requests,
                               .seed = options.seed,
                               .prompt_tokens = options.prompt_tokens,
                               .output_tokens = options.output_tokens,
                               .length_spread = options.length_spread});
    }
    std::vector<PlannedRequest> plan = session.trace;
    const double span_s = plan.back().due.count();
    if (rate > 0 && span_s > 0) {
        const double factor = static_cast<double>(plan.size() - 1) / span_s / rate;
        for (PlannedRequest& request : plan) {
            request.due *= factor;
        }
    }
    return plan;
}

base::Result<RunResult> run_at(const ServeBenchOptions& options, const Session& session, double rate) {
    const std::vector<LoadRequest> requests = make_requests(session, make_plan(options, session, rate));
    LoadOptions load = load_options(options, session);
    if (!options.quiet) {
        load.progress = show_progress;
        load.progress_interval = isatty(STDERR_FILENO) != 0 ? Seconds(0.2) : Seconds(10);
    }
    auto records = run_load(session.target, requests, load);
    if (!records) { return base::pass_on(records); }
    RunResult result{.rate = rate, .records = std::move(*records), .report = {}};
    result.report = make_report(result.records, session.targets);
    return result;
}

bool was_interrupted(const ServeBenchOptions& options, const Session& session, const RunResult& run) {
    return run.records.size() < (session.trace.empty() ? options.requests : session.trace.size()) ||
           run.report.errors.contains("interrupted");
}

/// All runs; one without --find-goodput.
base::Result<std::vector<RunResult>> run_all(const ServeBenchOptions& options, const Session& session) {
    std::vector<RunResult> runs;
    if (!options.find_goodput) {
        auto run = run_at(options, session, session.trace.empty() ? options.rate : 0);
        if (!run) { return base::pass_on(run); }
        std::printf("%s", report_text(run->report, session.targets).c_str());
        runs.push_back(std::move(*run));
        return runs;
    }
    const GoodputSearch search{.rate_start = options.rate,
                               .rate_max = options.rate_max,
                               .attainment_min = options.attainment,
                               .precision = options.precision};
    std::vector<RatePoint> tried;
    while (const auto rate = next_rate(search, tried)) {
        auto run = run_at(options, session, *rate);
        if (!run) { return base::pass_on(run); }
        std::printf("rate %.3f/s: targets met by %.1f %% (TTFT p90 %.1f ms, TPOT p90 %.2f ms, failed %zu)\n", *rate,
                    run->report.attainment * 100, run->report.ttft_ms.p90, run->report.tpot_ms.p90,
                    run->report.requests - run->report.requests_ok);
        std::fflush(stdout);
        tried.push_back({*rate, run->report.attainment});
        runs.push_back(std::move(*run));
        if (was_interrupted(options, session, runs.back())) { break; }
    }
    const double goodput = goodput_rate(search, tried);
    for (const RunResult& run : runs) {
        if (run.rate == goodput) {
            std::printf("\nat the highest good rate:\n%s", report_text(run.report, session.targets).c_str());
        }
    }
    std::printf("goodput: %.3f requests/s at %.0f %% attainment\n", goodput, options.attainment * 100);
    return runs;
}

std::string result_json(const ServeBenchOptions& options, const Session& session, std::span<const RunResult> runs) {
    json::object result{{"command", command_line()},
                        {"machine", machine_json()},
                        {"model", session.form.model},
                        {"seed", options.seed}};
    if (options.slo_ttft_ms) { result["slo_ttft_ms"] = *options.slo_ttft_ms; }
    if (options.slo_tpot_ms) { result["slo_tpot_ms"] = *options.slo_tpot_ms; }
    if (options.find_goodput) {
        std::vector<RatePoint> tried;
        for (const RunResult& run : runs) {
            tried.push_back({run.rate, run.report.attainment});
        }
        result["attainment_asked"] = options.attainment;
        result["goodput_per_s"] = goodput_rate({.attainment_min = options.attainment}, tried);
    }
    json::array rows;
    for (const RunResult& run : runs) {
        rows.push_back(json::object{
            {"rate", run.rate}, {"report", report_json(run.report)}, {"requests", records_json(run.records)}});
    }
    result["runs"] = std::move(rows);
    return json::serialize(result) + "\n";
}

}  // namespace

int bench_serve_main(const ServeBenchOptions& options) {
    const UnblockedSignals unblocked;
    allow_many_connections();
    const auto session = prepare(options);
    if (!session) { return complain(session.error()); }
    if (options.warmup > 0) {
        const std::vector<PlannedRequest> plan(
            options.warmup,
            PlannedRequest{
                .due = {},
                .prompt_tokens = session->trace.empty() ? options.prompt_tokens : session->trace.front().prompt_tokens,
                .output_tokens = std::min<std::uint32_t>(options.output_tokens, 16)});
        Session warmup = *session;
        warmup.prompts.seed = ~options.seed;  // other prompts than the measured ones: no prefix of theirs is cached yet
        const auto records = run_in_turn(options, warmup, make_requests(warmup, plan));
        if (!records) { return complain(records.error()); }
    }
    const auto runs = run_all(options, *session);
    if (!runs) { return complain(runs.error()); }
    if (!options.out_path.empty()) {
        const auto written = write_file(options.out_path, result_json(options, *session, *runs));
        if (!written) { return complain(written.error()); }
    }
    for (const RunResult& run : *runs) {
        if (run.report.requests_ok > 0) { return 0; }
    }
    return 1;
}

}  // namespace bench
