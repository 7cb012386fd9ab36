#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "base/crash_report.h"
#include "base/log.h"
#include "bench/cache_churn.h"
#include "bench/cache_index.h"
#include "bench/cache_replay.h"
#include "bench/codec_speed.h"
#include "bench/embed_texts.h"
#include "bench/engine_steps.h"
#include "bench/in_context.h"
#include "bench/kernels.h"
#include "bench/kv_calibrate.h"
#include "bench/kv_quality.h"
#include "bench/kv_rates.h"
#include "bench/machine.h"
#include "bench/perplexity.h"
#include "bench/scheduler_decisions.h"
#include "bench/serve.h"
#include "bench/swap.h"
#include "bench/switching.h"
#include "bench/transfer.h"
#include "cli/autopilot.h"
#include "cli/cache.h"
#include "cli/certs.h"
#include "cli/completion.h"
#include "cli/doctor.h"
#include "cli/drain.h"
#include "cli/explain.h"
#include "cli/fleet.h"
#include "cli/keys.h"
#include "cli/man_page.h"
#include "cli/model/commands.h"
#include "cli/model/resolve.h"
#include "cli/model_make.h"
#include "cli/plan.h"
#include "cli/process.h"
#include "cli/render.h"
#include "cli/roles.h"
#include "cli/run.h"
#include "cli/serve.h"
#include "cli/simulate.h"
#include "cli/smoke.h"
#include "cli/tokenize.h"
#include "cli/top.h"
#include "cli/turn.h"
#include "net/ucx_environment.h"
#include "text/text_host.h"

