#include "cli/serve.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <thread>
#include <utility>

#include "base/gguf_model.h"
#include "base/log.h"
#include "cli/divide_cores.h"
#include "cli/http_probe.h"
#include "gateway/model_text.h"
#include "text/model_text.h"

namespace cli {

using base::ErrorCode;

std::string served_name(const std::string& flag, const std::string& setting, const std::string& model_dir) {
    if (!flag.empty()) { return flag; }
    if (setting != gateway::GatewayOptions{}.model) { return setting; }
    std::filesystem::path path(model_dir);
    if (base::is_gguf(path)) { return base::gguf_model_name(path); }  // as given: a link may lead to a mere hash
    std::error_code error;
    if (const auto absolute = std::filesystem::canonical(path, error); !error) { path = absolute; }
    return path.has_filename() ? path.filename().string() : path.parent_path().filename().string();
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
    const std::uint32_t workers = options.prefill + options.decode + options.mixed;
    if (options.mixed == 0 && (options.prefill == 0 || options.decode == 0)) {
        return base::fail(ErrorCode::invalid_argument,
                          "nobody can serve a whole request: use --prefill N --decode M (both > 0), or --mixed K");
    }
    auto config = read_config(options.common);
    if (!config) { return base::pass_on(config); }

    const auto key = cluster_key(*config, true);
    if (!key) { return base::pass_on(key); }
    const auto scheduler_options = scheduler::SchedulerOptions::read(*config);
    auto gateway_options = gateway::GatewayOptions::read(*config);
    WorkerSetup common_setup;
    read_worker_config(*config, common_setup);
    if (const auto read = config->finish(); !read) { return base::pass_on(read); }
    stack->served_name_ = cli::served_name(options.served_name, gateway_options.model, options.model_dir);
    gateway_options.http.host = options.host.value_or(gateway_options.http.host);
    gateway_options.http.port = options.port.value_or(gateway_options.http.port);
    gateway_options.http.allow_public |= options.common.listen_public;
    stack->host_ = gateway_options.http.host;
    stack->merged_config_ = config->merged();
    spdlog::debug("configuration in effect:\n{}", stack->merged_config_);

    auto text = text::ModelText::load(options.model_dir);
    if (!text) { return base::pass_on(text); }

    auto scheduler =
        scheduler::SchedulerServer::start(scheduler_options, "127.0.0.1:0", stack->clock_, stack->metrics_);
    if (!scheduler) { return base::pass_on(scheduler); }
    stack->scheduler_ = std::move(*scheduler);

    const std::uint32_t cores = options.threads == 0 ? usable_cores() : options.threads;
    const std::vector<std::uint32_t> threads = divide_cores(cores, workers);
    if (workers > cores) { spdlog::warn("{} workers share {} cores", workers, cores); }
    std::uint32_t index = 0;
    const auto start_role = [&](worker::Role role, std::uint32_t count) -> base::Result<void> {
        for (std::uint32_t i = 0; i < count; ++i, ++index) {
            WorkerSetup setup = common_setup;
            setup.role = role;
            setup.name = fmt::format("{}-{}", worker::role_name(role), i);
            setup.served_name = stack->served_name_;
            setup.scheduler_address = stack->scheduler_->address();
            setup.hash_key = *key;
            setup.engine.model_dir = options.model_dir;
            setup.engine.threads = threads[index];
            setup.engine.gpu_memory_share /= workers;  // all on one GPU
            auto worker = WorkerProcess::start(std::move(setup), stack->clock_, stack->metrics_,
                                               load_progress(fmt::format("{}-{}", worker::role_name(role), i)));
            if (!worker) { return base::pass_on(worker); }
            stack->workers_.push_back(std::move(*worker));
        }
        return {};
    };
    for (const auto& [role, count] :
         {std::pair(worker::Role::prefill, options.prefill), std::pair(worker::Role::decode, options.decode),
          std::pair(worker::Role::mixed, options.mixed)}) {
        if (const auto started = start_role(role, count); !started) { return base::pass_on(started); }
    }

    gateway_options.model = stack->served_name_;
    auto gateway = gateway::GatewayServer::start({.options = gateway_options,
                                                  .text = gateway::make_text_port(std::move(*text)),
                                                  .scheduler_address = stack->scheduler_->address(),
                                                  .hash_key = *key,
                                                  .clock = stack->clock_,
                                                  .metrics = stack->metrics_});
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
    std::string text = fmt::format("sluice serves {} at http://{}:{}/v1\n  scheduler at {}\n", served_name_, host_,
                                   port(), scheduler_->address());
    for (const auto& worker : workers_) {
        text += "  " + worker->describe() + "\n";
    }
    return text;
}

bool LocalStack::wait_until_ready(base::Duration patience) const {
    const base::TimePoint give_up = clock_.now() + patience;
    while (!answers_ok(port(), "/health")) {
        if (clock_.now() >= give_up) { return false; }
        end_if_asked();
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    return true;
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
    app.add_option("--model", options.model_dir, "Hugging Face model folder, or a GGUF file")->required();
    app.add_option("--served-name", options.served_name,
                   "model name in the API; default: the folder's or the file's name");
    app.add_option("--host", options.host, "address to listen on; default 127.0.0.1");
    app.add_option("--port", options.port, "port to listen on; 0: any free one; default 8000");
    app.add_option("--prefill", options.prefill, "prefill workers")->capture_default_str();
    app.add_option("--decode", options.decode, "decode workers")->capture_default_str();
    app.add_option("--mixed", options.mixed, "workers that do both phases (colocated)")->capture_default_str();
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
