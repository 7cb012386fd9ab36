#include "cli/serve.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <utility>

#include "base/log.h"
#include "cli/divide_cores.h"
#include "cli/model/manifest.h"
#include "cli/model/needs.h"
#include "cli/served_models.h"

namespace cli {

using base::ErrorCode;

std::function<void(std::uint64_t, std::uint64_t)> load_progress(std::string label) {
    return [label = std::move(label), last = -1](std::uint64_t done, std::uint64_t total) mutable {
        const bool is_terminal = isatty(STDERR_FILENO) != 0;
        const int percent = total == 0 ? 100 : static_cast<int>(100 * done / total);
        const int shown = is_terminal ? percent : percent / 25 * 25;
        end_if_asked();
        if (shown == last) { return; }
        last = shown;
        std::fprintf(stderr, is_terminal ? "\r%s: loading %3d %%%s" : "%s: loading %d %%%s\n", label.c_str(), shown,
                     is_terminal && percent == 100 ? "\n" : "");
    };
}

namespace {

/// Encoders run on the host, also where the settings put the models that make text on a GPU.
void put_on_host(engine::EngineOptions& options) {
    options.device = "host";
    if (options.kernels == "cuda") { options.kernels = "auto"; }
    if (options.weight_format == "fp8") { options.weight_format = "auto"; }
    options.prefill_attention = "auto";
    options.dependent_launch = false;
}

/// What each model needs, and the KV pools of its workers. All workers are held against the same figure of memory,
/// which `engine_options` then has too. Error: as engine::inspect_model() and engine::fit_on_host().
base::Result<std::vector<ServedNeeds>> plan_memory(const std::vector<NamedModel>& models,
                                                   const std::vector<NamedModel>& encoders, const ServeOptions& options,
                                                   engine::EngineOptions& engine_options) {
    std::vector<ServedNeeds> served;
    std::vector<engine::HostUse> uses;
    for (const NamedModel& model : models) {
        if (auto checked = check_role(model.dir, worker::Role::mixed); !checked) { return base::pass_on(checked); }
        engine::EngineOptions of_model = engine_options;
        of_model.model_dir = model.dir;
        auto needs = engine::inspect_model(of_model);
        if (!needs) { return base::pass_on(needs); }
        served.push_back({.name = model.name, .needs = *needs, .kv_pool_bytes = engine_options.kv_pool_bytes});
        uses.push_back({.name = model.name,
                        .needs = std::move(*needs),
                        .engines = options.prefill + options.decode + options.mixed});
    }
    auto memory = engine::host_memory_of(engine_options.host_memory_bytes);
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
    if (!memory || !uses.front().needs.on_host) { return served; }
    engine_options.host_memory_bytes = memory->available_bytes;
    const auto pools = engine::fit_on_host(uses, *memory);
    if (!pools) { return base::pass_on(pools); }
    for (std::size_t i = 0; i < served.size(); ++i) {
        served[i].kv_pool_bytes = (*pools)[i];
    }
    return served;
}

}  // namespace

base::Result<std::unique_ptr<LocalStack>> LocalStack::start(const ServeOptions& options) {
    auto stack = std::unique_ptr<LocalStack>(new LocalStack());
    if (options.mixed == 0 && (options.prefill == 0 || options.decode == 0)) {
        return base::fail(ErrorCode::invalid_argument,
                          "nobody can serve a whole request: use --prefill N --decode M (both > 0), or --mixed K");
    }
    auto config = read_config(options.common);
    if (!config) { return base::pass_on(config); }

    auto cluster = read_cluster(*config, true);
    if (!cluster) { return base::pass_on(cluster); }
    const auto scheduler_options = scheduler::SchedulerOptions::read(*config);
    auto gateway_options = gateway::GatewayOptions::read(*config);
    const auto text_options = read_text_config(*config);
    WorkerSetup common_setup;
    read_worker_config(*config, common_setup);
    common_setup.text = text_options;
    const auto tracing = TracingOptions::read(*config);
    if (const auto read = config->finish(); !read) { return base::pass_on(read); }
    if (cluster->is_minted && !common_setup.kv_tiers.disk_path.empty()) {
        const auto key = kept_key(common_setup.kv_tiers);
        if (!key) { return base::pass_on(key); }
        cluster->key = *key;
    }
    if (const auto allowed = check_kv_plane(common_setup.kv_plane, options.common, *cluster); !allowed) {
        return base::pass_on(allowed);
    }
    if (const auto checked = gateway::check_files(gateway_options); !checked) { return base::pass_on(checked); }
    const auto named =
        read_models(options.models, first_name(options.names.served_names), gateway_options.model, options.model_names);
    if (!named) { return base::pass_on(named); }
    auto encoders = read_encoders(options.encoders, options.model_names);
    if (!encoders) { return base::pass_on(encoders); }
    std::vector<NamedModel> all = *named;
    all.insert(all.end(), encoders->begin(), encoders->end());
    stack->served_names_ = names_of(all);
    gateway_options.http.host = options.host.value_or(gateway_options.http.host);
    gateway_options.http.port = options.port.value_or(gateway_options.http.port);
    gateway_options.http.allow_public |= options.common.listen_public;
    add_aliases(options.names, gateway_options);
    stack->host_ = gateway_options.http.host;
    stack->scheme_ = gateway_options.tls_certificate_file.empty() ? "http" : "https";
    stack->merged_config_ = config->merged();
    spdlog::debug("configuration in effect:\n{}", stack->merged_config_);

    auto models = load_text(all, text_options);
    if (!models) { return base::pass_on(models); }

    tell_version(stack->metrics_);
    auto exporter = start_exporter(tracing, "sluice", stack->metrics_);
    if (!exporter) { return base::pass_on(exporter); }
    stack->exporter_ = std::move(*exporter);
    common_setup.spans = stack->exporter_.get();
    auto scheduler = scheduler::SchedulerServer::start(scheduler_options, "127.0.0.1:0", stack->clock_, stack->metrics_,
                                                       cluster->control());
    if (!scheduler) { return base::pass_on(scheduler); }
    stack->scheduler_ = std::move(*scheduler);

    const auto generating =
        (options.prefill + options.decode + options.mixed) * static_cast<std::uint32_t>(named->size());
    const auto workers = generating + options.encode * static_cast<std::uint32_t>(encoders->size());
    const std::uint32_t cores = options.threads == 0 ? usable_cores() : options.threads;
    const std::vector<std::uint32_t> threads = divide_cores(cores, workers);
    if (workers > cores) { spdlog::warn("{} workers share {} cores", workers, cores); }
    const auto models_needed = plan_memory(*named, *encoders, options, common_setup.engine);
    if (!models_needed) { return base::pass_on(models_needed); }
    stack->models_ = *models_needed;
    stack->workers_each_ = options.prefill + options.decode + options.mixed;
    const auto start_worker = [&](std::uint64_t kv_pool_bytes, const NamedModel& model, worker::Role role,
                                  std::uint32_t number) -> base::Result<void> {
        WorkerSetup setup = common_setup;
        setup.role = role;
        setup.name = fmt::format("{}-{}", worker::role_name(role), number);
        setup.served_name = model.name;
        setup.scheduler_address = stack->scheduler_->address();
        setup.cluster = *cluster;
        setup.engine.model_dir = model.dir;
        setup.engine.threads = threads[stack->workers_.size()];
        setup.engine.kv_pool_bytes = kv_pool_bytes;
        if (role == worker::Role::encode) {
            put_on_host(setup.engine);
        } else {
            setup.engine.gpu_memory_share /= generating;  // all on one GPU
        }
        auto progress = load_progress(setup.name);
        auto worker = WorkerProcess::start(std::move(setup), stack->clock_, stack->metrics_, std::move(progress));
        if (!worker) { return base::pass_on(worker); }
        stack->workers_.push_back(std::move(*worker));
        return {};
    };
    for (std::uint32_t index = 0; index < named->size(); ++index) {
        for (const auto& [role, count] :
             {std::pair(worker::Role::prefill, options.prefill), std::pair(worker::Role::decode, options.decode),
              std::pair(worker::Role::mixed, options.mixed)}) {
            for (std::uint32_t number = index * count; number < (index + 1) * count; ++number) {
                const std::uint64_t kv_pool_bytes = stack->models_[index].kv_pool_bytes;
                if (const auto started = start_worker(kv_pool_bytes, (*named)[index], role, number); !started) {
                    return base::pass_on(started);
                }
            }
        }
    }

    for (std::uint32_t index = 0; index < encoders->size(); ++index) {
        for (std::uint32_t number = index * options.encode; number < (index + 1) * options.encode; ++number) {
            if (const auto started = start_worker(0, (*encoders)[index], worker::Role::encode, number); !started) {
                return base::pass_on(started);
            }
        }
    }

    auto gateway = gateway::GatewayServer::start(
        {.options = gateway_options,
         .models = std::move(*models),
         .scheduler_address = stack->scheduler_->address(),
         .hash_key = cluster->key,
         .control = cluster->control(),
         .clock = stack->clock_,
         .metrics = stack->metrics_,
         .tracing = {.spans = stack->exporter_.get(), .sampled_share = tracing.sampled_share}});
    if (!gateway) { return base::pass_on(gateway); }
    stack->gateway_ = std::move(*gateway);
    return stack;
}

LocalStack::~LocalStack() {
    drain_and_stop();
}

std::uint16_t LocalStack::port() const {
    return gateway_->port();
}

std::string LocalStack::banner() const {
    std::string text = fmt::format("sluice serves {} at {}://{}:{}/v1\n  scheduler at {}\n", joined(served_names_),
                                   scheme_, host_, port(), scheduler_->address());
    for (std::size_t i = 0; i < models_.size(); ++i) {
        const std::uint64_t pool_tokens = workers_[i * workers_each_]->kv_pool_tokens();
        text += fmt::format("  {}: {}\n", models_[i].name, model::summarize_needs(models_[i].needs, pool_tokens));
    }
    for (const auto& worker : workers_) {
        text += "  " + worker->describe() + "\n";
    }
    return text;
}

bool LocalStack::wait_until_ready(base::Duration patience) const {
    const auto ready = std::make_shared<Event>();
    gateway_->when_ready([ready] { ready->set(); });
    const bool is_ready = ready->wait(patience);
    if (!is_ready) { end_if_asked(); }  // who is ready may serve somebody already, and ends in order
    return is_ready;
}

std::optional<base::Error> LocalStack::device_lost() const {
    for (const auto& worker : workers_) {
        if (auto lost = worker->device_lost()) { return lost; }
    }
    return std::nullopt;
}

void LocalStack::drain_and_stop() {
    if (gateway_ != nullptr && device_lost()) {
        gateway_->give_up_and_stop();  // all workers of a process use one device: nobody is left to place requests at
    } else if (gateway_ != nullptr) {
        gateway_->drain_and_stop();
    }
    for (auto worker = workers_.rbegin(); worker != workers_.rend(); ++worker) {
        (*worker)->drain_and_stop();
    }
    if (scheduler_ != nullptr) { scheduler_->drain_and_stop(); }
    gateway_.reset();
    workers_.clear();
    scheduler_.reset();
}

void add_serve(CLI::App& app, ServeOptions& options) {
    app.add_option("--model", options.models,
                   std::string("[NAME=]MODEL: ") + kChatModelHelp +
                       "; several times for several models, each on workers of its own")
        ->allow_extra_args(false);
    add_name_flags(app, options.names);
    app.add_option("--encoder", options.encoders,
                   "[NAME=]MODEL: a folder of a sentence encoder, or the name of one in the store or the catalogue "
                   "(pulled at first use); answers /v1/embeddings; several times for several")
        ->allow_extra_args(false);
    app.add_option("--host", options.host, "address to listen on; default 127.0.0.1");
    app.add_option("--port", options.port, "port to listen on; 0: any free one; default 8000");
    app.add_option("--prefill", options.prefill, "prefill workers of each model")->capture_default_str();
    app.add_option("--decode", options.decode, "decode workers of each model")->capture_default_str();
    app.add_option("--mixed", options.mixed, "workers of each model that do both phases (colocated)")
        ->capture_default_str();
    app.add_option("--encode", options.encode, "workers of each encoder")
        ->check(CLI::Range(1, 1024))
        ->capture_default_str();
    app.add_option("--threads", options.threads, "compute threads of all workers together; 0: the machine's cores")
        ->capture_default_str();
    add_common_flags(app, options.common);
}

int serve_main(const ServeOptions& options) {
    base::init_log({.role = "serve", .level = options.common.log_level});
    auto stack = LocalStack::start(options);
    if (!stack) { return report(stack.error()); }
    if (!(*stack)->wait_until_ready(std::chrono::seconds(30))) { spdlog::warn("the workers are not registered yet"); }
    std::fprintf(stderr, "%s", (*stack)->banner().c_str());
    wait_for_end();
    unblock_signals();
    spdlog::info("ending: finishing what runs (a second signal ends at once)");
    const auto lost = (*stack)->device_lost();
    (*stack)->drain_and_stop();
    return lost ? report(*lost) : 0;
}

}  // namespace cli
