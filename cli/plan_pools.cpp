#include <fmt/format.h>

#include <cstdio>
#include <string>

#include "base/log.h"
#include "cli/placement.h"
#include "cli/plan.h"
#include "cli/served_models.h"
#include "cli/stack_pools.h"

namespace cli {
namespace {

std::string flags_of(const Settings& settings) {
    std::string text;
    for (const auto& [key, value] : settings) {
        text += " --set " + key + "=" + value;
    }
    return text;
}

base::Result<std::string> pools_text(const PlanPoolsCommand& command) {
    const auto read = read_placement(command.plan);
    if (!read) { return base::pass_on(read); }
    for (const std::string& warning : read->placement.warnings) {
        spdlog::warn("{}: {}", command.plan, warning);
    }
    auto pools = planned_pools(read->placement, command.common);
    if (!pools) { return base::pass_on(pools); }
    const auto named = read_models({command.model}, "", gateway::GatewayOptions{}.model, command.model_names);
    if (!named) { return base::pass_on(named); }
    WorkerSetup of_encoders = pools->front().setup;  // there are none: its figure of memory is the pools'
    const auto models = plan_memory(*named, {}, *pools, of_encoders);
    if (!models) { return base::pass_on(models); }
    const auto checked = check_against_plan(read->plan, *pools, *models);
    if (!checked) { return base::pass_on(checked); }
    std::string text = "common" + flags_of(read->placement.settings) + "\n";
    for (std::size_t i = 0; i < pools->size(); ++i) {
        const PlacedPool& placed = read->placement.pools[i];
        for (std::uint32_t number = 0; number < placed.count; ++number) {
            Settings settings = placed.settings(number);
            settings.emplace_back("engine.kv_pool_bytes", std::to_string((*pools)[i].kv_pool_bytes[0]));
            text += fmt::format("{} {}{}\n", worker::role_name(placed.role), placed.threads, flags_of(settings));
        }
    }
    return text;
}

}  // namespace

void add_plan_pools(CLI::App& app, PlanPoolsCommand& command) {
    app.add_option("plan", command.plan, "a placement file of sluice plan --out")->required();
    app.add_option("--model", command.model, kModelHelp)->required();
    add_common_flags(app, command.common);
}

int plan_pools_main(const PlanPoolsCommand& command) {
    base::init_log({.role = "plan", .level = command.common.log_level});
    const auto text = pools_text(command);
    if (!text) { return report(text.error()); }
    std::fputs(text->c_str(), stdout);
    return 0;
}

}  // namespace cli
