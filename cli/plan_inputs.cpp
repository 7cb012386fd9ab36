#include "cli/plan_inputs.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <filesystem>

#include "bench/workload.h"
#include "cli/model/resolve.h"
#include "cli/planning_files.h"
#include "engine/host_fit.h"
#include "scheduler/planner/fitted_tables.h"
#include "sim/replay_files.h"

namespace cli {
namespace {

using base::ErrorCode;
using base::fail;
using base::pass_on;
using base::Result;
using scheduler::planner::Candidate;
using scheduler::planner::OperatorTables;
using scheduler::planner::Split;
using scheduler::planner::StepTimes;

Result<double> parse_seconds(std::string_view text) {
    double value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    const std::string_view unit = text.substr(static_cast<std::size_t>(end - text.data()));
    if (error != std::errc() || !(value > 0 && value < 1e6) || (!unit.empty() && unit != "s" && unit != "ms")) {
        return fail(ErrorCode::invalid_argument,
                    "\"" + std::string(text) + "\" is no time: seconds, or with a unit as in 50ms");
    }
    return unit == "ms" ? value / 1e3 : value;
}

/// A model that Sluice runs and whose folder has no config.json: a GGUF file, or a name of the store.
Result<scheduler::planner::Model> inspect_planned(const std::string& given) {
    const auto resolved = model::resolve_model(given, model::FirstUse::refuse, [] { return false; });
    if (!resolved) { return pass_on(resolved); }
    engine::EngineOptions options;
    options.model_dir = resolved->path;
    const auto needs = engine::inspect_model(options);
    if (!needs) { return pass_on(needs); }
    scheduler::planner::Model planned;
    planned.name = needs->shape.architecture;
    planned.shape = needs->shape;
    return planned;
}

Result<scheduler::planner::Model> read_planned_model(const std::string& given) {
    std::error_code ignored;
    const std::filesystem::path path(given);
    const std::filesystem::path config = std::filesystem::is_directory(path, ignored) ? path / "config.json" : path;
    if (path.extension() != ".json" && !std::filesystem::exists(config, ignored)) { return inspect_planned(given); }
    if (path.extension() == ".gguf") { return inspect_planned(given); }
    const auto text = read_planning_file(config.string());
    if (!text) { return pass_on(text); }
    auto read = scheduler::planner::read_model(*text);
    if (!read) { return pass_on(read, given); }
    return read;
}

/// The tables of one GPU in a folder and the folders in it: files whose names begin with the GPU's.
Result<OperatorTables> read_tables(const std::string& folder, const std::string& gpu) {
    namespace fs = std::filesystem;
    OperatorTables tables;
    std::error_code error;
    std::vector<fs::path> files;
    for (auto at = fs::recursive_directory_iterator(folder, error);
         !error && at != fs::recursive_directory_iterator() && files.size() < 10'000; at.increment(error)) {
        if (at->path().filename().string().rfind(gpu + "_", 0) == 0) { files.push_back(at->path()); }
    }
    if (error) { return fail(ErrorCode::not_found, "--profiles: cannot read " + folder + ": " + error.message()); }
    std::sort(files.begin(), files.end());
    using Add = Result<void> (OperatorTables::*)(std::string_view, const std::string&);
    struct Kind {
        const char* part;
        Add add;
    };
    // Later all-reduce tables win: the engine's own kernels over NCCL's.
    for (const Kind& kind : {Kind{"_gemm.csv", &OperatorTables::add_gemm},
                             Kind{"_context_attention.csv", &OperatorTables::add_context_attention},
                             Kind{"_generation_attention.csv", &OperatorTables::add_generation_attention},
                             Kind{"_nccl", &OperatorTables::add_all_reduce},
                             Kind{"_custom_allreduce.csv", &OperatorTables::add_all_reduce},
                             Kind{"_mlp_ms.csv", &OperatorTables::add_model_operators}}) {
        for (const fs::path& file : files) {
            if (file.filename().string().find(kind.part) == std::string::npos) { continue; }
            const auto text = read_planning_file(file.string());
            if (!text) { return pass_on(text); }
            const auto added = (tables.*kind.add)(*text, file.filename().string());
            if (!added) { return pass_on(added); }
        }
    }
    return tables;
}

Result<PlannedGpu> read_gpu(const PlanCommand& command, const std::string& text,
                            const scheduler::planner::Model& model) {
    PlannedGpu planned;
    const std::size_t equals = text.find('=');
    const std::string name = text.substr(0, equals);
    double cost = 1;
    if (equals != std::string::npos) {
        const char* const end = text.data() + text.size();
        const auto [read, error] = std::from_chars(text.data() + equals + 1, end, cost);
        if (error != std::errc() || read != end || !(cost > 0 && cost < 1e9)) {
            return fail(ErrorCode::invalid_argument, "--gpu " + text + ": the cost has to be a number above 0");
        }
    }
    if (name == "this") {
        if (command.engine_times.empty()) {
            return fail(ErrorCode::invalid_argument,
                        "--gpu this needs --engine-times FILE: sluice bench engine --model DIR --out FILE");
        }
        const auto file = read_planning_file(command.engine_times);
        if (!file) { return pass_on(file, "--engine-times"); }
        auto times = scheduler::planner::times_of_bench(*file, model.kv_bytes_per_token());
        if (!times) { return pass_on(times, "--engine-times"); }
        planned.is_this = true;
        planned.this_times = std::move(*times);
        planned.this_kv_tokens = command.this_kv_tokens;
        const scheduler::planner::MeasuredMachine machine = scheduler::planner::machine_of_bench(*file);
        planned.this_threads = machine.threads;
        planned.gpu.cores = command.this_cores.value_or(machine.cores);
        planned.this_times.step_seconds = machine.between_seconds;
        if (planned.gpu.cores == machine.cores) { planned.gpu.beside = machine.beside; }
        if (planned.gpu.cores > 0) { planned.gpu.host = machine.host; }
        if (!machine.host.is_none() || machine.between_seconds > 0) {
            planned.this_times.sources.push_back(
                {"work beside the engines",
                 "`host` in " + std::filesystem::path(command.engine_times).filename().string()});
        }
        if (planned.gpu.cores > 0) {
            planned.this_times.sources.push_back(
                {std::to_string(planned.gpu.cores) + (planned.gpu.cores == 1 ? " core" : " cores") +
                     " that all workers share",
                 command.this_cores ? "--this-cores" : "measured: sluice bench engine"});
        }
        planned.gpu.name = "this";
        planned.gpu.cost = cost;
        planned.gpu.gpus_per_node = 1;
        planned.gpu.network_bytes_per_second = 1.25e9;
        return planned;
    }
    auto gpu = scheduler::planner::find_gpu(name);
    if (!gpu) {
        std::string names = "this";
        for (const std::string& known : scheduler::planner::gpu_names()) {
            names += ", " + known;
        }
        return fail(ErrorCode::invalid_argument, "--gpu " + name + " is not known; there are " + names);
    }
    gpu->cost = cost;
    planned.gpu = *gpu;
    if (!command.fitted.empty()) {
        const auto file = read_planning_file(command.fitted);
        if (!file) { return pass_on(file, "--fitted"); }
        Result<StepTimes> last = fail(ErrorCode::not_found, "no split");
        for (const std::uint32_t tensor : {1u, 2u, 4u, 8u}) {
            last = scheduler::planner::times_of_fitted(*file, command.fitted_model, tensor);
            if (last) { planned.fitted.emplace(tensor, std::move(*last)); }
        }
        if (planned.fitted.empty()) { return pass_on(last, "--fitted, --fitted-model"); }
        return planned;
    }
    if (!command.profiles.empty()) {
        auto tables = read_tables(command.profiles, gpu->name);
        if (!tables) { return pass_on(tables); }
        planned.tables = std::move(*tables);
    }
    if (!command.like.empty()) {
        const auto other = scheduler::planner::find_gpu(command.like);
        if (!other || command.profiles.empty()) {
            return fail(ErrorCode::invalid_argument,
                        "--like " + command.like + " needs the tables of a GPU that is known, in --profiles");
        }
        const auto others = read_tables(command.profiles, other->name);
        if (!others) { return pass_on(others); }
        planned.tables.borrow(*others, *gpu, *other);
    }
    return planned;
}

}  // namespace

Result<PlanTargets> parse_targets(const std::string& text) {
    PlanTargets targets;
    std::string_view rest = text;
    while (!rest.empty()) {
        const std::size_t comma = rest.find(',');
        const std::string_view part = rest.substr(0, comma);
        rest.remove_prefix(comma == std::string_view::npos ? rest.size() : comma + 1);
        const std::size_t equals = part.find('=');
        const std::string_view name = part.substr(0, equals);
        const std::string_view value = equals == std::string_view::npos ? "" : part.substr(equals + 1);
        if (name == "ttft" || name == "tpot") {
            const auto seconds = parse_seconds(value);
            if (!seconds) { return pass_on(seconds, "--slo " + std::string(name)); }
            (name == "ttft" ? targets.ttft_s : targets.tpot_s) = *seconds;
        } else if (name == "attainment") {
            double share = 0;
            const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), share);
            if (error != std::errc() || end != value.data() + value.size() || !(share > 0 && share < 1)) {
                return fail(ErrorCode::invalid_argument, "--slo attainment has to be a share between 0 and 1");
            }
            targets.attainment = share;
        } else {
            return fail(ErrorCode::invalid_argument,
                        "--slo: \"" + std::string(part) + "\" is not known; as in ttft=0.5,tpot=50ms,attainment=0.9");
        }
    }
    return targets;
}

