#include "cli/autopilot.h"

#include <fmt/format.h>

#include <chrono>
#include <cstdio>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "cli/admin_server.h"
#include "cli/autopilot_rules.h"
#include "cli/live_trial.h"
#include "cli/plan_inputs.h"
#include "cli/plan_live.h"
#include "cli/process.h"
#include "cli/top_look.h"
#include "cli/top_view.h"
#include "cli/turn.h"

namespace cli {
namespace {

using base::ErrorCode;
using base::fail;
using base::pass_on;
using base::Result;

constexpr std::chrono::seconds kCallTimeout{10};
constexpr std::chrono::milliseconds kTurnLook{200};  // at a worker that turns

void pause(std::chrono::duration<double> seconds) {
    const Event never;
    static_cast<void>(never.wait(std::chrono::duration_cast<base::Duration>(seconds)));
}

/// What an autoscaler and a person read.
class Instruments {
public:
    explicit Instruments(base::Metrics& metrics) : series_(metrics) {}

    void wants(const std::string& model, const LiveLayout& layout) {
        is_of(model);
        for (const auto& [role, count] : {std::pair("prefill", layout.prefill), std::pair("decode", layout.decode),
                                          std::pair("mixed", layout.mixed)}) {
            series_
                .gauge(
                    "sluice_autopilot_workers_wanted",
                    "Workers that the rate asks for, those for prefill by the TTFT alone, those for decode by the TPOT",
                    {{"model", model}, {"role", role}})
                .Set(count);
        }
    }
    void planned(const std::string& model) {
        is_of(model);
        series_
            .counter("sluice_autopilot_plans_total", "Times that what came had changed and roles were planned anew",
                     {{"model", model}})
            .Increment();
    }
    void turned(const std::string& model, proto::Role to, bool is_done) {
        is_of(model);
        series_
            .counter("sluice_autopilot_turns_total", "Workers that were asked to turn to another role",
                     {{"model", model},
                      {"role", std::string(proto::role_name(to))},
                      {"outcome", is_done ? "done" : "failed"}})
            .Increment();
    }

private:
    /// The cluster's only model may be another one than before: nobody is to scale by what the former wanted.
    void is_of(const std::string& model) {
        if (std::exchange(model_, model) != model) { series_.end(); }
    }

    base::SeriesLease series_;
    std::string model_;
};

class Pilot {
public:
    Pilot(const AutopilotCommand& command, PlanInputs inputs, ClusterSettings cluster, std::vector<std::string> urls,
          base::Metrics& metrics)
        : command_(command),
          inputs_(std::move(inputs)),
          has_lengths_(!command.plan.workload.empty()),
          cluster_(std::move(cluster)),
          urls_(std::move(urls)),
          instruments_(metrics),
          schedulers_(command.access.schedulers, cluster_.control()),
          rules_({.hold_s = command.hold_s,
                  .confirmations = command.confirmations,
                  .attainment = inputs_.targets.attainment}),
          began_(clock_.now()) {}

    void fly() {
        std::optional<TopMoment> before;
        for (std::uint32_t looks = 0; !end_asked() && (command_.looks == 0 || looks <= command_.looks);) {
            TopMoment now = look_at(urls_, command_.plan.api_key, clock_);
            if (const auto problem = problem_of(now)) {
                tell("cannot see the cluster, roles stay: " + *problem);
                before.reset();
            } else {
                if (before) { look(now, *before); }
                before = std::move(now);
            }
            if (++looks > command_.looks && command_.looks > 0) { return; }
            pause(std::chrono::duration<double>(command_.plan.live_window_s));
        }
    }

private:
    double seconds() const { return std::chrono::duration<double>(clock_.now() - began_).count(); }

    void tell(const std::string& what) const {
        std::printf("%8.1f s  %s\n", seconds(), what.c_str());
        std::fflush(stdout);
    }

    static std::optional<std::string> problem_of(const TopMoment& moment) {
        for (const TopSource& source : moment.sources) {
            if (!source.problem.empty()) { return source.url + ": " + source.problem; }
        }
        return std::nullopt;
    }

    void look(const TopMoment& now, const TopMoment& before) {
        const auto live = live_cluster(top_view(now, &before), command_.plan.live_model);
        if (!live) { return tell("roles stay: " + live.error().message); }
        if (rules_.wanted()) { return go_on(live->model); }
        if (!(live->answered_per_s > 0)) { return tell("nothing was answered, roles stay: " + live->layout.text()); }
        const std::string why = rules_.wants_plan(*live);
        if (why.empty()) { return; }
        if (const auto done = plan(*live, why); !done) { tell("roles stay: " + done.error().message); }
    }

