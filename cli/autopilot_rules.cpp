#include "cli/autopilot_rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <tuple>
#include <utility>
#include <vector>

namespace cli {
namespace {

using proto::Role;

/// In which roles are filled: whoever decodes lets others go.
constexpr std::array kTextRoles{Role::decode, Role::mixed, Role::prefill};

std::uint32_t& count_of(LiveLayout& layout, Role role) {
    return role == Role::prefill ? layout.prefill : role == Role::decode ? layout.decode : layout.mixed;
}

bool has_changed(double before, double now, double share = kDriftShare) {
    return std::abs(now - before) > share * std::max(before, 1e-9);
}

/// "half below 40 tokens, not 160": where a distribution has changed, whatever its mean has done.
std::string shape_drift(const std::vector<double>& before, const std::vector<double>& now) {
    if (before.empty() || before.size() != now.size()) { return ""; }
    for (const auto& [name, share] : {std::pair("half", 0.5), std::pair("nine tenths", 0.9)}) {
        const auto at = static_cast<std::size_t>(std::lround(share * static_cast<double>(now.size() - 1)));
        if (has_changed(before[at], now[at], kDriftQuantile)) {
            return fmt::format("{} of them below {:.0f} tokens, not {:.0f}", name, now[at], before[at]);
        }
    }
    return "";
}

/// Whether whoever is left serves whole requests while `leaving` is on its way to another role.
bool may_leave(std::span<const LiveWorker> workers, std::size_t leaving, Role to) {
    bool decodes = false;
    bool prefills = false;
    for (std::size_t i = 0; i < workers.size(); ++i) {
        if (i == leaving) { continue; }
        decodes = decodes || proto::can_decode(workers[i].role);
        prefills = prefills || proto::can_prefill(workers[i].role);
    }
    // The last one for prompts may go to where it computes them still: until then decode workers do.
    return decodes && (prefills || proto::can_prefill(to));
}

}  // namespace

std::string drift(const LiveCluster& planned, const LiveCluster& now) {
    std::string text;
    const auto tell = [&text](const std::string& what) { text += (text.empty() ? "" : ", ") + what; };
    if (has_changed(planned.requests_per_s, now.requests_per_s)) {
        tell(fmt::format("{:.3g} requests a second, not {:.3g}", now.requests_per_s, planned.requests_per_s));
    }
    if (has_changed(planned.prompt_tokens, now.prompt_tokens)) {
        tell(fmt::format("prompts of {:.0f} tokens, not {:.0f}", now.prompt_tokens, planned.prompt_tokens));
    }
    if (has_changed(planned.output_tokens, now.output_tokens)) {
        tell(fmt::format("answers of {:.0f} tokens, not {:.0f}", now.output_tokens, planned.output_tokens));
    }
    const bool are_many = planned.answered_per_s * planned.seconds >= kDriftRequests &&
                          now.answered_per_s * now.seconds >= kDriftRequests;
    for (const auto& [what, before, after] :
         {std::tuple("prompts", &planned.prompt_quantiles, &now.prompt_quantiles),
          std::tuple("answers", &planned.output_quantiles, &now.output_quantiles)}) {
        const std::string changed = are_many ? shape_drift(*before, *after) : std::string();
        if (!changed.empty()) { tell(std::string(what) + ": " + changed); }
    }
    if (std::abs(planned.cached_share - now.cached_share) > kDriftCached) {
        tell(fmt::format("{:.0f} % of the prompts' tokens found, not {:.0f}", now.cached_share * 100,
                         planned.cached_share * 100));
    }
    if (!(planned.layout == now.layout)) { tell(fmt::format("{}, not {}", now.layout.text(), planned.layout.text())); }
    return text;
}

LiveLayout layout_of(std::span<const LiveWorker> workers) {
    LiveLayout layout;
    for (const LiveWorker& worker : workers) {
        ++count_of(layout, worker.role);
    }
    return layout;
}

std::variant<NextTurn, std::string> next_turn(std::span<const LiveWorker> workers, const LiveLayout& wanted) {
    LiveLayout present = layout_of(workers);
    LiveLayout target = wanted;
    if (present.workers() != target.workers()) {
        return fmt::format("there are {} workers now, and {} were planned for", present.workers(), target.workers());
    }
    const auto unready = std::find_if(workers.begin(), workers.end(), [](const auto& one) { return !one.is_ready; });
    if (unready != workers.end()) { return fmt::format("worker {:016x} is not ready", unready->id); }
    std::optional<NextTurn> next;
    for (const Role to : kTextRoles) {
        if (next || count_of(present, to) >= count_of(target, to)) { continue; }
        for (std::size_t i = 0; i < workers.size(); ++i) {
            const Role from = workers[i].role;
            if (from == to || count_of(present, from) <= count_of(target, from)) { continue; }
            if (!may_leave(workers, i, to)) { continue; }
            if (!next || workers[i].requests < workers[next->worker].requests) { next = NextTurn{i, to}; }
        }
    }
    if (next) { return *next; }
    return std::string("no worker can leave its role without leaving requests that nobody serves meanwhile");
}

std::string Autopilot::wants_plan(const LiveCluster& live) const {
    if (!planned_for_) { return "nothing was planned yet"; }
    const std::string changed = drift(*planned_for_, live);
    if (!changed.empty()) { return changed; }
    if (times_said_ > 0) { return "the last plan wants to be said again"; }
    const bool fell = live.attainment && *live.attainment < options_.attainment &&
                      planned_for_->attainment.value_or(1) >= options_.attainment;
    return fell ? fmt::format("{:.1f} % met their targets", *live.attainment * 100) : std::string();
}

bool Autopilot::planned(const LiveCluster& live, const std::optional<LiveLayout>& better, double now) {
    planned_for_ = live;
    if (!better) {
        said_.reset();
        times_said_ = 0;
        return false;
    }
    times_said_ = said_ == better ? times_said_ + 1 : 1;
    said_ = better;
    if (times_said_ < options_.confirmations || (turned_at_ && now - *turned_at_ < options_.hold_s)) { return false; }
    wanted_ = said_;
    said_.reset();
    times_said_ = 0;
    return true;
}

void Autopilot::arrived(double now) {
    if (wanted_ && planned_for_) { planned_for_->layout = *wanted_; }
    wanted_.reset();
    turned_at_ = now;
}

}  // namespace cli