Result<PlannedLevel> parse_level(const char* name, const std::string& text) {
    PlannedLevel level{.name = name};
    struct Part {
        double* value;
        double low;
        double high;
    };
    // As sim/plan_file.cpp takes them.
    const Part parts[] = {{&level.bytes, 1, 1e15},
                          {&level.load_bytes_per_s, 1, 1e15},
                          {&level.save_bytes_per_s, 1, 1e15},
                          {&level.launch_s, 0, 10}};
    const char* at = text.data();
    const char* const end = at + text.size();
    std::size_t read = 0;
    for (const Part& part : parts) {
        const auto [next, error] = std::from_chars(at, end, *part.value);
        if (error != std::errc() || !(*part.value >= part.low && *part.value <= part.high)) { break; }
        ++read;
        at = next;
        if (at == end || *at != ',') { break; }
        ++at;
    }
    if (read < 2 || at != end || text.back() == ',') {
        return fail(ErrorCode::invalid_argument,
                    "--kv-" + std::string(name) + " \"" + text +
                        "\": BYTES,BYTES_PER_S[,SAVE_BYTES_PER_S[,LAUNCH_S]], as in 64e9,25e9");
    }
    if (read < 3) { level.save_bytes_per_s = level.load_bytes_per_s; }
    return level;
}

