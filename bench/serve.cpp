#include "bench/serve.h"

#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <chrono>
#include <cstdio>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "base/whole_file.h"
#include "bench/goodput_search.h"
#include "bench/report.h"
#include "bench/report_json.h"
#include "bench/serve_session.h"
#include "bench/sessions.h"
#include "bench/vllm_form.h"

namespace bench {
namespace {

namespace json = boost::json;

int complain(const base::Error& error) {
    std::fprintf(stderr, "bench serve: %s\n", error.message.c_str());
    return error.code == base::ErrorCode::invalid_argument ? 2 : 1;
}

double cpu_seconds() {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    const auto seconds = [](const timeval& time) {
        return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
    };
    return seconds(usage.ru_utime) + seconds(usage.ru_stime);
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

struct RunResult {
    double rate = 0;  // requests/s asked of the run
    std::vector<RequestRecord> records;
    Report report;
    std::optional<Report> steady;
};

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

/// The trace at its own speed for `rate` 0, else sped up or slowed down to that mean rate; without a trace a synthetic
/// plan.
std::vector<PlannedRequest> make_plan(const ServeBenchOptions& options, const Session& session, double rate) {
    if (session.trace.empty() && options.turns > 0) {
        return plan_turns({.arrival = options.arrival == "constant" ? Arrival::constant : Arrival::poisson,
                           .rate = rate,
                           .requests = options.requests,
                           .turns = options.turns,
                           .think = Seconds(options.think_s),
                           .seed = options.seed,
                           .prompt_tokens = options.prompt_tokens,
                           .output_tokens = options.output_tokens,
                           .length_spread = options.length_spread});
    }
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
    const auto begun = std::count_if(plan.begin(), plan.end(), [](const auto& one) { return !one.after; });
    if (rate > 0 && span_s > 0 && begun > 1) {
        const double factor = static_cast<double>(begun - 1) / span_s / rate;
        for (PlannedRequest& request : plan) {
            request.due *= factor;
        }
    }
    return plan;
}

base::Result<RunResult> run_at(const ServeBenchOptions& options, const Session& session, double rate) {
    std::vector<PlannedRequest> plan = make_plan(options, session, rate);
    Session drawn;  // with the texts of this plan
    if (!session.lengths.empty()) {
        auto texts = draw_lengths(plan, session.lengths,
                                  {.word_length = session.prompts.word_length,
                                   .divisor = options.length_divisor,
                                   .prompt_tokens_max = options.prompt_tokens_max,
                                   .output_tokens_max = options.output_tokens_max,
                                   .seed = options.seed});
        if (!texts) { return base::pass_on(texts, options.lengths_path); }
        drawn.form = session.form;
        drawn.prompts = session.prompts;
        if (!texts->empty()) { drawn.prompts.texts = std::move(*texts); }
    }
    const bool has_turns = options.turns > 0 && session.trace.empty();
    Conversations conversations;
    const std::vector<LoadRequest> requests =
        make_requests(session.lengths.empty() ? session : drawn, plan, has_turns ? &conversations : nullptr);
    PromptMaker later(session.prompts);
    LoadOptions load = load_options(options, session);
    if (has_turns) {
        load.follow = [&](std::size_t index, const std::string& answer_before) {
            std::vector<Message>& messages = conversations.messages[requests[index].plan.session];
            messages.push_back({"assistant", answer_before});
            messages.push_back({"user", conversations.texts[index]});
            return request_body(session.form, messages, requests[index].plan.output_tokens);
        };
    } else {
        // A trace of conversations would take gigabytes if all its prompts were made before.
        load.follow = [&](std::size_t index, const std::string&) {
            const PlannedRequest& turn = requests[index].plan;
            return request_body(session.form, later.make(turn.prompt_tokens, turn.blocks, turn.block_tokens),
                                turn.output_tokens);
        };
    }
    if (!options.quiet) {
        load.progress = show_progress;
        load.progress_interval = isatty(STDERR_FILENO) != 0 ? Seconds(0.2) : Seconds(10);
    }
    const double cpu_before = cpu_seconds();
    const auto begin = std::chrono::steady_clock::now();
    auto records = run_load(session.target, requests, load);
    if (!records) { return base::pass_on(records); }
    const double cpu = cpu_seconds() - cpu_before;
    const Seconds took = std::chrono::steady_clock::now() - begin;
    RunResult result{.rate = rate, .records = std::move(*records), .report = {}, .steady = std::nullopt};
    result.report = make_report(result.records, session.targets);
    result.report.generator_cpu_s = cpu;
    result.report.generator_cpu_share = took.count() > 0 ? cpu / took.count() : 0;
    const auto window = steady_window(result.records);
    if (options.steady_state && window) {
        result.steady = make_steady_report(result.records, session.targets, *window);
    }
    return result;
}

bool was_interrupted(const ServeBenchOptions& options, const Session& session, const RunResult& run) {
    return run.records.size() < (session.trace.empty() ? options.requests : session.trace.size()) ||
           run.report.errors.contains("interrupted");
}

VllmRun vllm_run(const ServeBenchOptions& options, const Session& session, const RunResult& run) {
    VllmRun of{.model = session.form.model, .request_rate = {}, .concurrency_max = {}, .targets = session.targets};
    if (run.rate > 0) { of.request_rate = run.rate; }
    if (options.in_flight_max > 0) { of.concurrency_max = options.in_flight_max; }
    return of;
}

void print_run(const ServeBenchOptions& options, const Session& session, const RunResult& run) {
    std::printf("%s", report_text(run.report, session.targets).c_str());
    if (options.steady_state && run.steady) {
        std::printf("\nsteady state, from the first answer's end until the last request was due:\n%s",
                    report_text(*run.steady, session.targets).c_str());
    } else if (options.steady_state) {
        std::printf("\nno steady state: the last request was due before the first answer had ended\n");
    }
    if (options.result_block) { std::printf("\n%s", vllm_text(run.report, vllm_run(options, session, run)).c_str()); }
}

/// A run at each rate that was asked for, and a table of them.
base::Result<std::vector<RunResult>> run_sweep(const ServeBenchOptions& options, const Session& session) {
    std::vector<RunResult> runs;
    for (const double rate : options.sweep_rates) {
        auto run = run_at(options, session, rate);
        if (!run) { return base::pass_on(run); }
        std::printf("rate %g/s:\n", rate);
        print_run(options, session, *run);
        std::printf("\n");
        std::fflush(stdout);
        runs.push_back(std::move(*run));
        if (was_interrupted(options, session, runs.back())) { break; }
    }
    std::printf("%10s %10s %10s %8s %10s %10s %10s %10s %10s\n", "rate/s", "answered/s", "goodput/s", "in SLO",
                "TTFT p50", "TTFT p99", "TPOT p50", "TPOT p99", "failed");
    for (const RunResult& run : runs) {
        const Report& report = run.report;
        std::printf("%10g %10.2f %10.2f %7.1f%% %10.2f %10.2f %10.2f %10.2f %10zu\n", run.rate, report.completed_per_s,
                    report.goodput_per_s, report.attainment * 100, report.ttft_ms.p50, report.ttft_ms.p99,
                    report.tpot_ms.p50, report.tpot_ms.p99, report.requests - report.requests_ok);
    }
    return runs;
}

/// All runs; one without --find-goodput and --sweep-request-rate.
base::Result<std::vector<RunResult>> run_all(const ServeBenchOptions& options, const Session& session) {
    if (!options.sweep_rates.empty()) { return run_sweep(options, session); }
    std::vector<RunResult> runs;
    if (!options.find_goodput) {
        auto run = run_at(options, session, session.trace.empty() ? options.rate : 0);
        if (!run) { return base::pass_on(run); }
        print_run(options, session, *run);
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
    const auto tell = [&](const char* name, const std::optional<Seconds>& target) {
        if (target) { result[name] = target->count() * 1e3; }
    };
    tell("slo_ttft_ms", session.targets.ttft);
    tell("slo_tpot_ms", session.targets.tpot);
    tell("slo_e2el_ms", session.targets.end_to_end);
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
        const auto figures = [&](const Report& report) {
            json::object all = report_json(report);
            for (const json::key_value_pair& field : vllm_json(report, vllm_run(options, session, run))) {
                all[field.key()] = field.value();
            }
            return all;
        };
        json::object row{{"rate", run.rate}, {"report", figures(run.report)}, {"requests", records_json(run.records)}};
        if (run.steady) { row["steady_state"] = figures(*run.steady); }
        rows.push_back(std::move(row));
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
        const auto written = base::write_whole_file(options.out_path, result_json(options, *session, *runs));
        if (!written) { return complain(written.error()); }
    }
    for (const RunResult& run : *runs) {
        if (run.report.requests_ok > 0) { return 0; }
    }
    return 1;
}

}  // namespace bench