    Result<void> plan(const LiveCluster& live, const std::string& why) {
        if (!has_lengths_) {
            auto workload = live_workload(live);
            if (!workload) { return pass_on(workload); }
            inputs_.workload = std::move(*workload);
        }
        PlanEvaluator evaluator(inputs_, {.link_bytes_per_second = command_.plan.link_gbits * 1e9 / 8,
                                          .kv_ratio = command_.plan.kv_ratio,
                                          .targets = inputs_.targets});
        const double needed = sim::size_of(inputs_.workload).tokens_max;
        if (evaluator.kv_tokens(0, {}) < needed) {
            return fail(ErrorCode::invalid_argument,
                        fmt::format("a sequence of {:.0f} tokens does not fit into one worker's KV memory", needed));
        }
        const std::vector<LiveOption> options = try_layouts(evaluator, command_.plan, live.layout);
        const LiveAdvice advice = advise(live, options);
        const auto better = advice.flips.empty() ? std::nullopt : std::optional(options.front().layout);
        instruments_.planned(live.model);
        const LiveLayout wanted = workers_wanted(evaluator, command_.plan, options.front().layout, live.requests_per_s);
        instruments_.wants(live.model, wanted);
        tell(fmt::format(
            "{:.3g} requests a second, prompts of {:.0f} tokens, answers of {:.0f}, {:.0f} % found{}; {} "
            "({})",
            live.requests_per_s, live.prompt_tokens, live.output_tokens, live.cached_share * 100,
            live.attainment ? fmt::format(", {:.1f} % in time", *live.attainment * 100) : "", live.layout.text(), why));
        tell("  " + advice.why + "; the rate asks for " + wanted.text());
        const bool is_sure = rules_.planned(live, better, seconds());
        if (!better) { return {}; }
        if (!is_sure) {
            tell("  turns workers to " + better->text() + " if the next look says so, too");
            return {};
        }
        if (!command_.acts) {
            tell("  would turn workers to " + better->text() + " now; nothing is done without --act");
            rules_.arrived(seconds());
            return {};
        }
        go_on(live.model);
        return {};
    }

    /// The next steps to the wanted layout, one worker after the other.
    void go_on(const std::string& model) {
        while (rules_.wanted() && !end_asked()) {
            const auto endpoints = workers_of(model);
            if (!endpoints) { return tell("cannot ask the scheduler, turning waits: " + endpoints.error().message); }
            const std::vector<LiveWorker>& workers = endpoints->workers;
            if (layout_of(workers) == *rules_.wanted()) {
                tell("  all workers have their roles: " + rules_.wanted()->text());
                return rules_.arrived(seconds());
            }
            const auto next = next_turn(workers, *rules_.wanted());
            if (const auto* why = std::get_if<std::string>(&next)) {
                tell("  stops on the way to " + rules_.wanted()->text() + ": " + *why);
                return rules_.arrived(seconds());
            }
            const NextTurn& step = std::get<NextTurn>(next);
            if (!turn(model, endpoints->endpoints[step.worker], workers[step.worker], step.to)) {
                return rules_.arrived(seconds());
            }
        }
    }

    struct Workers {
        std::vector<LiveWorker> workers;
        std::vector<proto::WorkerEndpoint> endpoints;
    };
    Result<Workers> workers_of(const std::string& model) {
        const auto described = schedulers_.describe(kCallTimeout);
        if (!described) { return pass_on(described); }
        Workers all;
        for (const proto::ModelState& state : described->models()) {
            if (state.model() != model && described->models_size() > 1) { continue; }
            for (const proto::WorkerState& one : state.workers()) {
                const auto role = proto::role_of(one.role());
                if (!role || *role == proto::Role::encode) { continue; }
                all.workers.push_back({.id = one.endpoint().worker_id(),
                                       .incarnation = one.endpoint().incarnation(),
                                       .role = *role,
                                       .is_ready = one.state() == "ready",
                                       .requests = one.load().requests_running() + one.load().requests_waiting()});
                all.endpoints.push_back(one.endpoint());
            }
        }
        return all;
    }

    /// Whether it is of that role in the end, and the scheduler knows.
    bool turn(const std::string& model, const proto::WorkerEndpoint& endpoint, const LiveWorker& worker,
              proto::Role to) {
        tell(fmt::format("  worker {:016x} turns from {} to {}", worker.id, proto::role_name(worker.role),
                         proto::role_name(to)));
        const double give_up = seconds() + command_.turn_patience_s;
        std::string problem = "it has not turned";
        while (!end_asked() && seconds() < give_up) {
            const auto state = turn_worker(endpoint, to, cluster_.control(), kCallTimeout);
            if (!state) {
                problem = state.error().message;
                break;
            }
            if (!state->is_turning && is_known_as(model, worker, to)) {
                instruments_.turned(model, to, true);
                return true;
            }
            pause(kTurnLook);
        }
        instruments_.turned(model, to, false);
        tell(fmt::format("  worker {:016x} stays {}: {}", worker.id, proto::role_name(worker.role), problem));
        return false;
    }

