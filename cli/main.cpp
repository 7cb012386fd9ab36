#include <CLI/CLI.hpp>
#include <functional>
#include <string>

#include "bench/engine_steps.h"
#include "bench/kernels.h"
#include "bench/machine.h"
#include "bench/serve.h"
#include "cli/doctor.h"
#include "cli/drain.h"
#include "cli/model_make.h"
#include "cli/process.h"
#include "cli/render.h"
#include "cli/roles.h"
#include "cli/run.h"
#include "cli/serve.h"
#include "cli/tokenize.h"
#include "net/ucx_environment.h"

/// Picks the subcommand. Each reads its settings, builds its objects in dependency order and runs.
int main(int argc, char** argv) {
    cli::block_signals();
    net::prepare_ucx_environment();  // before there are threads that read the environment
    CLI::App app{"Sluice serves large language models with prefill and decode on separate pools."};
    app.set_version_flag("--version", std::string("sluice ") + SLUICE_VERSION);
    app.require_subcommand(1);
    int status = 0;
    const auto on = [&status](CLI::App* sub, std::function<int()> run) {
        sub->callback([&status, run = std::move(run)] { status = run(); });
        return sub;
    };
    const auto command = [&on](CLI::App& parent, const char* name, const char* help, std::function<int()> run) {
        return on(parent.add_subcommand(name, help), std::move(run));
    };

    cli::ServeOptions serve;
    cli::add_serve(*command(app, "serve", "every role in one process", [&] { return cli::serve_main(serve); }), serve);
    cli::GatewayCommand gateway;
    cli::add_gateway(*command(app, "gateway", "the HTTP front", [&] { return cli::gateway_main(gateway); }), gateway);
    cli::SchedulerCommand scheduler;
    cli::add_scheduler(
        *command(app, "scheduler", "decides where requests run", [&] { return cli::scheduler_main(scheduler); }),
        scheduler);
    cli::WorkerCommandLine prefill;
    prefill.role = worker::Role::prefill;
    cli::add_worker(
        *command(app, "prefill", "a worker that computes prompts", [&] { return cli::worker_main(prefill); }), prefill);
    cli::WorkerCommandLine decode;
    decode.role = worker::Role::decode;
    cli::add_worker(*command(app, "decode", "a worker that generates tokens", [&] { return cli::worker_main(decode); }),
                    decode);
    cli::WorkerCommandLine mixed;
    mixed.role = worker::Role::mixed;
    cli::add_worker(*command(app, "mixed", "a worker that does both", [&] { return cli::worker_main(mixed); }), mixed);

    cli::DrainCommand drain;
    cli::add_drain(*command(app, "drain", "a worker finishes what it has and gets nothing new",
                            [&] { return cli::drain_main(drain); }),
                   drain);

    cli::RunOptions run;
    cli::add_run(*command(app, "run", "a prompt or a chat in the terminal", [&] { return cli::run_main(run); }), run);
    cli::TokenizeOptions tokenize;
    on(cli::add_tokenize_command(app, tokenize), [&] { return cli::tokenize_main(tokenize); });
    cli::RenderOptions render;
    on(cli::add_render_command(app, render), [&] { return cli::render_main(render); });

    CLI::App* model = app.add_subcommand("model", "model folders");
    model->require_subcommand(1);
    cli::ModelMakeOptions make;
    cli::add_model_make(
        *command(*model, "make", "a random checkpoint of a named shape", [&] { return cli::model_make_main(make); }),
        make);

    CLI::App* config = app.add_subcommand("config", "settings");
    config->require_subcommand(1);
    cli::ConfigCommand check;
    cli::add_common_flags(
        *command(*config, "check", "report unknown keys and bad values", [&] { return cli::config_main(check); }),
        check.common);
    cli::ConfigCommand print;
    print.print = true;
    cli::add_common_flags(*command(*config, "print", "the settings in effect", [&] { return cli::config_main(print); }),
                          print.common);

    CLI::App* bench = app.add_subcommand("bench", "measurements");
    bench->require_subcommand(1);
    bench::ServeBenchOptions bench_serve;
    bench::add_bench_serve(
        *command(*bench, "serve", "load an OpenAI URL", [&] { return bench::bench_serve_main(bench_serve); }),
        bench_serve);
    bench::MachineBenchOptions bench_machine;
    bench::add_bench_machine(
        *command(*bench, "machine", "limits of this machine", [&] { return bench::bench_machine_main(bench_machine); }),
        bench_machine);

    bench::EngineBenchOptions bench_engine;
    bench::add_bench_engine(*command(*bench, "engine", "whole steps of the engine on a model",
                                     [&] { return bench::bench_engine_main(bench_engine); }),
                            bench_engine);
    bench::KernelsBenchOptions bench_kernels;
    bench::add_bench_kernels(*command(*bench, "kernels", "the engine's operators beside those limits",
                                      [&] { return bench::bench_kernels_main(bench_kernels); }),
                             bench_kernels);

    command(app, "doctor", "what this machine has and lacks", [] { return cli::doctor_main(); });

    CLI11_PARSE(app, argc, argv);
    return status;
}