namespace {

using cli::model::FirstUse;

int status_of(const base::Result<void>& done) {
    return done ? 0 : cli::report(done.error());
}

/// Puts a path in the place of each MODEL of `[NAME=]MODEL`; `names` gets what a path's model is called if the path
/// does not say it. What makes no sense is left for read_models() to say.
base::Result<void> resolve_models(std::vector<std::string>& models, std::map<std::string, std::string>& names,
                                  FirstUse first_use) {
    for (std::string& text : models) {
        std::error_code ignored;
        const auto split = text.find('=');
        const bool is_named = split != std::string::npos && !std::filesystem::exists(text, ignored);
        const std::string given = is_named ? text.substr(split + 1) : text;
        if (given.empty()) { continue; }
        const auto resolved = cli::model::resolve_model(given, first_use, cli::end_asked);
        if (!resolved) { return base::pass_on(resolved); }
        text = (is_named ? text.substr(0, split + 1) : "") + resolved->path;
        if (!is_named && !resolved->name.empty()) { names[text] = resolved->name; }
    }
    return {};
}

/// Runs a subcommand with the models that are given, or with the one for those who name none.
int with_chat_models(cli::ServeOptions& serve, const std::function<int()>& run) {
    if (const auto done = resolve_models(serve.encoders, serve.model_names, FirstUse::pull); !done) {
        return cli::report(done.error());
    }
    if (serve.models.empty()) {
        const auto resolved = cli::model::resolve_default_model(cli::end_asked);
        if (!resolved) { return cli::report(resolved.error()); }
        serve.models = {resolved->path};
        serve.model_names[resolved->path] = resolved->name;
        return run();
    }
    const auto done = resolve_models(serve.models, serve.model_names, FirstUse::pull);
    return done ? run() : cli::report(done.error());
}

/// Runs a subcommand with the path of the model that its `--model` means; `name`, where there is one, gets what the
/// model is called if the path does not say it.
template <class Path>
int with_model(Path& model, std::string* name, FirstUse first_use, const std::function<int()>& run) {
    const auto resolved = cli::model::resolve_model(std::filesystem::path(model).string(), first_use, cli::end_asked);
    if (!resolved) { return cli::report(resolved.error()); }
    model = resolved->path;
    if (name != nullptr) { *name = resolved->name; }
    return run();
}

/// Picks the subcommand. Each reads its settings, builds its objects in dependency order, runs and takes them down.
int run(int argc, char** argv) {
    cli::block_signals();
    base::init_log({.role = "", .level = "warn"});  // standard output is for results; roles set up their own
    net::prepare_ucx_environment();                 // before there are threads that read the environment
    base::report_crashes(cli::version_line());      // after UCX's handlers are taken out
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
    cli::add_serve(*command(app, "serve", "every role in one process",
                            [&] { return with_chat_models(serve, [&] { return cli::serve_main(serve); }); }),
                   serve);
    cli::GatewayCommand gateway;
    cli::add_gateway(*command(app, "gateway", "the HTTP front",
                              [&] {
                                  auto done = resolve_models(gateway.models, gateway.model_names, FirstUse::refuse);
                                  if (done) {
                                      done = resolve_models(gateway.encoders, gateway.model_names, FirstUse::refuse);
                                  }
                                  return done ? cli::gateway_main(gateway) : cli::report(done.error());
                              }),
                     gateway);
    cli::SchedulerCommand scheduler;
    cli::add_scheduler(
        *command(app, "scheduler", "decides where requests run", [&] { return cli::scheduler_main(scheduler); }),
        scheduler);
    const auto run_worker = [](cli::WorkerCommandLine& worker) {
        return with_model(worker.model_dir, &worker.model_name, FirstUse::refuse,
                          [&] { return cli::worker_main(worker); });
    };
    cli::WorkerCommandLine prefill;
    prefill.role = worker::Role::prefill;
    cli::add_worker(*command(app, "prefill", "a worker that computes prompts", [&] { return run_worker(prefill); }),
                    prefill);
    cli::WorkerCommandLine decode;
    decode.role = worker::Role::decode;
    cli::add_worker(*command(app, "decode", "a worker that generates tokens", [&] { return run_worker(decode); }),
                    decode);
    cli::WorkerCommandLine mixed;
    mixed.role = worker::Role::mixed;
    cli::add_worker(*command(app, "mixed", "a worker that does both", [&] { return run_worker(mixed); }), mixed);

    cli::WorkerCommandLine encode;
    encode.role = worker::Role::encode;
    cli::add_worker(*command(app, "encode", "a worker that makes vectors of texts", [&] { return run_worker(encode); }),
                    encode);

    cli::DrainCommand drain;
    cli::add_drain(*command(app, "drain", "a worker finishes what it has and gets nothing new",
                            [&] { return cli::drain_main(drain); }),
                   drain);
    cli::TurnCommand turn;
    cli::add_turn(*command(app, "turn", "a worker becomes one of another role while it runs",
                           [&] { return cli::turn_main(turn); }),
                  turn);
    cli::AutopilotCommand autopilot;
    cli::add_autopilot(
        *command(app, "autopilot", "keeps the workers of a running cluster in the roles that its work asks for",
                 [&] { return cli::autopilot_main(autopilot); }),
        autopilot);
    CLI::App* keys = app.add_subcommand("keys", "API keys of a gateway (gateway.keys_file)");
    keys->require_subcommand(1);
    cli::KeysCommand keys_add;
    cli::add_keys_add(
        *command(*keys, "add", "makes a key and prints it, this once", [&] { return cli::keys_add_main(keys_add); }),
        keys_add);
    cli::KeysCommand keys_list;
    cli::add_keys_list(*command(*keys, "list", "who may do what", [&] { return cli::keys_list_main(keys_list); }),
                       keys_list);
    cli::KeysCommand keys_revoke;
    cli::add_keys_revoke(*command(*keys, "revoke", "takes a key out; running gateways follow within a second",
                                  [&] { return cli::keys_revoke_main(keys_revoke); }),
                         keys_revoke);

    CLI::App* certs = app.add_subcommand("certs", "certificates between the processes of a cluster");
    certs->require_subcommand(1);
    cli::CertsCommand certs_make;
    cli::add_certs_make(*command(*certs, "make", "an authority, and a certificate for each role",
                                 [&] { return cli::certs_make_main(certs_make); }),
                        certs_make);

    CLI::App* answers = app.add_subcommand("cache", "the cache in front of a gateway's models (caching.enabled)");
    answers->require_subcommand(1);
    cli::CacheCommand cache_stats;
    cli::add_cache_stats(*command(*answers, "stats", "what it holds, and what it got wrong",
                                  [&] { return cli::cache_stats_main(cache_stats); }),
                         cache_stats);
    cli::CacheCommand cache_ls;
    cli::add_cache_ls(*command(*answers, "ls", "the answers that it holds, used last first",
                               [&] { return cli::cache_ls_main(cache_ls); }),
                      cache_ls);
    cli::CacheCommand cache_examples;
    cli::add_cache_examples(
        *command(*answers, "examples", "what a small model is shown (caching.in_context), the most valuable first",
                 [&] { return cli::cache_examples_main(cache_examples); }),
        cache_examples);
    cli::CacheCommand cache_export;
    cli::add_cache_export(*command(*answers, "export", "the answers with their texts, one JSON object a line",
                                   [&] { return cli::cache_export_main(cache_export); }),
                          cache_export);
    cli::CacheCommand cache_purge;
    cli::add_cache_purge(*command(*answers, "purge", "removes answers: all that is said of them must hold",
                                  [&] { return cli::cache_purge_main(cache_purge); }),
                         cache_purge);

    cli::ExplainCommand explain;
    cli::add_explain(*command(app, "explain", "why requests were late, and what would help",
                              [&] { return cli::explain_main(explain); }),
                     explain);

    cli::SmokeCommand smoke;
    cli::add_smoke(*command(app, "smoke", "whether a gateway does what its clients need, in a few requests",
                            [&] { return cli::smoke_main(smoke); }),
                   smoke);
    cli::TopCommand top;
    cli::add_top(*command(app, "top", "what the processes of a cluster do, live", [&] { return cli::top_main(top); }),
                 top);
    cli::FleetCommand fleet;
    cli::add_fleet(*command(app, "fleet", "the same as a page for a browser, where workers can be drained",
                            [&] { return cli::fleet_main(fleet); }),
                   fleet);

    cli::PlanFitCommand plan_fit;
    cli::PlanPoolsCommand plan_pools;
    std::function<int()> plan_part;  // its subcommand, where one is given
    cli::PlanCommand plan;
    CLI::App* planner = command(app, "plan", "which workers a workload needs, before anything is bought",
                                [&] { return plan_part ? plan_part() : cli::plan_main(plan); });
    cli::add_plan(*planner, plan);
    CLI::App* fit = planner->add_subcommand("fit", "a workload file from a trace");
    cli::add_plan_fit(*fit, plan_fit);
    fit->callback([&] { plan_part = [&] { return cli::plan_fit_main(plan_fit); }; });
    CLI::App* pools = planner->add_subcommand("pools", "the processes that a placement file means here, for scripts");
    cli::add_plan_pools(*pools, plan_pools);
    pools->callback([&] {
        plan_part = [&] {
            std::string name;
            return with_model(plan_pools.model, &name, FirstUse::refuse, [&] {
                if (!name.empty()) { plan_pools.model_names[plan_pools.model] = name; }
                return cli::plan_pools_main(plan_pools);
            });
        };
    });
    cli::SimulateCommand simulate;
    cli::add_simulate(*command(app, "simulate", "what would happen, on a virtual clock",
                               [&] { return cli::simulate_main(simulate); }),
                      simulate);

    cli::RunOptions run;
    cli::add_run(*command(app, "run", "a prompt or a chat in the terminal",
                          [&] { return with_chat_models(run.serve, [&] { return cli::run_main(run); }); }),
                 run);
    cli::TokenizeOptions tokenize;
    on(cli::add_tokenize_command(app, tokenize), [&] {
        return with_model(tokenize.path, nullptr, FirstUse::refuse, [&] { return cli::tokenize_main(tokenize); });
    });
    cli::RenderOptions render;
    on(cli::add_render_command(app, render),
       [&] { return with_model(render.path, nullptr, FirstUse::refuse, [&] { return cli::render_main(render); }); });

    CLI::App* model = app.add_subcommand("model", "models: fetch, look at, make");
    model->require_subcommand(1);
    cli::ModelMakeOptions make;
    cli::add_model_make(
        *command(*model, "make", "a random checkpoint of a named shape", [&] { return cli::model_make_main(make); }),
        make);

    cli::model::PullCommand pull;
    cli::model::add_pull(*command(*model, "pull", "fetch a model into the store",
                                  [&] { return status_of(cli::model::run_pull(pull, cli::end_asked)); }),
                         pull);
    command(*model, "list", "what the store holds and the catalogue offers",
            [] { return status_of(cli::model::run_list(cli::end_asked)); });
    cli::model::NameCommand show;
    cli::model::add_show(*command(*model, "show", "what a model is, needs and comes from",
                                  [&] { return status_of(cli::model::run_show(show, cli::end_asked)); }),
                         show);
    cli::model::NameCommand remove;
    cli::model::add_remove(*command(*model, "remove", "delete a model from the store",
                                    [&] { return status_of(cli::model::run_remove(remove, cli::end_asked)); }),
                           remove);
    CLI::App* cache = model->add_subcommand("cache", "the packed weights that engines keep");
    cache->require_subcommand(1);
    std::string packed_dir;
    cli::model::add_cache_list(*command(*cache, "list", "what is kept, and what of it is in use",
                                        [&] { return status_of(cli::model::run_cache_list(packed_dir)); }),
                               packed_dir);
    cli::model::PruneCommand prune;
    cli::model::add_cache_prune(*command(*cache, "prune", "remove what is not in use",
                                         [&] { return status_of(cli::model::run_cache_prune(prune)); }),
                                prune);

    CLI::App* config = app.add_subcommand("config", "settings");
    config->require_subcommand(1);
    cli::ConfigCommand check;
    CLI::App* checker =
        command(*config, "check", "report unknown keys and bad values", [&] { return cli::config_main(check); });
    checker->add_option("files", check.files, "YAML settings, as behind --config");
    cli::add_common_flags(*checker, check.common);
    command(*config, "schema", "a JSON Schema of all settings, for editors", [] { return cli::config_schema_main(); });
    cli::ConfigCommand print;
    print.print = true;
    cli::add_common_flags(*command(*config, "print", "the settings in effect", [&] { return cli::config_main(print); }),
                          print.common);

    cli::ConfigDiffCommand diff;
    cli::add_config_diff(*command(*config, "diff", "settings that two files have otherwise, and which need a restart",
                                  [&] { return cli::config_diff_main(diff); }),
                         diff);

    CLI::App* kv = app.add_subcommand("kv", "KV on the wire");
    kv->require_subcommand(1);
    bench::KvCalibrateOptions kv_calibrate;
    bench::add_kv_calibrate(*command(*kv, "calibrate", "a model's profile for the KV codec sluice",
                                     [&] {
                                         return with_model(kv_calibrate.trial.model_dir, nullptr, FirstUse::refuse,
                                                           [&] { return bench::kv_calibrate_main(kv_calibrate); });
                                     }),
                            kv_calibrate);

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
                                     [&] {
                                         return with_model(bench_engine.model_dir, nullptr, FirstUse::refuse,
                                                           [&] { return bench::bench_engine_main(bench_engine); });
                                     }),
                            bench_engine);
    bench::PerplexityOptions bench_perplexity;
    bench::add_bench_perplexity(*command(*bench, "perplexity", "how likely a model finds a text",
                                         [&] {
                                             return with_model(
                                                 bench_perplexity.model_dir, nullptr, FirstUse::refuse,
                                                 [&] { return bench::bench_perplexity_main(bench_perplexity); });
                                         }),
                                bench_perplexity);
    bench::EmbedBenchOptions bench_embed;
    bench::add_bench_embed(*command(*bench, "embed", "vectors of texts by a sentence encoder",
                                    [&] {
                                        return with_model(bench_embed.model_dir, nullptr, FirstUse::refuse,
                                                          [&] { return bench::bench_embed_main(bench_embed); });
                                    }),
                           bench_embed);
    bench::CacheChurnOptions cache_churn;
    bench::add_bench_cache_churn(
        *command(*bench, "cache-churn", "the semantic cache at capacity for a day on a virtual clock",
                 [&] { return bench::bench_cache_churn_main(cache_churn); }),
        cache_churn);
    bench::CacheIndexOptions cache_index;
    bench::add_bench_cache_index(
        *command(*bench, "cache-index", "the search of similar questions, in large and in many partitions",
                 [&] { return bench::bench_cache_index_main(cache_index); }),
        cache_index);
    bench::InContextBenchOptions in_context;
    bench::add_bench_in_context(
        *command(*bench, "in-context", "the in-context cache between two played models of known quality",
                 [&] { return bench::bench_in_context_main(in_context); }),
        in_context);
    bench::CacheBenchOptions bench_cache;
    bench::add_bench_cache(*command(*bench, "cache", "the cache in front, on a trace or on pairs with an oracle",
                                    [&] {
                                        if (bench_cache.embedder == "hashed") {
                                            return bench::bench_cache_main(bench_cache);
                                        }
                                        return with_model(bench_cache.embedder, nullptr, FirstUse::refuse,
                                                          [&] { return bench::bench_cache_main(bench_cache); });
                                    }),
                           bench_cache);
    bench::SchedulerBenchOptions bench_scheduler;
    bench::add_bench_scheduler(*command(*bench, "scheduler", "placements a second, by number of workers",
                                        [&] { return bench::bench_scheduler_main(bench_scheduler); }),
                               bench_scheduler);
    bench::KernelsBenchOptions bench_kernels;
    bench::add_bench_kernels(*command(*bench, "kernels", "the engine's operators beside those limits",
                                      [&] { return bench::bench_kernels_main(bench_kernels); }),
                             bench_kernels);
    bench::TransferBenchOptions bench_transfer;
    bench::add_bench_transfer(*command(*bench, "transfer", "transports of KV beside each other",
                                       [&] { return bench::bench_transfer_main(bench_transfer); }),
                              bench_transfer);

    bench::SwapOptions bench_swap;
    bench::add_bench_swap(*command(*bench, "swap", "KV between the pool and the levels below it",
                                   [&] { return bench::bench_swap_main(bench_swap); }),
                          bench_swap);

    bench::SwitchingOptions bench_switching;
    bench::add_bench_switching(*command(*bench, "switching", "more conversations than KV memory holds",
                                        [&] { return bench::bench_switching_main(bench_switching); }),
                               bench_switching);

    bench::CodecSpeedOptions bench_codec;
    bench::add_bench_codec(
        *command(*bench, "codec", "the KV codecs on one core", [&] { return bench::bench_codec_main(bench_codec); }),
        bench_codec);
    bench::KvRatesOptions bench_rates;
    bench::add_bench_kv_rates(
        *command(*bench, "rates", "KV over slow wires on a virtual clock: who is late, and how it went",
                 [&] { return bench::bench_kv_rates_main(bench_rates); }),
        bench_rates);
    bench::KvQualityOptions bench_kv;
    bench::add_bench_kv(*command(*bench, "kv", "what the KV codecs do to a model",
                                 [&] {
                                     return with_model(bench_kv.trial.model_dir, nullptr, FirstUse::refuse,
                                                       [&] { return bench::bench_kv_main(bench_kv); });
                                 }),
                        bench_kv);

    CLI::App* completion =
        app.add_subcommand("completion", "a script by which a shell completes subcommands and flags");
    completion->require_subcommand(1);
    for (const auto& [name, shell, use] :
         {std::tuple{"bash", cli::Shell::bash, "for ~/.bashrc: source <(sluice completion bash)"},
          std::tuple{"zsh", cli::Shell::zsh, "for ~/.zshrc: source <(sluice completion zsh)"},
          std::tuple{"fish", cli::Shell::fish, "sluice completion fish > ~/.config/fish/completions/sluice.fish"}}) {
        command(*completion, name, use, [&app, shell = shell] {
            std::fputs(cli::completion_script(app, shell).c_str(), stdout);
            return 0;
        });
    }

    command(app, "man", "the manual page: sluice man > /usr/local/share/man/man1/sluice.1", [&app] {
        std::fputs(cli::man_page(app, SLUICE_VERSION).c_str(), stdout);
        return 0;
    });
    bool version_as_json = false;
    command(app, "version", "of what this program was built, and which protocol it speaks", [&version_as_json] {
        std::puts((version_as_json ? cli::version_json() : cli::version_line()).c_str());
        return 0;
    })->add_flag("--json", version_as_json, "as JSON");
    bool doctor_as_json = false;
    command(app, "doctor", "what this machine has and lacks", [&doctor_as_json] {
        return cli::doctor_main(doctor_as_json);
    })->add_flag("--json", doctor_as_json, "as JSON");

    CLI11_PARSE(app, argc, argv);
    return status;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc == 2 && argv[1] == text::kTextHostCommand) { return text::text_host_main(); }
    const int status = run(argc, argv);
    std::fflush(nullptr);
#ifdef SLUICE_SANITIZED
    return status;  // leaks are looked for on the way out
#else
    // All that is ours is gone. Libraries have threads yet (gRPC's timers, its late shutdown) that use what exit()
    // would destroy under them.
    std::_Exit(status);
#endif
}