Result<sim::Workload> read_workload(const std::string& path) {
    const auto text = read_planning_file(path);
    if (!text) { return pass_on(text); }
    std::string name = std::filesystem::path(path).filename().string();
    std::erase_if(name, [](char c) { return c == '"' || c == '\\' || static_cast<unsigned char>(c) < ' '; });
    if (path.ends_with(".yaml") || path.ends_with(".yml")) { return sim::read_fit(*text, name); }
    const auto plan = bench::parse_trace(*text, {});
    if (!plan) { return pass_on(plan, path); }
    std::vector<sim::ClusterRequest> requests;
    for (const bench::PlannedRequest& planned : *plan) {
        requests.push_back({planned.due.count(), planned.prompt_tokens, planned.output_tokens});
    }
    return sim::workload_of(requests, name);
}

Result<PlanInputs> read_plan_inputs(const PlanCommand& command) {
    PlanInputs inputs;
    const auto targets = parse_targets(command.slo);
    if (!targets) { return pass_on(targets); }
    inputs.targets = *targets;
    auto planned = read_planned_model(command.model);
    if (!planned) { return pass_on(planned, "--model"); }
    inputs.model = std::move(*planned);
    for (const std::string& name : command.gpus) {
        auto gpu = read_gpu(command, name, inputs.model);
        if (!gpu) { return pass_on(gpu); }
        inputs.gpus.push_back(std::move(*gpu));
    }
    for (const auto& [name, told] : {std::pair("host", &command.kv_host), std::pair("disk", &command.kv_disk)}) {
        if (told->empty()) { continue; }
        const auto level = parse_level(name, *told);
        if (!level) { return pass_on(level); }
        inputs.levels.push_back(*level);
    }
    if (command.workload.empty()) { return inputs; }
    auto workload = read_workload(command.workload);
    if (!workload) { return pass_on(workload, "--workload"); }
    inputs.workload = std::move(*workload);
    return inputs;
}

