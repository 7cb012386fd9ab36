#pragma once

#include <boost/json.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "cli/plan.h"
#include "scheduler/planner/search.h"
#include "sim/workload.h"

namespace cli {

/// Workers by role: what may change without a worker more or less.
struct LiveLayout {
    std::uint32_t prefill = 0;
    std::uint32_t decode = 0;
    std::uint32_t mixed = 0;

    std::uint32_t workers() const { return prefill + decode + mixed; }
    /// "3 prefill, 1 decode"
    std::string text() const;
    bool operator==(const LiveLayout&) const = default;
};

/// What a cluster did with one model between two looks at its metrics.
struct LiveCluster {
    std::string model;
    double seconds = 0;
    double requests_per_s = 0;  // that came, refused ones included
    double answered_per_s = 0;
    double prompt_tokens = 0;  // mean of those answered
    double output_tokens = 0;
    /// Of the same: values below which shares of 0, 1/(n-1), ... 1 lie. Empty: not told.
    std::vector<double> prompt_quantiles;
    std::vector<double> output_quantiles;
    double cached_share = 0;           // of the prompts' tokens: that workers found, and did not compute
    std::optional<double> attainment;  // share of requests that met all their targets; empty: nobody had any
    LiveLayout layout;                 // workers that do not drain
};

/// Of `view` (top_view(), of two moments). `model`: its name; empty: the only one there is.
/// Errors: not_found without such a model, invalid_argument where the name would have to be said, unavailable without a
/// worker.
base::Result<LiveCluster> live_cluster(const boost::json::object& view, std::string_view model);

/// Requests as the cluster has them: at their rate, with lengths drawn from what the gateway's histograms tell, or
/// exponentially around the means where they tell nothing. Of prompts only what was computed counts. Error: unavailable
/// where nothing was answered.
base::Result<sim::Workload> live_workload(const LiveCluster& live);

/// The roles that so many workers may have: all mixed, and each division into prefill and decode, or some spread evenly
/// over them where there are many.
std::vector<LiveLayout> live_layouts(std::uint32_t workers);

struct LiveOption {
    LiveLayout layout;
    scheduler::planner::Evaluation evaluation;
};
struct LiveAdvice {
    /// Roles of running workers to change, one after the other; empty: they stay.
    struct Flip {
        std::string_view from;
        std::string_view to;
        std::uint32_t count = 0;
        bool operator==(const Flip&) const = default;
    };
    std::vector<Flip> flips;
    std::uint32_t workers_more = 0;  // that the rate needs beside those there are, at what the best layout does
    std::string why;
};
/// A layout is worth changing roles for when it bears so much more than the present one, by the worst of its runs over
/// the best of the present one's.
inline constexpr double kWorthChanging = 1.1;
/// So far above the rate the present layout is left alone, however much better another one is.
inline constexpr double kRoomEnough = 1.25;

/// What to do. `options`: the best first; `present` is among them unless it cannot be evaluated. Pure.
LiveAdvice advise(const LiveCluster& live, const std::vector<LiveOption>& options);

/// `sluice plan --live`: looks, plans, and tells what it would do. Nothing is changed. Exit status: 0; 1; 2 for bad
/// input.
int plan_live_main(const PlanCommand& command);

}  // namespace cli
