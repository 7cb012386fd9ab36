#include "cli/placement.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>

#include "cli/divide_cores.h"
#include "cli/planning_files.h"
#include "device/cuda/cuda_device.h"
#include "scheduler/planner/gpu.h"

namespace cli {
namespace {

using base::ErrorCode;
using base::fail;
using base::pass_on;
using base::Result;

/// That one machine is asked to start; larger clusters are started by the chart or role by role.
constexpr std::uint32_t kWorkersMax = 256;
constexpr double kAttainmentLeast = 0.5;  // that slo_classes.NAME.attainment takes

bool is_this(const sim::PlanPool& pool) {
    return pool.device == "this";
}

/// Whether a driver's name ("NVIDIA RTX PRO 6000 Blackwell") is of the kind that plans call `kind` ("rtxpro6000").
bool is_of_kind(const std::string& name, const std::string& kind) {
    std::string plain;
    for (const char c : name) {
        if (std::isalnum(static_cast<unsigned char>(c)) != 0) {
            plain += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
        }
    }
    return plain.find(kind) != std::string::npos;
}

Result<void> check_pool(const sim::PlanPool& pool) {
    const std::string name = fmt::format("the {} pool", proto::role_name(pool.role));
    if (pool.split.gpus() > 1) {
        return fail(ErrorCode::unimplemented,
                    fmt::format("{} has workers of {} GPUs (tensor {}, pipeline {}), and a worker here has one: make "
                                "the plan with --whole-workers",
                                name, pool.split.gpus(), pool.split.tensor, pool.split.pipeline));
    }
    if (is_this(pool) || scheduler::planner::find_gpu(pool.device)) { return {}; }
    std::string known = "this";
    for (const std::string& gpu : scheduler::planner::gpu_names()) {
        known += ", " + gpu;
    }
    return fail(ErrorCode::invalid_argument,
                fmt::format("{} is on \"{}\", which is no device known here: {}", name, pool.device, known));
}

Result<void> check_roles(const sim::PlanFile& plan) {
    const auto has = [&plan](proto::Role role) {
        return std::any_of(plan.pools.begin(), plan.pools.end(),
                           [role](const auto& pool) { return pool.role == role; });
    };
    if (has(proto::Role::mixed) || (has(proto::Role::prefill) && has(proto::Role::decode))) { return {}; }
    return fail(
        ErrorCode::invalid_argument,
        "nobody could serve a whole request: it needs a pool of role mixed, or one of prefill and one of decode");
}

/// Whole milliseconds, as the settings have them; 0 stays 0.
std::uint64_t milliseconds(double seconds) {
    return seconds <= 0 ? 0 : static_cast<std::uint64_t>(std::max(1.0, std::round(seconds * 1e3)));
}

void add_class(const sim::PlanFile::Class& one, Placement& placement) {
    const std::string prefix = "slo_classes." + one.name + ".";
    for (const auto& [key, seconds] : {std::pair("ttft_ms", one.ttft_s), std::pair("tpot_ms", one.tpot_s)}) {
        const std::uint64_t whole = milliseconds(seconds);
        placement.settings.emplace_back(prefix + key, std::to_string(whole));
        if (std::abs(static_cast<double>(whole) - seconds * 1e3) > 0.05 * seconds * 1e3) {
            placement.warnings.push_back(fmt::format("{}{} of {:.4g} is {} here: settings are whole milliseconds",
                                                     prefix, key, seconds * 1e3, whole));
        }
    }
    placement.settings.emplace_back(prefix + "priority", fmt::format("{:.0f}", one.priority));
    if (one.attainment >= kAttainmentLeast) {
        placement.settings.emplace_back(prefix + "attainment", fmt::format("{:.6g}", one.attainment));
    } else {
        placement.warnings.push_back(fmt::format("{}attainment of {:.4g} is left out: it is at least {} here", prefix,
                                                 one.attainment, kAttainmentLeast));
    }
}

/// GPUs for the pools that name one, in order. Error: failed_precondition.
Result<void> give_gpus(const sim::PlanFile& plan, const PlanSite& site, Placement& placement) {
    std::uint32_t wanted = 0;
    std::string kinds;
    for (std::size_t i = 0; i < plan.pools.size(); ++i) {
        const sim::PlanPool& pool = plan.pools[i];
        if (is_this(pool)) { continue; }
        placement.pools[i].first_gpu = wanted;
        wanted += pool.count;
        kinds += fmt::format("{}{} {}", kinds.empty() ? "" : ", ", pool.count, pool.device);
    }
    if (wanted == 0) { return {}; }
    if (wanted > site.gpus.size()) {
        return fail(
            ErrorCode::failed_precondition,
            fmt::format("the plan needs {} GPUs ({}), and this machine has {}{}{}: start it where they are "
                        "(Helm values: sluice plan --helm-values), or plan for this machine (--gpu this)",
                        wanted, kinds, site.gpus.size(), site.gpu_problem.empty() ? "" : "; ", site.gpu_problem));
    }
    for (std::size_t i = 0; i < plan.pools.size(); ++i) {
        if (is_this(plan.pools[i])) { continue; }
        for (std::uint32_t k = 0; k < plan.pools[i].count; ++k) {
            const std::string& here = site.gpus[*placement.pools[i].first_gpu + k];
            if (is_of_kind(here, plan.pools[i].device)) { continue; }
            placement.warnings.push_back(
                fmt::format("the {} pool is planned for {}, and gets {}: limits and predicted "
                            "figures are those of the plan",
                            proto::role_name(plan.pools[i].role), plan.pools[i].device, here));
            break;
        }
    }
    return {};
}

}  // namespace

std::string settings_yaml(const Settings& settings) {
    std::string text;
    for (const auto& [key, value] : settings) {
        text += key + ": " + value + "\n";
    }
    return text;
}

Settings PlacedPool::settings(std::uint32_t number) const {
    Settings settings{{"worker.batch_sequences_max", std::to_string(batch_sequences_max)},
                      {"worker.batch_tokens_max", std::to_string(batch_tokens_max)}};
    if (kv_host_bytes > 0) { settings.emplace_back("engine.kv_host_bytes", std::to_string(kv_host_bytes)); }
    if (kv_disk_bytes > 0) { settings.emplace_back("engine.kv_disk.bytes", std::to_string(kv_disk_bytes)); }
    if (first_gpu) { settings.emplace_back("engine.device", fmt::format("cuda:{}", *first_gpu + number)); }
    return settings;
}

PlanSite site_of(const sim::PlanFile& plan) {
    PlanSite site{.gpus = {}, .gpu_problem = "", .cores = usable_cores()};
    if (std::all_of(plan.pools.begin(), plan.pools.end(), is_this)) { return site; }
    const device::CudaReport report = device::cuda_report();
    site.gpu_problem = report.problem;
    if (!report.problem.empty()) { return site; }
    for (const device::CudaDeviceInfo& gpu : report.devices) {
        site.gpus.push_back(gpu.name);
    }
    return site;
}

Result<Placement> place_here(const sim::PlanFile& plan, const PlanSite& site) {
    if (const auto served = check_roles(plan); !served) { return pass_on(served); }
    Placement placement;
    std::uint64_t workers = 0;
    std::uint64_t threads = 0;
    for (const sim::PlanPool& pool : plan.pools) {
        if (const auto checked = check_pool(pool); !checked) { return pass_on(checked); }
        workers += pool.count;
        threads += std::uint64_t{pool.count} * pool.threads;
        placement.pools.push_back({.role = pool.role,
                                   .count = pool.count,
                                   .threads = pool.threads,
                                   .kv_tokens = static_cast<std::uint64_t>(pool.kv_tokens),
                                   .first_gpu = std::nullopt,
                                   .batch_sequences_max = pool.batch_sequences_max,
                                   .batch_tokens_max = pool.batch_tokens_max});
        for (const sim::PlanLevel& level : pool.levels) {
            PlacedPool& placed = placement.pools.back();
            (level.name == "host" ? placed.kv_host_bytes : placed.kv_disk_bytes) =
                static_cast<std::uint64_t>(level.bytes);
        }
    }
    if (workers > kWorkersMax) {
        return fail(ErrorCode::resource_exhausted,
                    fmt::format("the plan has {} workers, and one machine starts up to {}: use the Helm values of the "
                                "plan, or start the roles on their machines",
                                workers, kWorkersMax));
    }
    if (const auto given = give_gpus(plan, site, placement); !given) { return pass_on(given); }
    if (threads > site.cores) {
        placement.warnings.push_back(
            fmt::format("the plan's {} workers want {} compute threads, and there are {} "
                        "cores: steps will take longer than planned",
                        workers, threads, site.cores));
    }
    for (const sim::PlanFile::Class& one : plan.classes) {
        add_class(one, placement);
    }
    return placement;
}

Result<std::optional<std::string>> check_planned_model(const sim::PlanFile& plan, const base::ModelShape& shape) {
    if (!shape.architecture.empty() && plan.model != shape.architecture) {
        return fail(ErrorCode::invalid_argument,
                    fmt::format("the plan is for a {}, and the model is a {}", plan.model, shape.architecture));
    }
    if (!plan.shape) {
        return std::optional<std::string>(
            "the plan does not say its model's shape (model_shape), so only the "
            "architecture was compared");
    }
    const sim::PlanFile::Shape here{.layers = shape.layers,
                                    .hidden = shape.hidden,
                                    .heads_kv = shape.heads_kv,
                                    .head_dim = shape.head_dim,
                                    .vocabulary = shape.vocabulary};
    if (*plan.shape == here) { return std::optional<std::string>(); }
    const auto text = [](const sim::PlanFile::Shape& one) {
        return fmt::format("{} layers, hidden {}, {} KV heads of {}, vocabulary {}", one.layers, one.hidden,
                           one.heads_kv, one.head_dim, one.vocabulary);
    };
    return fail(ErrorCode::invalid_argument, fmt::format("the plan is for another {}: {}; the model has {}", plan.model,
                                                         text(*plan.shape), text(here)));
}

Result<ReadPlacement> read_placement(const std::string& path) {
    const auto text = read_planning_file(path);
    if (!text) { return pass_on(text, "--plan"); }
    auto plan = sim::read_plan(*text, path);
    if (!plan) { return pass_on(plan, "--plan"); }
    auto placement = place_here(*plan, site_of(*plan));
    if (!placement) { return pass_on(placement, "--plan " + path); }
    return ReadPlacement{std::move(*plan), std::move(*placement)};
}

}  // namespace cli
