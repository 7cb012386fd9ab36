#include "cli/serve.h"

#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "base/log.h"
#include "base/log_file.h"
#include "cli/divide_cores.h"
#include "cli/lease_access.h"
#include "cli/metrics_text.h"
#include "cli/model/needs.h"
#include "cli/placement.h"
#include "cli/reload.h"
#include "cli/served_models.h"
#include "cli/stack_pools.h"

namespace cli {

using base::ErrorCode;

namespace {

// The scheduler is in this process: longer, and it hangs.
constexpr std::chrono::seconds kDescribeTimeout{2};
constexpr std::chrono::seconds kDrainTimeout{5};

}  // namespace

gateway::ReadyParts ready_parts_of_gateway(bool is_ready) {
    return {{.name = "gateway",
             .is_ready = is_ready,
             .words = is_ready ? "it takes requests"
                               : "it ends, or not every model has had its workers yet: /ready?verbose at the port for "
                                 "clients says which"}};
}

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

base::Result<std::unique_ptr<LocalStack>> LocalStack::start(const ServeOptions& options) {
    auto stack = std::unique_ptr<LocalStack>(new LocalStack());
    std::optional<ReadPlacement> planned;
    if (!options.plan.empty()) {
        auto read = read_placement(options.plan);
        if (!read) { return base::pass_on(read); }
        for (const std::string& warning : read->placement.warnings) {
            spdlog::warn("{}: {}", options.plan, warning);
        }
        planned = std::move(*read);
    } else if (options.mixed == 0 && (options.prefill == 0 || options.decode == 0)) {
        return base::fail(ErrorCode::invalid_argument,
                          "nobody can serve a whole request: use --prefill N --decode M (both > 0), or --mixed K");
    }
    auto config =
        read_config(options.common, planned ? settings_yaml(planned->placement.settings) : std::string(), options.plan);
    if (!config) { return base::pass_on(config); }
    set_log_level(read_log_level(*config, options.common));
    const auto log_file = base::LogFile::read(*config);
    const auto admin_keys_file = read_admin_keys_file(*config);

    auto cluster = read_cluster(*config, true);
    if (!cluster) { return base::pass_on(cluster); }
    if (cluster->certificates) {
        return base::fail(base::ErrorCode::invalid_argument,
                          "cluster.certificate_file is for roles that run as processes of their own; serve is one "
                          "process, whose roles meet on loopback alone");
    }
    const auto scheduler_options = scheduler::SchedulerOptions::read(*config);
    read_lease_access(*config);  // of schedulers that are not alone
    auto gateway_options = gateway::GatewayOptions::read(*config);
    const auto text_options = read_text_config(*config);
    WorkerSetup common_setup;
    read_worker_config(*config, common_setup);
    common_setup.text = text_options;
    const auto tracing = TracingOptions::read(*config);
    if (const auto read = config->finish(); !read) { return base::pass_on(read); }
    if (const auto opened = log_file.open("serve"); !opened) { return base::pass_on(opened); }
    const KvTierSettings& tiers = common_setup.kv_tiers;
    if (cluster->is_minted && (!tiers.disk_path.empty() || tiers.s3.is_on())) {
        const auto key = kept_key(tiers);
        if (!key) { return base::pass_on(key); }
        cluster->key = *key;
    }
    if (const auto allowed = check_kv_plane(common_setup.kv_plane, options.common, *cluster); !allowed) {
        return base::pass_on(allowed);
    }
    if (const auto allowed = check_kv_events(common_setup.kv_events, *cluster); !allowed) {
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
    std::vector<gateway::ServedModel> served;  // in name only: before anything is loaded
    for (const NamedModel& one : all) {
        const bool is_encoder = served.size() >= named->size();
        served.push_back({.name = one.name,
                          .text = nullptr,
                          .aliases = {},
                          .kind = is_encoder ? gateway::ModelKind::vectors : gateway::ModelKind::text});
    }
    const gateway::CacheOptions& cache = gateway_options.cache;
    if (const auto checked = gateway::check_in_context(cache.in_context, cache.enabled, served); !checked) {
        return base::pass_on(checked);
    }
    if (const auto checked = gateway::check_question_encoder(cache, served); !checked) {
        return base::pass_on(checked);
    }
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

    std::vector<StackPool> pools;
    if (planned) {
        auto read = planned_pools(planned->placement, options.common);
        if (!read) { return base::pass_on(read); }
        pools = std::move(*read);
    } else {
        for (const auto& [role, count] :
             {std::pair(worker::Role::prefill, options.prefill), std::pair(worker::Role::decode, options.decode),
              std::pair(worker::Role::mixed, options.mixed)}) {
            if (count > 0) { pools.push_back({.role = role, .count = count, .setup = common_setup}); }
        }
    }

    tell_version(stack->metrics_);
    auto exporter = start_exporter(tracing, "sluice", stack->metrics_);
    if (!exporter) { return base::pass_on(exporter); }
    stack->exporter_ = std::move(*exporter);
    auto scheduler = scheduler::SchedulerServer::start(scheduler_options, "127.0.0.1:0", stack->clock_, stack->metrics_,
                                                       cluster->control());
    if (!scheduler) { return base::pass_on(scheduler); }
    stack->scheduler_ = std::move(*scheduler);

    std::uint32_t of_model = 0;
    for (const StackPool& pool : pools) {
        of_model += pool.count;
    }
    const auto generating = of_model * static_cast<std::uint32_t>(named->size());
    const auto workers = generating + options.encode * static_cast<std::uint32_t>(encoders->size());
    const std::uint32_t cores = options.threads == 0 ? usable_cores() : options.threads;
    const std::vector<std::uint32_t> threads = divide_cores(cores, workers);
    if (workers > cores) { spdlog::warn("{} workers share {} cores", workers, cores); }
    const auto models_needed = plan_memory(*named, *encoders, pools, common_setup);
    if (!models_needed) { return base::pass_on(models_needed); }
    stack->models_ = *models_needed;
    if (planned) {
        const auto checked = check_against_plan(planned->plan, pools, stack->models_);
        if (!checked) { return base::pass_on(checked); }
    }
    stack->workers_each_ = of_model;
    const auto start_worker = [&](WorkerSetup setup, const NamedModel& model,
                                  std::uint32_t number) -> base::Result<void> {
        setup.name = fmt::format("{}-{}", worker::role_name(setup.role), number);
        setup.served_name = model.name;
        setup.spans = stack->exporter_.get();
        setup.scheduler_addresses = {stack->scheduler_->address()};
        setup.cluster = *cluster;
        setup.engine.model_dir = model.dir;
        setup.kv_events.rank = static_cast<std::uint32_t>(stack->workers_.size());
        auto progress = load_progress(setup.name);
        auto worker = WorkerProcess::start(std::move(setup), stack->clock_, stack->metrics_, std::move(progress));
        if (!worker) { return base::pass_on(worker); }
        stack->workers_.push_back(std::move(*worker));
        return {};
    };
    std::map<worker::Role, std::uint32_t> numbers;  // of each role, over all models
    for (std::size_t index = 0; index < named->size(); ++index) {
        for (const StackPool& pool : pools) {
            for (std::uint32_t number = 0; number < pool.count; ++number) {
                WorkerSetup setup = pool.setup_of(number, generating);
                const bool is_said = pool.threads > 0 && options.threads == 0;
                setup.engine.threads = is_said ? pool.threads : threads[stack->workers_.size()];
                setup.engine.kv_pool_bytes = pool.kv_pool_bytes[index];
                const auto started = start_worker(std::move(setup), (*named)[index], numbers[pool.role]++);
                if (!started) { return base::pass_on(started); }
            }
        }
    }

    for (std::uint32_t index = 0; index < encoders->size(); ++index) {
        for (std::uint32_t number = index * options.encode; number < (index + 1) * options.encode; ++number) {
            WorkerSetup setup = common_setup;
            setup.role = worker::Role::encode;
            setup.engine.threads = threads[stack->workers_.size()];
            setup.engine.kv_pool_bytes = 0;
            put_on_host(setup.engine);
            if (const auto started = start_worker(std::move(setup), (*encoders)[index], number); !started) {
                return base::pass_on(started);
            }
        }
    }

    auto gateway = gateway::GatewayServer::start(
        {.options = gateway_options,
         .models = std::move(*models),
         .scheduler_addresses = {stack->scheduler_->address()},
         .hash_key = cluster->key,
         .control = cluster->control(),
         .clock = stack->clock_,
         .metrics = stack->metrics_,
         .tracing = {.spans = stack->exporter_.get(), .sampled_share = tracing.sampled_share}});
    if (!gateway) { return base::pass_on(gateway); }
    stack->gateway_ = std::move(*gateway);
    stack->has_page_ = gateway_options.has_page;
    if (auto admin = stack->start_admin(options, gateway_options, admin_keys_file, cluster->control()); !admin) {
        return base::pass_on(admin);
    }
    return stack;
}

base::Result<void> LocalStack::start_admin(const ServeOptions& options, const gateway::GatewayOptions& gateway,
                                           const std::string& keys_file, const proto::ClusterKey& key) {
    if (options.admin_port < 0) {
        if (gateway.fleet_page == gateway::FleetPage::on) {
            spdlog::warn("gateway.fleet_page is on, and there is no port for it: add --admin-port PORT");
        }
        return {};
    }
    has_fleet_page_ = gateway.has_fleet_page();
    std::unique_ptr<FleetDesk> desk;
    if (has_fleet_page_) {
        scheduler_access_ = std::make_unique<SchedulerAccess>(std::vector{scheduler_->address()}, key);
        FleetDesk::Setup setup{
            .look = [this] { return look_at_itself(); },
            .describe = [this] { return scheduler_access_->describe(kDescribeTimeout); },
            .drain = [this](std::uint64_t worker,
                            std::uint64_t life) { return scheduler_access_->drain(worker, life, kDrainTimeout); },
            .keys_file = gateway.keys_file,
            .clock = clock_};
        if (gateway.keys_file.empty()) {
            fleet_key_ = make_admin_key();
            setup.keys = {fleet_key_.key};
        }
        auto opened = FleetDesk::open(std::move(setup));
        if (!opened) { return base::pass_on(opened, "gateway.keys_file"); }
        desk = std::move(*opened);
    }
    auto admin = AdminServer::start(
        host_, static_cast<std::uint16_t>(options.admin_port), options.common.listen_public, clock_, metrics_,
        [is_ready = is_ready_] { return ready_parts_of_gateway(*is_ready); }, [this] { gateway_->refresh_metrics(); },
        std::move(desk), keys_file);
    if (!admin) { return base::pass_on(admin); }
    admin_ = std::move(*admin);
    return {};
}

TopMoment LocalStack::look_at_itself() {
    gateway_->refresh_metrics();
    TopMoment moment;
    TopSource& self = moment.sources.emplace_back();
    self.url = address();
    auto samples = parse_metrics(metrics_.text());
    if (samples) {
        self.samples = std::move(*samples);
    } else {
        self.problem = samples.error().message;
    }
    moment.at = clock_.now();
    moment.unix_s = static_cast<double>(clock_.unix_us()) / 1e6;
    return moment;
}

LocalStack::~LocalStack() {
    drain_and_stop();
}

std::uint16_t LocalStack::port() const {
    return gateway_->port();
}

std::string LocalStack::address() const {
    return fmt::format("{}://{}:{}", scheme_, host_, port());
}

std::string LocalStack::banner() const {
    std::string text = fmt::format("sluice serves {} at {}/v1\n", joined(served_names_), address());
    if (has_page_) { text += fmt::format("  a chat in the browser at {}/\n", address()); }
    if (admin_ != nullptr) {
        const std::string admin = fmt::format("http://{}:{}", host_, admin_->port());
        text += fmt::format("  admin at {}/metrics\n", admin);
        if (has_fleet_page_) {
            text +=
                fmt::format("  the fleet page at {}/fleet, {}\n", admin,
                            fleet_key_.secret.empty() ? "for keys of scope admin"
                                                      : "with the key " + fleet_key_.secret + ", made for this run");
        }
    }
    text += fmt::format("  scheduler at {}\n", scheduler_->address());
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
    gateway_->when_ready([ready, is_ready = is_ready_] {
        *is_ready = true;
        ready->set();
    });
    // Who is ready may serve somebody already, and ends in order; /health may have said so before anybody asked here.
    const bool is_ready = ready->wait(patience) || gateway_->is_ready();
    if (!is_ready) { end_if_asked(); }
    return is_ready;
}

std::optional<base::Error> LocalStack::device_lost() const {
    for (const auto& worker : workers_) {
        if (auto lost = worker->device_lost()) { return lost; }
    }
    return std::nullopt;
}

base::Result<void> LocalStack::change(const AllSettings& settings) {
    if (auto changed = gateway_->change(settings.gateway); !changed) { return changed; }
    scheduler_->set_class_rules(settings.class_rules);
    return {};
}

void LocalStack::drain_and_stop() {
    *is_ready_ = false;
    if (gateway_ != nullptr && device_lost()) {
        gateway_->give_up_and_stop();  // all workers of a process use one device: nobody is left to place requests at
    } else if (gateway_ != nullptr) {
        gateway_->drain_and_stop();
    }
    for (auto worker = workers_.rbegin(); worker != workers_.rend(); ++worker) {
        (*worker)->drain_and_stop();
    }
    if (scheduler_ != nullptr) { scheduler_->drain_and_stop(); }
    admin_.reset();  // it looks at the others
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
    auto* prefill =
        app.add_option("--prefill", options.prefill, "prefill workers of each model")->capture_default_str();
    auto* decode = app.add_option("--decode", options.decode, "decode workers of each model")->capture_default_str();
    auto* mixed = app.add_option("--mixed", options.mixed, "workers of each model that do both phases (colocated)")
                      ->capture_default_str();
    app.add_option("--plan", options.plan,
                   "a placement file of sluice plan --out (docs/planning.md): its pools, limits and SLO classes; "
                   "settings count over it")
        ->excludes(prefill)
        ->excludes(decode)
        ->excludes(mixed);
    app.add_option("--encode", options.encode, "workers of each encoder")
        ->check(CLI::Range(1, 1024))
        ->capture_default_str();
    app.add_option("--threads", options.threads, "compute threads of all workers together; 0: the machine's cores")
        ->capture_default_str();
    app.add_option("--admin-port", options.admin_port,
                   "also serve /metrics, /live and /ready on this port, with API keys if admin.keys_file names some, "
                   "and the fleet page where "
                   "gateway.fleet_page has it; 0: any free one; default: not");
    add_common_flags(app, options.common);
}

int serve_main(const ServeOptions& options) {
    base::init_log({.role = "serve", .level = options.common.log_level});
    Reloader reloader;
    auto stack = LocalStack::start(options);
    if (!stack) { return report(stack.error()); }
    reloader.start(options.common, true, (*stack)->metrics(),
                   [served = stack->get()](const AllSettings& settings) { return served->change(settings); });
    if (!(*stack)->wait_until_ready(std::chrono::seconds(30))) { spdlog::warn("the workers are not registered yet"); }
    std::fprintf(stderr, "%s", (*stack)->banner().c_str());
    wait_for_end();
    unblock_signals();
    spdlog::info("ending: finishing what runs (a second signal ends at once)");
    reloader.stop();
    const auto lost = (*stack)->device_lost();
    (*stack)->drain_and_stop();
    return lost ? report(*lost) : 0;
}

}  // namespace cli