    bool is_known_as(const std::string& model, const LiveWorker& worker, proto::Role role) {
        const auto all = workers_of(model);
        if (!all) { return false; }
        for (const LiveWorker& one : all->workers) {
            if (one.id == worker.id && one.incarnation == worker.incarnation) {
                return one.role == role && one.is_ready;
            }
        }
        return false;
    }

    const AutopilotCommand& command_;
    PlanInputs inputs_;
    const bool has_lengths_;
    const ClusterSettings cluster_;
    const std::vector<std::string> urls_;
    const base::SystemClock clock_;
    Instruments instruments_;
    SchedulerAccess schedulers_;
    Autopilot rules_;
    const base::TimePoint began_;
};

Result<void> run(const AutopilotCommand& command) {
    auto inputs = read_plan_inputs(command.plan);
    if (!inputs) { return pass_on(inputs); }
    auto urls = expand_urls(command.plan.live);
    if (!urls) { return pass_on(urls, "--live"); }
    auto cluster = operator_cluster(command.access);
    if (!cluster) { return pass_on(cluster); }
    const base::SystemClock clock;
    base::Metrics metrics;
    tell_version(metrics);
    std::unique_ptr<AdminServer> admin;
    if (command.admin_port >= 0) {
        auto started = AdminServer::start("127.0.0.1", static_cast<std::uint16_t>(command.admin_port), false, clock,
                                          metrics, [] { return gateway::ReadyParts(); });
        if (!started) { return pass_on(started); }
        admin = std::move(*started);
        std::fprintf(stderr, "  admin at http://127.0.0.1:%u/metrics\n", unsigned{admin->port()});
    }
    Pilot(command, std::move(*inputs), std::move(*cluster), std::move(*urls), metrics).fly();
    return {};
}

}  // namespace

void add_autopilot(CLI::App& app, AutopilotCommand& command) {
    PlanCommand& plan = command.plan;
    plan.live_window_s = 10;
    app.add_option("--live", plan.live,
                   "addresses of the cluster's processes: gateway, the scheduler's --admin-port, workers' for what of "
                   "prompts they find (as `sluice top --url`)")
        ->required()
        ->delimiter(',')
        ->allow_extra_args(false);
    app.add_option("--live-model", plan.live_model, "of several models there, by the gateway's name");
    app.add_option("--live-window", plan.live_window_s, "seconds between two looks")
        ->capture_default_str()
        ->check(CLI::Range(0.1, 86'400.0));
    app.add_option("--model", plan.model, "the model's config.json, or a folder with one")->required();
    app.add_option("--gpu", plan.gpus, "what the workers run on, as `sluice plan --gpu`; one")->required();
    app.add_option("--profiles", plan.profiles, "as `sluice plan --profiles`");
    app.add_option("--engine-times", plan.engine_times, "for --gpu this: the file of `sluice bench engine --out`");
    app.add_option("--this-cores", plan.this_cores,
                   "for --gpu this: cores of the machine that all workers share; 0: each has its own; default: what "
                   "--engine-times says")
        ->check(CLI::Range(0, 4096));
    app.add_option("--this-kv-tokens", plan.this_kv_tokens, "for --gpu this: tokens of KV that a worker has room for")
        ->capture_default_str()
        ->check(CLI::Range(1.0, 1e12));
    app.add_option("--workload", plan.workload, "lengths of a trace or a fit, in place of those that metrics tell");
    app.add_option("--slo", plan.slo, "targets, as `sluice plan --slo`")->capture_default_str();
    app.add_option("--seeds", plan.seeds, "runs for each layout that is looked at with care")
        ->capture_default_str()
        ->check(CLI::Range(1, 100));
    app.add_option("--api-key", plan.api_key, "of scope admin, where the gateway has keys; default: SLUICE_API_KEY")
        ->envname("SLUICE_API_KEY");
    app.add_flag("--act", command.acts, "turns workers (worker.may_turn); without it only tells what it would do");
    app.add_option("--hold", command.hold_s, "seconds from one change of roles to the next")
        ->capture_default_str()
        ->check(CLI::Range(0.0, 86'400.0));
    app.add_option("--confirmations", command.confirmations, "looks in a row that have to say the same")
        ->capture_default_str()
        ->check(CLI::Range(1, 100));
    app.add_option("--turn-patience", command.turn_patience_s, "seconds that a worker's turn may take")
        ->capture_default_str()
        ->check(CLI::Range(0.1, 86'400.0));
    app.add_option("--looks", command.looks, "ends after so many; 0: when it is asked to")->capture_default_str();
    app.add_option("--admin-port", command.admin_port,
                   "serve /metrics here, on loopback, for an autoscaler; 0: any free port");
    add_operator_flags(app, command.access);
}

int autopilot_main(const AutopilotCommand& command) {
    if (command.plan.gpus.size() != 1) {
        return report({ErrorCode::invalid_argument, "autopilot needs one --gpu: what the workers run on"});
    }
    const auto done = run(command);
    return done ? 0 : report(done.error());
}

}  // namespace cli
