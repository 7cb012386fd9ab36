#include "cli/simulate.h"

#include <CLI/CLI.hpp>
#include <cstdio>

#include "cli/planning_files.h"
#include "cli/process.h"
#include "cli/simulate_plan.h"
#include "scheduler/planner/model.h"
#include "scheduler/planner/profile_tables.h"
#include "sim/replay_files.h"
#include "sim/vllm_replay.h"

namespace cli {
namespace {

using base::Result;

/// The texts of PREFIX's files.
struct Profile {
    std::string dense;
    std::string attention;
    std::string per_sequence;
    std::string moe;
};

Result<Profile> read_profile(const std::string& prefix) {
    Profile profile;
    struct Part {
        const char* ending;
        std::string* into;
        bool is_needed;
    };
    for (const Part& part :
         {Part{"_dense.csv", &profile.dense, true}, Part{"_attention.csv", &profile.attention, true},
          Part{"_per_sequence.csv", &profile.per_sequence, true}, Part{"_moe.csv", &profile.moe, false}}) {
        const auto path = find_planning_file(prefix, part.ending);
        if (!path && !part.is_needed) { continue; }
        if (!path) {
            return base::fail(base::ErrorCode::not_found,
                              "--profile: there is neither " + prefix + part.ending + " nor the same with .gz");
        }
        auto text = read_planning_file(*path);
        if (!text) { return base::pass_on(text); }
        *part.into = std::move(*text);
    }
    return profile;
}

Result<void> replay(const SimulateCommand& command) {
    const auto config = read_planning_file(command.model_config);
    if (!config) { return base::pass_on(config, "--model-config"); }
    auto model = scheduler::planner::read_model(*config);
    if (!model) { return base::pass_on(model, "--model-config"); }
    const auto machine_text = read_planning_file(command.machine);
    if (!machine_text) { return base::pass_on(machine_text, "--machine"); }
    const auto meta = read_planning_file(command.engine_meta);
    if (!meta) { return base::pass_on(meta, "--engine-meta"); }
    auto machine = sim::read_replay_machine(*machine_text, *meta, *model);
    if (!machine) { return base::pass_on(machine); }
    const auto memory = sim::replay_memory(*machine, *model);
    if (!memory) { return base::pass_on(memory); }
    const auto requests_text = read_planning_file(command.requests);
    if (!requests_text) { return base::pass_on(requests_text, "--requests"); }
    const auto requests = sim::read_replay_requests(*requests_text);
    if (!requests) { return base::pass_on(requests, "--requests"); }
    const auto profile = read_profile(command.profile);
    if (!profile) { return base::pass_on(profile); }
    const std::size_t slash = command.profile.rfind('/');
    auto times = scheduler::planner::times_of_profile(
        {.name = slash == std::string::npos ? command.profile : command.profile.substr(slash + 1),
         .dense = profile->dense,
         .attention = profile->attention,
         .per_sequence = profile->per_sequence,
         .moe = profile->moe},
        *model, machine->tensor, machine->link);
    if (!times) { return base::pass_on(times); }
    const sim::HostConstants host;
    times->step_seconds = host.step_seconds;
    times->sources.push_back({"host", "two constants fitted to one run (docs/planning.md)"});
    machine->options.arrival_seconds = host.arrival_seconds;
    machine->options.blocks_total = memory->blocks;
    const auto result = sim::replay_vllm(machine->options, *times, *requests);
    if (!result) { return base::pass_on(result); }
    return write_planning_file(command.out, sim::replay_json(*requests, *result, *memory, host, times->sources) + "\n");
}

}  // namespace

void add_simulate(CLI::App& app, SimulateCommand& command) {
    app.add_option("--plan", command.plan, "the placement file of `sluice plan`: a trace through our own scheduler");
    app.add_option("--trace", command.trace,
                   "a trace (JSON lines with timestamp, input_length, output_length, maybe hash_ids; or CSV with "
                   "arrival_s, input_tokens, output_tokens; .gz too) or a fit (.yaml) of `sluice plan fit`");
    app.add_option("--rate-scale", command.rate_scale, "times as many requests a second as the trace has")
        ->capture_default_str()
        ->check(CLI::Range(1e-6, 1e6));
    app.add_option("--requests-max", command.requests_max,
                   "the first so many of the trace; of a fit so many are drawn (1000)")
        ->check(CLI::Range(1, 100'000'000));
    app.add_option("--policy", command.policy,
                   "who places: sluice, sluice-no-admission, cache-aware, least-load, round-robin")
        ->capture_default_str();
    app.add_option("--faults", command.faults, "YAML list of time, kind, target, duration, factor");
    app.add_option("--seed", command.seed, "the same seed gives the same output")->capture_default_str();
    app.add_option("--warmup", command.warmup,
                   "requests before the trace, one after the other, as `sluice bench serve --warmup` sends them: "
                   "workers and scheduler have learned from them")
        ->capture_default_str()
        ->check(CLI::Range(0, 1000));
    app.add_flag("--records", command.records, "what became of each request, too");
    app.add_option("--profile", command.profile,
                   "instead, a run of vLLM again: PREFIX of measured operator times: PREFIX_dense.csv, _attention.csv, "
                   "_per_sequence.csv, for models with experts _moe.csv; each may be compressed (.gz)");
    app.add_option("--model-config", command.model_config, "the model's Hugging Face config.json");
    app.add_option("--engine-meta", command.engine_meta, "vLLM's settings (JSON with engine_kwargs)");
    app.add_option("--machine", command.machine, "the machine (JSON: GPU memory, tensor split, link)");
    app.add_option("--requests", command.requests,
                   "JSON lines with request_id, input_toks, output_toks, arrival_time; nothing else of them is read");
    app.add_option("--out", command.out, "JSON; -: standard output")->capture_default_str();
}

int simulate_main(const SimulateCommand& command) {
    const auto missing = [](const char* what) { return report({base::ErrorCode::invalid_argument, what}); };
    if (command.plan.empty() == command.profile.empty()) {
        return missing("simulate needs --plan (a trace through our own scheduler) or --profile (a run of vLLM again)");
    }
    if (!command.plan.empty()) {
        if (command.trace.empty()) { return missing("simulate --plan needs --trace"); }
        const auto done = simulate_plan(command);
        return done ? 0 : report(done.error());
    }
    if (command.model_config.empty() || command.engine_meta.empty() || command.machine.empty() ||
        command.requests.empty()) {
        return missing("simulate --profile needs --model-config, --engine-meta, --machine and --requests");
    }
    const auto done = replay(command);
    return done ? 0 : report(done.error());
}

}  // namespace cli
