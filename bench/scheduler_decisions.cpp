#include "bench/scheduler_decisions.h"

#include <time.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/json.hpp>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <numeric>

#include "base/log.h"
#include "bench/played_cluster.h"
#include "bench/scheduler_prompts.h"
#include "scheduler/decide.h"
#include "scheduler/lineup.h"

namespace bench {
namespace {

using base::ErrorCode;
using Clock = std::chrono::steady_clock;

/// Conversations and shared blocks stay within what a scheduler remembers by default.
constexpr std::size_t kBlocksRemembered = 1 << 20;
/// Workers that hold a conversation.
constexpr std::uint32_t kHolders = 2;
/// One prompt in so many is new to all.
constexpr std::uint32_t kUnseenEvery = 50;
constexpr std::uint32_t kAnswerTokens = 200;

/// Of this thread: what others do on the machine does not count.
double cpu_microseconds() {
    timespec now{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) * 1e-3;
}

/// What the clocks take that are read within a measured placement: the median of many that do nothing.
double clocks_microseconds() {
    constexpr int kTimes = 1'001;
    std::vector<double> empty;
    for (int i = 0; i < kTimes; ++i) {
        const double begin = cpu_microseconds();
        static_cast<void>(Clock::now());
        static_cast<void>(Clock::now());
        empty.push_back(cpu_microseconds() - begin);
    }
    return summarize(std::move(empty)).p50;
}

double microseconds(Clock::duration duration) {
    return std::chrono::duration<double, std::micro>(duration).count();
}

scheduler::Registry::Options registry_options(std::uint32_t workers) {
    return {.workers_max = workers,
            .prefix_blocks_max = kBlocksRemembered,
            .in_flight = {.placements_max = 10'000'000, .gateway_lease = std::chrono::hours(1)},
            .rules = {},
            .scan_workers_max = scheduler::Registry::Options{}.scan_workers_max};
}

bool is_same(const scheduler::PlaceOutcome& left, const scheduler::PlaceOutcome& right) {
    const auto* one = std::get_if<scheduler::Placement>(&left);
    const auto* other = std::get_if<scheduler::Placement>(&right);
    if (one == nullptr || other == nullptr) { return one == other; }
    return one->prefill == other->prefill && one->decode == other->decode;
}

bool is_as_good(const scheduler::PlaceOutcome& outcome, const scheduler::PlaceOutcome& best) {
    const auto* one = std::get_if<scheduler::Placement>(&outcome);
    const auto* other = std::get_if<scheduler::Placement>(&best);
    if (one == nullptr || other == nullptr) { return one == other; }
    const double alike = std::min(other->cost_seconds * scheduler::kAlikeShare, scheduler::kAlikeSecondsMax);
    return one->cost_seconds <= other->cost_seconds + alike;
}

base::Result<SchedulerFigure> measure(const SchedulerBenchOptions& options, std::uint32_t workers) {
    scheduler::Registry registry(registry_options(workers));
    PlayedCluster cluster({.workers = workers,
                           .prefill_share = options.prefill_share,
                           .block_tokens = PromptChains::kBlockTokens,
                           .blocks_total = 1 << 20,
                           .reports_prefixes = false,
                           .seed = options.seed},
                          registry);
    PromptChains prompts(options.prompt_tokens / PromptChains::kBlockTokens, options.seed);
    const std::span<const base::BlockHash> shared(prompts.of(0).data(), PromptChains::kSharedBlocks);
    for (std::uint32_t slot = 0; slot < workers; ++slot) {
        cluster.give_prefix(slot, shared);
    }
    for (std::size_t i = 0; i < prompts.conversations(); ++i) {
        for (std::uint32_t holder = 0; holder < kHolders; ++holder) {
            cluster.give_prefix(static_cast<std::uint32_t>(prompts.random() % workers),
                                std::span(prompts.of(i)).first(prompts.held_blocks()));
        }
    }
    double at = 1;
    cluster.advance(at);  // all have reported

    // About a tenth of a prompt that somebody holds is left to compute.
    PlayedRequest whole{.prompt_tokens = options.prompt_tokens};
    PlayedRequest tenth{.prompt_tokens = options.prompt_tokens / 10};
    const double busy = cluster.busy_seconds(whole) / kUnseenEvery + cluster.busy_seconds(tenth);
    const double prefill_workers = workers * (options.prefill_share > 0 ? options.prefill_share : 1);
    std::exponential_distribution<double> gap(options.load * prefill_workers / busy);
    std::mt19937_64 random(options.seed);

    SchedulerFigure figure{.workers = workers, .placements = options.placements, .clocks_us = clocks_microseconds()};
    std::vector<double> decide_us;
    std::vector<double> scan_us;
    double total_us = 0;
    double events_us = 0;
    std::uint32_t same = 0;
    std::uint32_t as_good = 0;
    const std::uint32_t scan_every = options.scans == 0 ? 0 : std::max(1u, options.placements / options.scans);
    for (std::uint32_t i = 0; i < options.placements; ++i) {
        PlayedRequest request{
            .at = at += gap(random),
            .prompt_tokens = options.prompt_tokens,
            .answer_tokens = kAnswerTokens,
            .chain = i % kUnseenEvery == 0 ? prompts.unseen() : prompts.of(prompts.random() % prompts.conversations())};
        const Clock::time_point before = Clock::now();
        cluster.advance(request.at);
        const scheduler::PlaceQuery query = cluster.query_of(request);
        const bool is_scanned = scan_every > 0 && i % scan_every == scan_every / 2 + 1;
        double cpu_begin = cpu_microseconds();
        const Clock::time_point begin = Clock::now();
        const scheduler::PlaceOutcome outcome = scheduler::decide(registry, {}, query, request.chain, cluster.now());
        const Clock::time_point decided = Clock::now();
        events_us += microseconds(begin - before);
        decide_us.push_back(microseconds(decided - begin));
        if (is_scanned) {
            total_us += cpu_microseconds() - cpu_begin;
            const Clock::time_point scan = Clock::now();
            const auto again = scheduler::decide_by_scan(registry, {}, query, request.chain, cluster.now());
            scan_us.push_back(microseconds(Clock::now() - scan));
            same += is_same(outcome, again);
            as_good += is_same(outcome, again) || is_as_good(outcome, again);
            cpu_begin = cpu_microseconds();
        }
        const auto* placement = std::get_if<scheduler::Placement>(&outcome);
        const base::RequestId id = placement == nullptr ? base::RequestId{0} : cluster.remember(request, *placement);
        total_us += cpu_microseconds() - cpu_begin;
        if (placement == nullptr) {
            figure.refused_share += 1.0 / options.placements;
            continue;
        }
        cluster.run(request, *placement, id);
    }
    figure.decide_us = summarize(std::move(decide_us));
    figure.placements_per_s =
        options.placements / std::max(1e-3, total_us - options.placements * figure.clocks_us) * 1e6;
    figure.events_us = events_us / options.placements;
    const double scanned = std::max(1.0, static_cast<double>(scan_us.size()));
    figure.same_as_scan_share = same / scanned;
    figure.as_good_share = as_good / scanned;
    figure.scan_us = summarize(std::move(scan_us));
    return figure;
}

boost::json::object json_of(const Summary& summary) {
    return {{"count", summary.count}, {"mean", summary.mean}, {"p50", summary.p50},
            {"p90", summary.p90},     {"p99", summary.p99},   {"max", summary.maximum}};
}

boost::json::object json_of(const SchedulerBenchOptions& options, const std::vector<SchedulerFigure>& figures) {
    boost::json::array rows;
    for (const SchedulerFigure& figure : figures) {
        boost::json::object row{{"workers", figure.workers},
                                {"placements", figure.placements},
                                {"placements_per_s", figure.placements_per_s},
                                {"clocks_us_per_placement", figure.clocks_us},
                                {"decide_us", json_of(figure.decide_us)},
                                {"events_us_per_placement", figure.events_us},
                                {"refused_share", figure.refused_share},
                                {"scan_us", json_of(figure.scan_us)},
                                {"same_as_scan_share", figure.same_as_scan_share},
                                {"as_good_share", figure.as_good_share}};
        if (figure.service_us.count > 0) {
            row["service_us"] = json_of(figure.service_us);
            row["service_placements_per_s"] = figure.service_per_s;
        }
        rows.push_back(std::move(row));
    }
    return {{"prompt_tokens", options.prompt_tokens},
            {"prefill_share", options.prefill_share},
            {"load", options.load},
            {"seed", options.seed},
            {"figures", std::move(rows)}};
}

void print(const std::vector<SchedulerFigure>& figures) {
    std::printf(
        "workers placements/s   decide us: p50     p99   scan us: p50     same  as good   service/s   service us: "
        "p50\n");
    for (const SchedulerFigure& figure : figures) {
        std::printf("%7u %12.0f %16.1f %7.1f %14.1f %7.1f%% %7.1f%%", figure.workers, figure.placements_per_s,
                    figure.decide_us.p50, figure.decide_us.p99, figure.scan_us.p50, 100 * figure.same_as_scan_share,
                    100 * figure.as_good_share);
        if (figure.service_us.count > 0) {
            std::printf(" %11.0f %17.0f\n", figure.service_per_s, figure.service_us.p50);
        } else {
            std::printf("           -                 -\n");
        }
    }
}

}  // namespace

PromptChains::PromptChains(std::uint32_t blocks, std::uint32_t seed) : random_(seed) {
    std::vector<base::BlockHash> shared;
    for (std::uint32_t i = 0; i < kSharedBlocks; ++i) {
        shared.push_back(draw());
    }
    const std::size_t conversations = std::clamp<std::size_t>(kBlocksRemembered * 3 / 4 / blocks, 1, 10'000);
    for (std::size_t i = 0; i < conversations; ++i) {
        std::vector<base::BlockHash> chain = shared;
        while (chain.size() < blocks) {
            chain.push_back(draw());
        }
        chains_.push_back(std::move(chain));
    }
}

std::vector<base::BlockHash> PromptChains::unseen() {
    std::vector<base::BlockHash> chain = chains_.front();
    std::for_each(chain.begin() + kSharedBlocks, chain.end(), [this](base::BlockHash& hash) { hash = draw(); });
    return chain;
}

std::uint32_t PromptChains::held_blocks() {
    const auto blocks = static_cast<std::uint32_t>(chains_.front().size());
    return blocks - static_cast<std::uint32_t>(random_() % (blocks / 5 + 1));
}

base::Result<std::vector<SchedulerFigure>> measure_scheduler(const SchedulerBenchOptions& options) {
    const std::uint32_t least = 2 * PromptChains::kSharedBlocks * PromptChains::kBlockTokens;
    if (options.prompt_tokens < least || options.prompt_tokens > 1'000'000) {
        return base::fail(ErrorCode::invalid_argument,
                          "--prompt-tokens must be from " + std::to_string(least) + " to 1000000");
    }
    std::vector<SchedulerFigure> figures;
    for (const std::uint32_t workers : options.workers) {
        if (workers < 2 || workers > 65'536) {
            return base::fail(ErrorCode::invalid_argument, "--workers must be from 2 to 65536 each");
        }
        auto figure = measure(options, workers);
        if (!figure) { return base::pass_on(figure); }
        if (workers <= options.service_workers_max) {
            if (auto done = measure_service(options, *figure); !done) { return base::pass_on(done, "service"); }
        }
        figures.push_back(*figure);
    }
    return figures;
}

int bench_scheduler_main(const SchedulerBenchOptions& options) {
    spdlog::set_level(spdlog::level::warn);  // not a line for each worker
    const auto figures = measure_scheduler(options);
    if (!figures) {
        std::fprintf(stderr, "bench scheduler: %s\n", figures.error().message.c_str());
        return 1;
    }
    const std::string json = boost::json::serialize(json_of(options, *figures));
    if (options.out_path == "-") {
        std::printf("%s\n", json.c_str());
        return 0;
    }
    print(*figures);
    if (options.out_path.empty()) { return 0; }
    std::ofstream file{options.out_path};
    file << json << '\n';
    file.close();
    if (!file) {
        std::fprintf(stderr, "bench scheduler: cannot write %s\n", options.out_path.c_str());
        return 1;
    }
    return 0;
}

void add_bench_scheduler(CLI::App& app, SchedulerBenchOptions& options) {
    app.add_option("--workers", options.workers, "numbers of workers, separated by commas")->delimiter(',');
    app.add_option("--placements", options.placements, "for each of them")->check(CLI::Range(1, 10'000'000));
    app.add_option("--prompt-tokens", options.prompt_tokens, "of every request");
    app.add_option("--prefill-share", options.prefill_share, "of the workers, the rest for decode; 0: all are mixed")
        ->check(CLI::Range(0.0, 0.9));
    app.add_option("--load", options.load, "of the workers that prefill")->check(CLI::Range(0.01, 0.95));
    app.add_option("--scans", options.scans, "placements that are also decided by a look at all workers");
    app.add_option("--service-workers-max", options.service_workers_max,
                   "measure the service, too, with up to so many workers; 0: not at all");
    app.add_option("--service-placements", options.service_placements, "over gRPC, for each number of workers")
        ->check(CLI::Range(1, 10'000'000));
    app.add_option("--seed", options.seed, "of workers and requests; the same gives the same");
    app.add_option("--out", options.out_path, "JSON file; -: standard output instead of the table");
}

}  // namespace bench
