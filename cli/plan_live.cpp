#include "cli/plan_live.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>

#include "base/clock.h"
#include "cli/ask_gateway.h"
#include "cli/live_trial.h"
#include "cli/plan_inputs.h"
#include "cli/planning_files.h"
#include "cli/process.h"
#include "cli/top_look.h"
#include "cli/top_view.h"

namespace cli {
namespace {

namespace json = boost::json;
using base::ErrorCode;
using base::fail;
using base::pass_on;
using base::Result;
using scheduler::planner::Candidate;
using scheduler::planner::Evaluation;

/// With more workers divisions are this many, spread evenly.
constexpr std::uint32_t kDivisionsMax = 16;
/// Points of a distribution that is drawn from.
constexpr int kQuantiles = 65;

const json::array* rows_of(const json::object& view, std::string_view name) {
    const json::value* rows = view.if_contains(name);
    return rows != nullptr && rows->is_array() ? &rows->get_array() : nullptr;
}

/// Calls `visit` for the rows of a list that are of this model.
template <class Visit>
void for_each_of(const json::object& view, std::string_view list, std::string_view model, Visit visit) {
    const json::array* rows = rows_of(view, list);
    if (rows == nullptr) { return; }
    for (const json::value& row : *rows) {
        if (row.is_object() && text_of(row.get_object(), "model") == model) { visit(row.get_object()); }
    }
}

/// Of an exponential distribution with this mean, the last hundredth of it cut off and the rest stretched to the mean.
std::vector<double> exponential_quantiles(double mean) {
    std::vector<double> quantiles;
    double sum = 0;
    for (int i = 0; i < kQuantiles; ++i) {
        const double share = 0.99 * i / (kQuantiles - 1);
        quantiles.push_back(-std::log1p(-share));
        if (i > 0) { sum += (quantiles[quantiles.size() - 2] + quantiles.back()) / 2; }
    }
    const double drawn = sum / (kQuantiles - 1);
    for (double& one : quantiles) {
        one = std::max(1.0, one * mean / drawn);
    }
    return quantiles;
}

/// The same distribution around this mean.
std::vector<double> stretched(std::vector<double> quantiles, double mean) {
    double sum = 0;
    for (std::size_t i = 1; i < quantiles.size(); ++i) {
        sum += (quantiles[i - 1] + quantiles[i]) / 2;
    }
    const double has = sum / static_cast<double>(quantiles.size() - 1);
    for (double& one : quantiles) {
        one = std::max(1.0, one * mean / std::max(has, 1e-9));
    }
    return quantiles;
}

std::vector<double> numbers_of(const json::object& row, std::string_view key) {
    std::vector<double> numbers;
    if (const json::array* list = rows_of(row, key)) {
        for (const json::value& one : *list) {
            numbers.push_back(one.is_number() ? one.to_number<double>() : 0);
        }
    }
    return numbers.size() < 2 ? std::vector<double>{} : numbers;
}

std::string counted(std::uint32_t count, std::string_view role) {
    return std::to_string(count) + " " + std::string(role);
}

std::string live_text(const PlanCommand& command, const LiveCluster& live, const sim::Workload& workload,
                      const std::vector<LiveOption>& options, const LiveAdvice& advice) {
    std::string text = fmt::format(
        "{} over {:.1f} s\n  {:.3g} requests a second came, {:.3g} were answered: prompts of "
        "{:.0f} tokens, answers of {:.0f} on average{}\n  {}\n  lengths: {}\n\n",
        live.model, live.seconds, live.requests_per_s, live.answered_per_s, live.prompt_tokens, live.output_tokens,
        live.attainment ? fmt::format("; {:.1f} % met all their targets", *live.attainment * 100) : std::string(),
        live.layout.text(), workload.name);
    text += fmt::format("{:<28}{:>14}  {}\n", "layout", "requests/s", "what binds");
    for (const LiveOption& option : options) {
        const Evaluation& evaluation = option.evaluation;
        text += fmt::format("{:<28}{:>14}  {}\n", option.layout.text() + (option.layout == live.layout ? " (now)" : ""),
                            fmt::format("{:.3g} ({:.3g}-{:.3g})", evaluation.goodput, evaluation.low, evaluation.high),
                            evaluation.binds);
    }
    text += "\nwould do: ";
    std::vector<std::string> acts;
    for (const LiveAdvice::Flip& flip : advice.flips) {
        acts.push_back(fmt::format(
            "turn {} {} into {}, one after the other", flip.count,
            flip.count == 1 ? std::string(flip.from) + " worker" : std::string(flip.from) + " workers", flip.to));
    }
    if (advice.workers_more > 0) {
        acts.push_back(
            fmt::format("start {} more {}", advice.workers_more, advice.workers_more == 1 ? "worker" : "workers"));
    }
    for (std::size_t i = 0; i < acts.size(); ++i) {
        text += (i > 0 ? "; then " : "") + acts[i];
    }
    if (acts.empty()) { text += "nothing"; }
    text += fmt::format("\nwhy: {}\nnothing was changed at {}\n", advice.why, command.live.front());
    return text;
}

json::object layout_json(const LiveLayout& layout) {
    return {{"prefill", layout.prefill}, {"decode", layout.decode}, {"mixed", layout.mixed}};
}

std::string live_json(const LiveCluster& live, const sim::Workload& workload, const std::vector<LiveOption>& options,
                      const LiveAdvice& advice) {
    json::array rows;
    for (const LiveOption& option : options) {
        rows.push_back(json::object{{"layout", layout_json(option.layout)},
                                    {"goodput_per_s", option.evaluation.goodput},
                                    {"goodput_low_per_s", option.evaluation.low},
                                    {"goodput_high_per_s", option.evaluation.high},
                                    {"binds", option.evaluation.binds},
                                    {"is_present", option.layout == live.layout}});
    }
    json::array flips;
    for (const LiveAdvice::Flip& flip : advice.flips) {
        flips.push_back(json::object{{"from", flip.from}, {"to", flip.to}, {"count", flip.count}});
    }
    const json::object out{{"model", live.model},
                           {"seconds", live.seconds},
                           {"requests_per_s", live.requests_per_s},
                           {"answered_per_s", live.answered_per_s},
                           {"prompt_tokens_mean", live.prompt_tokens},
                           {"output_tokens_mean", live.output_tokens},
                           {"cached_share", live.cached_share},
                           {"attainment", live.attainment ? json::value(*live.attainment) : json::value(nullptr)},
                           {"present", layout_json(live.layout)},
                           {"lengths", workload.name},
                           {"layouts", std::move(rows)},
                           {"flips", std::move(flips)},
                           {"workers_more", advice.workers_more},
                           {"why", advice.why}};
    return json::serialize(out) + "\n";
}

Result<LiveCluster> watch(const PlanCommand& command) {
    const auto urls = expand_urls(command.live);
    if (!urls) { return pass_on(urls, "--live"); }
    const base::SystemClock clock;
    const TopMoment before = look_at(*urls, command.api_key, clock);
    for (const TopSource& source : before.sources) {
        if (!source.problem.empty()) {
            return fail(ErrorCode::unavailable, "--live " + source.url + ": " + source.problem);
        }
    }
    std::fprintf(stderr, "watching for %.0f s\n", command.live_window_s);
    const Event never;
    static_cast<void>(
        never.wait(std::chrono::duration_cast<base::Duration>(std::chrono::duration<double>(command.live_window_s))));
    end_if_asked();
    const TopMoment now = look_at(*urls, command.api_key, clock);
    for (const TopSource& source : now.sources) {
        if (!source.problem.empty()) {
            return fail(ErrorCode::unavailable, "--live " + source.url + ": " + source.problem);
        }
    }
    return live_cluster(top_view(now, &before), command.live_model);
}

Result<void> plan_live(const PlanCommand& command) {
    auto inputs = read_plan_inputs(command);
    if (!inputs) { return pass_on(inputs); }
    const auto live = watch(command);
    if (!live) { return pass_on(live); }
    if (command.workload.empty()) {
        auto workload = live_workload(*live);
        if (!workload) { return pass_on(workload); }
        inputs->workload = std::move(*workload);
    }
    PlanEvaluator evaluator(*inputs, {.link_bytes_per_second = command.link_gbits * 1e9 / 8,
                                      .kv_ratio = command.kv_ratio,
                                      .targets = inputs->targets});
    const double needed = sim::size_of(inputs->workload).tokens_max;
    if (evaluator.kv_tokens(0, {}) < needed) {
        return fail(ErrorCode::invalid_argument,
                    fmt::format("a sequence of {:.0f} tokens does not fit into one worker's KV memory ({:.0f} tokens)",
                                needed, evaluator.kv_tokens(0, {})));
    }
    const std::vector<LiveOption> options = try_layouts(evaluator, command, live->layout);
    const LiveAdvice advice = advise(*live, options);
    std::fputs(live_text(command, *live, inputs->workload, options, advice).c_str(), stdout);
    if (command.json.empty()) { return {}; }
    return write_planning_file(command.json, live_json(*live, inputs->workload, options, advice));
}

}  // namespace

std::string LiveLayout::text() const {
    std::string text;
    for (const auto& [count, role] :
         {std::pair{prefill, "prefill"}, std::pair{decode, "decode"}, std::pair{mixed, "mixed"}}) {
        if (count > 0) { text += (text.empty() ? "" : ", ") + counted(count, role); }
    }
    return text.empty() ? "no worker" : text;
}

Result<LiveCluster> live_cluster(const json::object& view, std::string_view model) {
    std::vector<std::string> names;
    if (const json::array* rows = rows_of(view, "models")) {
        for (const json::value& row : *rows) {
            if (row.is_object()) { names.emplace_back(text_of(row.get_object(), "model")); }
        }
    }
    std::erase(names, "none");  // requests that named no model
    std::string served;
    for (const std::string& name : names) {
        served += (served.empty() ? "" : ", ") + name;
    }
    if (model.empty() && names.size() > 1) {
        return fail(ErrorCode::invalid_argument,
                    "several models are served (" + served + "): say which by --live-model");
    }
    if (names.empty() || (!model.empty() && std::find(names.begin(), names.end(), model) == names.end())) {
        return fail(ErrorCode::not_found,
                    names.empty() ? std::string("no process at --live is a gateway that serves a model")
                                  : "model " + std::string(model) + " is not served there; served are " + served);
    }
    LiveCluster live;
    live.model = model.empty() ? names.front() : std::string(model);
    live.seconds = number_of(view, "interval_s");
    double prompt_tokens = 0;
    double cached_tokens = 0;
    double output_tokens = 0;
    for_each_of(view, "models", live.model, [&](const json::object& row) {
        live.requests_per_s = number_of(row, "requests_per_s");
        live.answered_per_s = number_of(row, "answered_per_s");
        prompt_tokens = number_of(row, "prompt_tokens_per_s");
        cached_tokens = number_of(row, "cached_prompt_tokens_per_s");
        output_tokens = number_of(row, "completion_tokens_per_s");
        live.prompt_quantiles = numbers_of(row, "prompt_tokens_quantiles");
        live.output_quantiles = numbers_of(row, "completion_tokens_quantiles");
    });
    if (live.answered_per_s > 0) {
        live.prompt_tokens = prompt_tokens / live.answered_per_s;
        live.output_tokens = output_tokens / live.answered_per_s;
    }
    if (prompt_tokens > 0) { live.cached_share = std::min(1.0, cached_tokens / prompt_tokens); }
    double met = 0;
    double missed = 0;
    for_each_of(view, "slo", live.model, [&](const json::object& row) {
        if (text_of(row, "slo") != "all" || text_of(row, "window") != "interval") { return; }
        met += number_of(row, "met");
        missed += number_of(row, "missed");
    });
    if (met + missed > 0) { live.attainment = met / (met + missed); }
    for_each_of(view, "pools", live.model, [&](const json::object& row) {
        // Whose report is late is there, too, and who is out of service for a time.
        const auto there =
            static_cast<std::uint32_t>(number_of(row, "ready") + number_of(row, "suspect") + number_of(row, "ejected"));
        const std::string_view role = text_of(row, "role");
        if (role == "prefill") { live.layout.prefill += there; }
        if (role == "decode") { live.layout.decode += there; }
        if (role == "mixed") { live.layout.mixed += there; }
    });
    if (live.layout.workers() == 0) {
        return fail(ErrorCode::unavailable,
                    "no worker of model " + live.model +
                        " is told of there: name the scheduler's --admin-port in --live, too (a `sluice serve` has all "
                        "at one)");
    }
    return live;
}

Result<sim::Workload> live_workload(const LiveCluster& live) {
    if (!(live.answered_per_s > 0) || !(live.output_tokens > 0) || !(live.prompt_tokens > 0)) {
        return fail(ErrorCode::unavailable,
                    fmt::format("nothing was answered within {:.0f} s: watch for longer (--live-window), or give the "
                                "lengths by --workload (a trace of capture.file, or a fit)",
                                live.seconds));
    }
    sim::Workload workload;
    workload.rate = live.requests_per_s;
    const double computed = std::max(1.0, live.prompt_tokens * (1 - live.cached_share));
    if (live.prompt_quantiles.empty() || live.output_quantiles.empty()) {
        workload.name = "exponential around the means (metrics tell no more; --workload: a trace of capture.file)";
        workload.prompt_quantiles = exponential_quantiles(computed);
        workload.output_quantiles = exponential_quantiles(live.output_tokens);
    } else {
        workload.name = "as the gateway's histograms have them, prompts and answers apart (--workload: a trace)";
        workload.prompt_quantiles = stretched(live.prompt_quantiles, computed);
        workload.output_quantiles = stretched(live.output_quantiles, live.output_tokens);
    }
    return workload;
}

std::vector<LiveLayout> live_layouts(std::uint32_t workers) {
    std::vector<LiveLayout> layouts{{.prefill = 0, .decode = 0, .mixed = workers}};
    const std::uint32_t divisions = std::min(workers > 0 ? workers - 1 : 0, kDivisionsMax);
    for (std::uint32_t i = 1; i <= divisions; ++i) {
        const auto prefill = static_cast<std::uint32_t>(std::uint64_t{workers} * i / (divisions + 1));
        layouts.push_back({.prefill = prefill, .decode = workers - prefill, .mixed = 0});
    }
    return layouts;
}

LiveAdvice advise(const LiveCluster& live, const std::vector<LiveOption>& options) {
    LiveAdvice advice;
    const LiveOption* best = options.empty() ? nullptr : &options.front();
    if (best == nullptr || best->evaluation.goodput <= 0) {
        advice.why = "no layout of these workers is predicted to meet the targets at any rate";
        return advice;
    }
    const auto present = std::find_if(options.begin(), options.end(),
                                      [&](const LiveOption& option) { return option.layout == live.layout; });
    const double rate = live.requests_per_s;
    const double per_worker = best->evaluation.goodput / live.layout.workers();
    if (rate > best->evaluation.goodput) {
        advice.workers_more =
            static_cast<std::uint32_t>(std::min(1e6, std::ceil(rate / per_worker))) - live.layout.workers();
    }
    if (present == options.end()) {
        advice.why = fmt::format(
            "mixed workers beside prefill and decode cannot be compared; {} is predicted to serve "
            "{:.3g} requests a second within the targets",
            best->layout.text(), best->evaluation.goodput);
        return advice;
    }
    const Evaluation& now = present->evaluation;
    const std::string serves = fmt::format(
        "{} is predicted to serve {:.3g} requests a second within the targets, "
        "{:.3g} come",
        live.layout.text(), now.goodput, rate);
    if (now.low >= kRoomEnough * rate) {
        advice.why = serves + ": room enough";
        return advice;
    }
    if (best->layout == live.layout || best->evaluation.low < kWorthChanging * now.high) {
        advice.why = best->layout == live.layout ? serves + "; no other layout of these workers is better"
                                                 : fmt::format("{}; {} with {:.3g} is not better by a tenth", serves,
                                                               best->layout.text(), best->evaluation.goodput);
        return advice;
    }
    advice.why =
        fmt::format("{} ({}); {} would serve {:.3g}", serves, now.binds, best->layout.text(), best->evaluation.goodput);
    // Whoever has too many gives to who has too few.
    struct Pool {
        std::string_view role;
        std::int64_t over;  // workers
    };
    const auto over = [](std::uint32_t has, std::uint32_t wants) { return std::int64_t{has} - std::int64_t{wants}; };
    Pool pools[] = {{"prefill", over(live.layout.prefill, best->layout.prefill)},
                    {"decode", over(live.layout.decode, best->layout.decode)},
                    {"mixed", over(live.layout.mixed, best->layout.mixed)}};
    for (Pool& from : pools) {
        for (Pool& to : pools) {
            const std::int64_t count = std::min(from.over, -to.over);
            if (count <= 0) { continue; }
            advice.flips.push_back({from.role, to.role, static_cast<std::uint32_t>(count)});
            from.over -= count;
            to.over += count;
        }
    }
    return advice;
}

int plan_live_main(const PlanCommand& command) {
    const auto invalid = [](const char* what) { return report({ErrorCode::invalid_argument, what}); };
    if (command.model.empty() || command.gpus.size() != 1) {
        return invalid("plan --live needs --model and one --gpu: what the workers run, and on what");
    }
    if (!command.out.empty() || !command.helm_values.empty() || command.rate > 0 || command.count > 0) {
        return invalid(
            "plan --live takes rate and workers from the cluster and changes nothing: without --rate, "
            "--gpus, --out and --helm-values");
    }
    const auto done = plan_live(command);
    return done ? 0 : report(done.error());
}

}  // namespace cli