/// "2x1+1x1": a prefill worker over 2 GPUs in 1 stage and a decode worker over one; "2x1": a mixed worker.
Result<Candidate> parse_unit(const std::string& text, std::uint32_t step_tokens) {
    Candidate candidate;
    candidate.step_tokens = step_tokens;
    unsigned numbers[4] = {};
    int end = 0;
    const int count =
        std::sscanf(text.c_str(), "%2ux%2u+%2ux%2u%n", &numbers[0], &numbers[1], &numbers[2], &numbers[3], &end);
    const bool is_mixed = count == 2 && text.find('+') == std::string::npos;
    const bool is_split = count == 4 && static_cast<std::size_t>(end) == text.size();
    const unsigned used = is_mixed ? 2 : 4;
    if ((!is_mixed && !is_split) || std::any_of(numbers, numbers + used, [](unsigned n) { return n == 0; })) {
        return fail(ErrorCode::invalid_argument,
                    "--also " + text + ": as in 2x1+1x1 (tensor x pipeline of prefill and decode) or 2x1 (mixed)");
    }
    candidate.kind = is_mixed ? Candidate::Kind::colocated : Candidate::Kind::split;
    candidate.prefill = {.tensor = numbers[0], .pipeline = numbers[1]};
    candidate.decode = is_mixed ? candidate.prefill : Split{.tensor = numbers[2], .pipeline = numbers[3]};
    return candidate;
}

Result<scheduler::planner::SearchSpace> space_of(const PlanInputs& inputs, const PlanCommand& command) {
    scheduler::planner::SearchSpace space;
    space.has_high_affinity = command.affinity == "high";
    space.pool_max = 4;
    if (command.rate > 0) { space.rate = command.rate; }
    if (command.count > 0) { space.gpus_max = command.count; }
    const double tokens = sim::size_of(inputs.workload).tokens_max;
    PlanEvaluator evaluator(inputs, {});
    for (std::size_t i = 0; i < inputs.gpus.size(); ++i) {
        const PlannedGpu& planned = inputs.gpus[i];
        scheduler::planner::SearchSpace::GpuChoice choice;
        choice.name = planned.gpu.name;
        choice.cost = planned.gpu.cost;
        choice.per_node = planned.gpu.gpus_per_node;
        if (planned.gpu.cores > 0) {
            choice.workers_at_once = std::max(1u, planned.gpu.cores / std::max(1u, planned.this_threads));
        }
        for (const std::uint32_t tensor : {1u, 2u, 4u, 8u}) {
            for (const std::uint32_t pipeline : {1u, 2u, 4u}) {
                const Split split{.tensor = tensor, .pipeline = pipeline};
                if (split.gpus() > choice.per_node || (command.no_pipelines && pipeline > 1) ||
                    (command.whole_workers && split.gpus() > 1) ||
                    !scheduler::planner::check_split(inputs.model, split) ||
                    (!planned.fitted.empty() && !planned.fitted.contains(tensor))) {
                    continue;
                }
                if (evaluator.kv_tokens(i, split) >= tokens) { choice.splits.push_back(split); }
            }
        }
        space.gpus.push_back(std::move(choice));
    }
    for (const std::string& text : command.also) {
        const auto unit = parse_unit(text, space.step_tokens.back());
        if (!unit) { return pass_on(unit); }
        const std::vector<Split>& splits = space.gpus[0].splits;
        for (const Split& split : {unit->prefill, unit->decode}) {
            if (std::find(splits.begin(), splits.end(), split) == splits.end()) {
                return fail(ErrorCode::invalid_argument, "--also " + text + ": such a worker does not fit on " +
                                                             space.gpus[0].name + ", or its times are not known");
            }
        }
        space.also.push_back(*unit);
    }
    return space;
}

double PlanEvaluator::kv_tokens(std::size_t gpu, const Split& split) const {
    const PlannedGpu& planned = inputs_.gpus[gpu];
    return planned.is_this ? planned.this_kv_tokens
                           : scheduler::planner::kv_tokens_of(planned.gpu, inputs_.model, split);
}

