#include "cli/stack_pools.h"

#include <fmt/format.h>

#include <cmath>
#include <utility>

#include "base/log.h"
#include "base/log_file.h"
#include "cli/admin_server.h"
#include "cli/lease_access.h"
#include "cli/model/manifest.h"
#include "cli/otlp_exporter.h"
#include "cli/reload.h"
#include "gateway/options.h"
#include "scheduler/options.h"

namespace cli {
namespace {

using base::ErrorCode;

/// The sections of a pool's workers out of the plan's settings and those of the operator, which count.
base::Result<WorkerSetup> read_setup(const Settings& below, const CommonFlags& flags) {
    auto config = read_config(flags, settings_yaml(below), "the plan");
    if (!config) { return base::pass_on(config); }
    WorkerSetup setup;
    read_worker_config(*config, setup);
    setup.text = read_text_config(*config);
    scheduler::SchedulerOptions::read(*config);  // the other roles' sections are known, too
    read_lease_access(*config);
    gateway::GatewayOptions::read(*config);
    read_log_level(*config, flags);
    base::LogFile::read(*config);
    read_admin_keys_file(*config);
    TracingOptions::read(*config);
    if (const auto cluster = read_cluster(*config, true); !cluster) { return base::pass_on(cluster); }
    if (const auto read = config->finish(); !read) { return base::pass_on(read); }
    return setup;
}

std::string name_of(const StackPool& pool) {
    return fmt::format("the {} pool", worker::role_name(pool.role));
}

/// The workers' use of memory: of each model, or with a plan of each of its pools; weights count once for a model.
std::vector<engine::HostUse> uses_of(const std::vector<ServedNeeds>& models, const std::vector<StackPool>& pools) {
    std::vector<engine::HostUse> uses;
    for (const ServedNeeds& model : models) {
        bool is_first = true;
        for (const StackPool& pool : pools) {
            if (!is_first && pool.kv_tokens == 0) {
                uses.back().engines += pool.count;
                continue;
            }
            engine::HostUse use{.name = model.name, .needs = model.needs, .engines = pool.count};
            if (pool.kv_tokens > 0 && pool.setup.engine.kv_pool_bytes == 0) {
                use.needs.kv_pool_bytes = pool.kv_tokens * model.needs.kv_token_bytes;
            }
            if (pool.kv_tokens > 0) { use.name += fmt::format(" ({})", worker::role_name(pool.role)); }
            if (!std::exchange(is_first, false)) { use.needs.weight_bytes = 0; }
            uses.push_back(std::move(use));
        }
    }
    return uses;
}

}  // namespace

WorkerSetup StackPool::setup_of(std::uint32_t number, std::uint32_t generating) const {
    WorkerSetup made = setup;
    made.role = role;
    if (first_gpu) {
        made.engine.device = fmt::format("cuda:{}", *first_gpu + number);
    } else {
        made.engine.gpu_memory_share /= generating;  // all on one GPU
    }
    return made;
}

void put_on_host(engine::EngineOptions& options) {
    options.device = "host";
    if (options.kernels == "cuda") { options.kernels = "auto"; }
    if (options.weight_format == "fp8") { options.weight_format = "auto"; }
    options.prefill_attention = "auto";
    options.dependent_launch = false;
}

base::Result<std::vector<StackPool>> planned_pools(const Placement& placement, const CommonFlags& flags) {
    std::vector<StackPool> pools;
    for (const PlacedPool& placed : placement.pools) {
        auto setup = read_setup(placed.settings(0), flags);
        if (!setup) { return base::pass_on(setup); }
        StackPool pool{.role = placed.role,
                       .count = placed.count,
                       .setup = std::move(*setup),
                       .threads = placed.threads,
                       .kv_tokens = placed.kv_tokens,
                       .first_gpu = placed.first_gpu};
        const auto note = [&pool](const char* key, const auto& here, const auto& planned) {
            if (here == planned) { return; }
            spdlog::warn("{}: the settings make {} {}, the plan has {}", name_of(pool), key, here, planned);
        };
        note("worker.batch_sequences_max", pool.setup.limits.batch_sequences_max, placed.batch_sequences_max);
        note("worker.batch_tokens_max", pool.setup.limits.batch_tokens_max, placed.batch_tokens_max);
        if (placed.kv_host_bytes > 0) {
            note("engine.kv_host_bytes", pool.setup.kv_tiers.host_bytes, placed.kv_host_bytes);
        }
        if (placed.kv_disk_bytes > 0) {
            note("engine.kv_disk.bytes", pool.setup.kv_tiers.disk_bytes, placed.kv_disk_bytes);
            if (pool.setup.kv_tiers.disk_path.empty()) {
                spdlog::warn("{}: the plan has KV on a disk, and no setting says where: set engine.kv_disk.path",
                             name_of(pool));
            }
        }
        if (pool.first_gpu) {
            const std::string planned = fmt::format("cuda:{}", *pool.first_gpu);
            note("engine.device", pool.setup.engine.device, planned);
            if (pool.setup.engine.device != planned) { pool.first_gpu.reset(); }
        }
        pools.push_back(std::move(pool));
    }
    return pools;
}

base::Result<void> check_against_plan(const sim::PlanFile& plan, const std::vector<StackPool>& pools,
                                      const std::vector<ServedNeeds>& models) {
    if (models.size() != 1) {
        return base::fail(ErrorCode::invalid_argument, "a plan is for one model: give one --model beside --plan");
    }
    const engine::EngineNeeds& needs = models.front().needs;
    const auto checked = check_planned_model(plan, needs.shape);
    if (!checked) { return base::pass_on(checked, "--plan"); }
    if (*checked) { spdlog::warn("{}", **checked); }
    const auto bytes = static_cast<double>(needs.kv_token_bytes);
    for (std::size_t i = 0; i < pools.size(); ++i) {
        const StackPool& pool = pools[i];
        const double planned = plan.pools[i].kv_bytes_per_token;
        if (!plan.pools[i].levels.empty() && std::abs(planned - bytes) > 0.01 * bytes) {
            spdlog::warn(
                "{}: the plan counts {:.6g} bytes a token in levels below the KV pool, and KV has {:.6g} here: they "
                "hold another number of tokens than planned",
                name_of(pool), planned, bytes);
        }
        if (pool.setup.engine.kv_pool_bytes > 0) {
            spdlog::warn("{}: engine.kv_pool_bytes of the settings counts, not the plan's room for {} tokens",
                         name_of(pool), pool.kv_tokens);
        }
        if (pool.role == worker::Role::prefill && pool.setup.limits.kv_codec == "raw" && plan.kv_bytes_per_token > 0 &&
            plan.kv_bytes_per_token < 0.99 * bytes) {
            spdlog::warn(
                "the plan counts {:.6g} bytes a token for a hand-off, and KV has {:.6g} here: hand-offs take "
                "longer than planned; worker.kv_codec=exact makes them smaller",
                plan.kv_bytes_per_token, bytes);
        }
    }
    return {};
}

base::Result<std::vector<ServedNeeds>> plan_memory(const std::vector<NamedModel>& models,
                                                   const std::vector<NamedModel>& encoders,
                                                   std::vector<StackPool>& pools, WorkerSetup& encoder_setup) {
    std::vector<ServedNeeds> served;
    engine::EngineOptions& common = encoder_setup.engine;
    for (const NamedModel& model : models) {
        if (auto checked = check_role(model.dir, worker::Role::mixed); !checked) { return base::pass_on(checked); }
        // Of the pool with the largest steps: what the model is does not depend on the pool.
        engine::EngineOptions of_model = pools.front().setup.engine;
        for (const StackPool& pool : pools) {
            of_model.batch_tokens_max = std::max(of_model.batch_tokens_max, pool.setup.engine.batch_tokens_max);
            of_model.batch_sequences_max =
                std::max(of_model.batch_sequences_max, pool.setup.engine.batch_sequences_max);
        }
        of_model.model_dir = model.dir;
        auto needs = engine::inspect_model(of_model);
        if (!needs) { return base::pass_on(needs); }
        served.push_back({.name = model.name, .needs = std::move(*needs)});
        for (StackPool& pool : pools) {
            const std::uint64_t said = pool.setup.engine.kv_pool_bytes;
            pool.kv_pool_bytes.push_back(said > 0 ? said : pool.kv_tokens * served.back().needs.kv_token_bytes);
        }
    }
    auto memory = engine::host_memory_of(common.host_memory_bytes);
    for (const NamedModel& encoder : encoders) {
        if (auto checked = check_role(encoder.dir, worker::Role::encode); !checked) { return base::pass_on(checked); }
        const auto needs = engine::inspect_encoder(encoder.dir);
        if (!needs) { return base::pass_on(needs); }
        if (!memory) { continue; }
        if (needs->weight_bytes > memory->available_bytes) {
            return base::fail(
                ErrorCode::resource_exhausted,
                fmt::format("the encoder {} does not fit into memory: its weights take {}, and {} has {} left for it",
                            encoder.name, model::format_bytes(needs->weight_bytes), memory->limited_by,
                            model::format_bytes(memory->available_bytes)));
        }
        memory->available_bytes -= needs->weight_bytes;
    }
    if (!memory || !served.front().needs.on_host) { return served; }
    common.host_memory_bytes = memory->available_bytes;
    const std::vector<engine::HostUse> uses = uses_of(served, pools);
    const auto sizes = engine::fit_on_host(uses, *memory);
    if (!sizes) { return base::pass_on(sizes); }
    const bool is_planned = uses.size() > served.size() || pools.front().kv_tokens > 0;
    for (std::size_t p = 0; p < pools.size(); ++p) {
        pools[p].setup.engine.host_memory_bytes = memory->available_bytes;
        for (std::size_t m = 0; m < served.size(); ++m) {
            pools[p].kv_pool_bytes[m] = (*sizes)[is_planned ? m * pools.size() + p : m];
        }
    }
    return served;
}

}  // namespace cli
