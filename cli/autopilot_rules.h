#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <variant>

#include "cli/plan_live.h"
#include "proto/roles.h"

namespace cli {

// What the autopilot goes by, without a clock and without a network.

/// What has changed so much between two looks that what was planned for the first does not hold for the second, in
/// words; empty: nothing. Pure.
std::string drift(const LiveCluster& planned, const LiveCluster& now);
inline constexpr double kDriftShare = 0.25;  // of rate and mean lengths
/// Of the median and of the length that a tenth is above, where so many requests at least were answered in either look:
/// a shift that leaves the mean where it was. Histograms tell no finer.
inline constexpr double kDriftQuantile = 0.5;
inline constexpr double kDriftRequests = 50;
inline constexpr double kDriftCached = 0.1;  // of the share of prompts that workers find

/// One worker as the scheduler knows it.
struct LiveWorker {
    std::uint64_t id = 0;
    std::uint64_t incarnation = 0;
    proto::Role role = proto::Role::mixed;
    bool is_ready = true;        // neither suspect nor draining
    std::uint32_t requests = 0;  // that it has
};
LiveLayout layout_of(std::span<const LiveWorker> workers);

struct NextTurn {
    std::size_t worker = 0;  // index
    proto::Role to = proto::Role::mixed;
};
/// The worker that turns next on the way to `wanted`: of those whose role has too many, the one with the fewest
/// requests; to decode first, since whoever decodes lets others go. Only where all workers are ready, and those that
/// are left can serve: one that decodes (it computes prompts too, where nobody else does), and where prompts are
/// computed apart one that does that, unless nobody will. Else why not. Pure.
std::variant<NextTurn, std::string> next_turn(std::span<const LiveWorker> workers, const LiveLayout& wanted);

/// From what is seen to what is done: when a plan is made, and when its layout is worth turning workers for.
/// Times are seconds of one clock.
class Autopilot {
public:
    struct Options {
        double hold_s = 30;               // between the last turn for one layout and the first for another
        std::uint32_t confirmations = 2;  // plans in a row that have to say the same
        double attainment = 0.9;
    };
    explicit Autopilot(const Options& options) : options_(options) {}

    /// Why a plan is made for this look; empty: what was planned before holds. Not to be asked while wanted() is on its
    /// way.
    std::string wants_plan(const LiveCluster& live) const;
    /// What the plan for this look said. True: it has been said often enough, and wanted() is to be brought about.
    bool planned(const LiveCluster& live, const std::optional<LiveLayout>& better, double now);
    /// The layout that workers are being turned to; empty: they stay.
    const std::optional<LiveLayout>& wanted() const { return wanted_; }
    /// It is there, or has been given up.
    void arrived(double now);

private:
    Options options_;
    std::optional<LiveCluster> planned_for_;  // whose plan holds
    std::optional<LiveLayout> said_;          // by the last plans, `times_said_` in a row
    std::uint32_t times_said_ = 0;
    std::optional<LiveLayout> wanted_;
    std::optional<double> turned_at_;
};

}  // namespace cli