const StepTimes& PlanEvaluator::times(std::size_t gpu, const Split& split) {
    const auto key = std::pair(gpu, std::pair(split.tensor, split.pipeline));
    if (const auto found = times_.find(key); found != times_.end()) { return found->second; }
    const PlannedGpu& planned = inputs_.gpus[gpu];
    if (!planned.fitted.empty()) { return times_.emplace(key, planned.fitted.at(split.tensor)).first->second; }
    StepTimes times = planned.is_this
                          ? planned.this_times
                          : scheduler::planner::times_of_gpu(planned.gpu, planned.tables, inputs_.model, split);
    if (!planned.is_this) {
        times.step_seconds = sim::HostConstants{}.step_seconds * split.pipeline;  // of each stage
        times.sources.push_back({"host, 1 ms a step", "fitted to one run of vLLM (docs/planning.md)"});
    }
    return times_.emplace(key, std::move(times)).first->second;
}

scheduler::planner::Evaluation PlanEvaluator::evaluate(const Candidate& candidate, bool is_careful,
                                                       std::uint32_t seeds) {
    static const StepTimes kNothing{};
    const bool is_prefill_alone = candidate.kind == Candidate::Kind::prefill_alone;
    const bool is_decode_alone = candidate.kind == Candidate::Kind::decode_alone;
    sim::ClusterShape shape;
    const auto worker = [&](const Split& split, std::uint32_t sequences) {
        return sim::ClusterWorker{.times = &times(candidate.gpu, split),
                                  .stages = split.pipeline,
                                  .kv_tokens = kv_tokens(candidate.gpu, split),
                                  .sequences_max = sequences * split.pipeline,
                                  .tokens_max = candidate.step_tokens,
                                  .threads = std::max(1u, inputs_.gpus[candidate.gpu].this_threads)};
    };
    shape.cores = inputs_.gpus[candidate.gpu].gpu.cores;
    shape.beside = inputs_.gpus[candidate.gpu].gpu.beside;
    shape.host = inputs_.gpus[candidate.gpu].gpu.host;
    if (candidate.kind == Candidate::Kind::colocated) {
        shape.mixed = candidate.prefill_count;
        shape.mixed_worker = worker(candidate.prefill, kDecodeSequences);
    } else {
        shape.prefill = candidate.prefill_count;
        shape.decode = candidate.decode_count;
        shape.prefill_worker = worker(candidate.prefill, kPrefillSequences);
        shape.decode_worker = worker(candidate.decode, kDecodeSequences);
        const sim::ClusterWorker nothing{.times = &kNothing,
                                         .stages = 1,
                                         .kv_tokens = 1e15,
                                         .sequences_max = 1u << 30,
                                         .tokens_max = 1u << 30,
                                         .threads = 1};
        if (is_decode_alone) { shape.prefill_worker = nothing; }
        if (is_prefill_alone) { shape.decode_worker = nothing; }
        shape.ends_with_prefill = is_prefill_alone;
        if (candidate.kind == Candidate::Kind::split) {
            const double network = conditions_.link_bytes_per_second > 0
                                       ? conditions_.link_bytes_per_second
                                       : inputs_.gpus[candidate.gpu].gpu.network_bytes_per_second *
                                             std::min(candidate.prefill.gpus(), candidate.decode.gpus());
            shape.kv_bytes_per_token = inputs_.model.kv_bytes_per_token() * conditions_.kv_ratio;
            shape.link = {network, kLinkLatencySeconds};
            shape.layers = inputs_.model.shape.layers;
        }
    }
    const sim::GoodputOptions options{.ttft_s = is_decode_alone ? 0 : conditions_.targets.ttft_s,
                                      .tpot_s = is_prefill_alone ? 0 : conditions_.targets.tpot_s,
                                      .attainment = conditions_.targets.attainment,
                                      .seeds = is_careful ? seeds : 1,
                                      .precision = is_careful ? 0.03 : 0.08,
                                      .requests_min = is_careful ? 1000u : 500u,
                                      .requests_max = is_careful ? 60'000u : 12'000u};
    const sim::Goodput goodput = sim::find_goodput(shape, inputs_.workload, options);
    return {goodput.mean, goodput.low, goodput.high, goodput.binds};
}

}  // namespace cli
