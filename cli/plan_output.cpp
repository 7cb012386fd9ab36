#include "cli/plan_output.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>

#include "sim/plan_file.h"

namespace cli {
namespace {

using scheduler::planner::Candidate;
using scheduler::planner::PlanRow;
using scheduler::planner::SearchResult;
using scheduler::planner::SearchSpace;
using scheduler::planner::Split;

constexpr std::size_t kRowsShown = 12;

bool is_colocated(const PlanRow& row) {
    return row.candidate.kind == Candidate::Kind::colocated;
}

const PlanRow* best_of(const SearchResult& result, bool colocated) {
    for (const PlanRow& row : result.rows) {
        if (is_colocated(row) == colocated) { return &row; }
    }
    return nullptr;
}

std::string per_gpu(const PlanRow& row) {
    return fmt::format("{:.3g}", row.evaluation.goodput / row.candidate.gpus());
}

/// Why the first row and not the best of the other kind.
std::string reason(const SearchResult& result) {
    const PlanRow& chosen = result.rows[0];
    const PlanRow* other = best_of(result, !is_colocated(chosen));
    if (other == nullptr) {
        return is_colocated(chosen) ? "no split of prefill and decode fits: colocated is all there is"
                                    : "no colocated worker fits";
    }
    const char* const kind = is_colocated(chosen) ? "colocated" : "prefill and decode apart";
    if (other->evaluation.goodput <= 0) {
        return fmt::format("{}: the other way meets the targets at no rate ({})", kind, other->evaluation.binds);
    }
    const double ratio = chosen.goodput_per_cost / other->goodput_per_cost;
    if (ratio < 1) {
        return fmt::format(
            "{}: it serves what was asked for with less in all, though the other way ({}) has {:.2f} "
            "times its goodput for the cost",
            kind, other->candidate.text(), 1 / ratio);
    }
    const bool is_close =
        chosen.evaluation.low / chosen.candidate.gpus() <= other->evaluation.high / other->candidate.gpus();
    return fmt::format("{}: {:.2f} times the goodput for the cost of the best other way ({}){}", kind, ratio,
                       other->candidate.text(),
                       is_close ? "; their intervals overlap, so take whichever is simpler to run" : "");
}

/// Of each pool; empty: there are none.
std::string yaml_levels(const PlanInputs& inputs) {
    if (inputs.levels.empty()) { return {}; }
    std::string text =
        fmt::format("    kv_levels:\n      bytes_per_token: {:.6g}\n", inputs.model.kv_bytes_per_token());
    for (const PlannedLevel& level : inputs.levels) {
        text += fmt::format(
            "      {}: {{bytes: {:.6g}, bytes_per_s: {:.6g}, save_bytes_per_s: {:.6g}, launch_s: {:.6g}}}\n",
            level.name, level.bytes, level.load_bytes_per_s, level.save_bytes_per_s, level.launch_s);
    }
    return text;
}

std::string yaml_pool(const char* role, std::uint32_t count, const std::string& device, const Split& split,
                      double kv_tokens, std::uint32_t sequences, std::uint32_t tokens, std::uint32_t threads,
                      const std::string& levels, const scheduler::planner::StepTimes& times) {
    return fmt::format(
        "  - role: {}\n    count: {}\n    device: {}\n{}    tensor: {}\n    pipeline: {}\n    limits:\n"
        "      batch_sequences_max: {}\n      batch_tokens_max: {}\n      kv_tokens: {:.0f}\n{}    times:\n{}",
        role, count, device, threads > 0 ? fmt::format("    threads: {}\n", threads) : "", split.tensor, split.pipeline,
        sequences, tokens, kv_tokens, levels, sim::times_yaml(times, "      "));
}

boost::json::object json_of(const SearchSpace& space, const PlanRow& row) {
    return {{"candidate", row.candidate.text()},
            {"device", space.gpus[row.candidate.gpu].name},
            {"gpus", row.candidate.gpus()},
            {"units", row.units},
            {"goodput_per_s", row.evaluation.goodput},
            {"goodput_low_per_s", row.evaluation.low},
            {"goodput_high_per_s", row.evaluation.high},
            {"goodput_per_gpu_per_s", row.evaluation.goodput / row.candidate.gpus()},
            {"cost", row.cost},
            {"binds", row.evaluation.binds},
            {"refined", row.is_refined}};
}

/// The cores that all workers share, what they cost each other and what else is done there; nothing where each has a
/// machine of its own.
std::string yaml_machine(const scheduler::planner::Gpu& gpu) {
    if (gpu.cores == 0) { return ""; }
    const scheduler::planner::Beside& beside = gpu.beside;
    const std::string shares =
        beside.is_none() ? ""
                         : fmt::format(
                               ", beside: {{prefill_by_prefill: {:.4g}, prefill_by_decode: {:.4g}, decode_by_prefill: "
                               "{:.4g}, decode_by_decode: {:.4g}}}",
                               beside.prefill_by_prefill, beside.prefill_by_decode, beside.decode_by_prefill,
                               beside.decode_by_decode);
    const std::string host = gpu.host.is_none() ? ""
                                                : fmt::format(", host: {{step_s: {:.4g}, handed_token_s: {:.4g}}}",
                                                              gpu.host.step_seconds, gpu.host.handed_token_seconds);
    return fmt::format("machine: {{cores: {}{}{}}}\n", gpu.cores, shares, host);
}

}  // namespace

std::string plan_text(const PlanInputs& inputs, const SearchSpace& space, const SearchResult& result,
                      const std::vector<WhatIf>& what_ifs, PlanEvaluator& evaluator) {
    const sim::WorkloadSize size = sim::size_of(inputs.workload);
    std::string text = fmt::format(
        "{}: {:.2f} billion weights, {:.0f} KiB of KV a token\n"
        "workload {}: prompts of {:.0f} tokens, answers of {:.0f} on average, burstiness {:.2f}\n"
        "targets: TTFT {:.3g} s, TPOT {:.3g} s, met by {:.0f} % of requests\n\n",
        inputs.model.name, inputs.model.parameters() / 1e9, inputs.model.kv_bytes_per_token() / 1024,
        inputs.workload.name, size.prompt_mean, size.output_mean, inputs.workload.burstiness, inputs.targets.ttft_s,
        inputs.targets.tpot_s, 100 * inputs.targets.attainment);
    text += fmt::format("  {:<11} {:<52} {:>4} {:>5} {:>9} {:>17} {:>9} {:>8}  {}\n", "device", "one unit", "GPUs",
                        "units", "req/s/GPU", "(seeds)", "req/s", "cost", "what binds");
    for (std::size_t i = 0; i < std::min(kRowsShown, result.rows.size()); ++i) {
        const PlanRow& row = result.rows[i];
        const double gpus = row.candidate.gpus();
        text += fmt::format(
            "{} {:<11} {:<52} {:>4} {:>5} {:>9} {:>17} {:>9.3g} {:>8.4g}  {}\n", i == 0 ? '*' : ' ',
            space.gpus[row.candidate.gpu].name, row.candidate.text(), row.candidate.gpus(), row.units, per_gpu(row),
            row.is_refined ? fmt::format("{:.3g} to {:.3g}", row.evaluation.low / gpus, row.evaluation.high / gpus)
                           : std::string("one, coarse"),
            row.goodput, row.cost, row.evaluation.binds);
    }
    if (result.rows.size() > kRowsShown) {
        text += fmt::format("  ... and {} more (--json has all)\n", result.rows.size() - kRowsShown);
    }
    const PlanRow& chosen = result.rows[0];
    if (chosen.evaluation.goodput <= 0) {
        return text + "\nNo candidate meets the targets at any rate: they are tighter than a request alone takes.\n";
    }
    text += fmt::format("\nWhy: {}.\n", reason(result));
    if (!what_ifs.empty()) { text += "What would change it:\n"; }
    for (const WhatIf& what_if : what_ifs) {
        const bool is_same = what_if.best.candidate == chosen.candidate;
        text += fmt::format("  {}: {}{}, {} req/s/GPU\n", what_if.condition, is_same ? "the same, " : "",
                            what_if.best.candidate.text(), per_gpu(what_if.best));
    }
    text += "Where the times come from:\n";
    for (const auto& source : evaluator.times(chosen.candidate.gpu, chosen.candidate.prefill).sources) {
        text += fmt::format("  {:<32} {}\n", source.what, source.from);
    }
    return text;
}

std::string plan_yaml(const PlanInputs& inputs, const PlanCommand& command, const SearchSpace& space,
                      const PlanRow& chosen, PlanEvaluator& evaluator) {
    const Candidate& candidate = chosen.candidate;
    const std::string& device = space.gpus[candidate.gpu].name;
    const sim::WorkloadSize size = sim::size_of(inputs.workload);
    const base::ModelShape& shape = inputs.model.shape;
    std::string text = fmt::format(
        "# Made by `sluice plan`; docs/planning.md has the schema.\nversion: 1\nmodel: {}\n"
        "model_shape: {{layers: {}, hidden: {}, heads_kv: {}, head_dim: {}, vocabulary: {}}}\n{}pools:\n",
        inputs.model.name, shape.layers, shape.hidden, shape.heads_kv, shape.head_dim, shape.vocabulary,
        yaml_machine(inputs.gpus[candidate.gpu].gpu));
    const std::uint32_t threads = inputs.gpus[candidate.gpu].this_threads;
    const std::string levels = yaml_levels(inputs);
    if (is_colocated(chosen)) {
        text += yaml_pool("mixed", candidate.prefill_count * chosen.units, device, candidate.prefill,
                          evaluator.kv_tokens(candidate.gpu, candidate.prefill),
                          PlanEvaluator::kDecodeSequences * candidate.prefill.pipeline, candidate.step_tokens, threads,
                          levels, evaluator.times(candidate.gpu, candidate.prefill));
    } else {
        text += yaml_pool("prefill", candidate.prefill_count * chosen.units, device, candidate.prefill,
                          evaluator.kv_tokens(candidate.gpu, candidate.prefill),
                          PlanEvaluator::kPrefillSequences * candidate.prefill.pipeline, candidate.step_tokens, threads,
                          levels, evaluator.times(candidate.gpu, candidate.prefill));
        text += yaml_pool("decode", candidate.decode_count * chosen.units, device, candidate.decode,
                          evaluator.kv_tokens(candidate.gpu, candidate.decode),
                          PlanEvaluator::kDecodeSequences * candidate.decode.pipeline, candidate.step_tokens, threads,
                          levels, evaluator.times(candidate.gpu, candidate.decode));
        const std::uint32_t gpus = std::min(candidate.prefill.gpus(), candidate.decode.gpus());
        text += fmt::format(
            "hand_off: {{kv_bytes_per_token: {:.6g}, bytes_per_s: {:.6g}, latency_s: {:.6g}, layers: {}}}\n",
            inputs.model.kv_bytes_per_token() * command.kv_ratio,
            command.link_gbits > 0 ? command.link_gbits * 1e9 / 8
                                   : inputs.gpus[candidate.gpu].gpu.network_bytes_per_second * gpus,
            PlanEvaluator::kLinkLatencySeconds, inputs.model.shape.layers);
    }
    text += fmt::format("slo_classes:\n  default: {{ttft_ms: {:.6g}, tpot_ms: {:.6g}, attainment: {:.6g}}}\n",
                        inputs.targets.ttft_s * 1e3, inputs.targets.tpot_s * 1e3, inputs.targets.attainment);
    text += fmt::format(
        "assumed:\n  workload: {{name: \"{}\", prompt_tokens_mean: {:.6g}, output_tokens_mean: {:.6g}, burstiness: "
        "{:.4g}}}\n"
        "  affinity: {}\n  kv_on_the_wire: {:.4g}\n  seeds: {}\n  sources:\n",
        inputs.workload.name, size.prompt_mean, size.output_mean, inputs.workload.burstiness, command.affinity,
        command.kv_ratio, command.seeds);
    if (command.link_gbits > 0) {
        text += fmt::format("    - {{what: \"link\", from: \"--link-gbits {:.6g}\"}}\n", command.link_gbits);
    }
    for (const auto& source : evaluator.times(candidate.gpu, candidate.prefill).sources) {
        text += fmt::format("    - {{what: \"{}\", from: \"{}\"}}\n", source.what, source.from);
    }
    text += fmt::format(
        "predicted:\n  goodput_per_s: {:.6g}\n  goodput_low_per_s: {:.6g}\n  goodput_high_per_s: {:.6g}\n"
        "  goodput_per_gpu_per_s: {:.6g}\n  gpus: {}\n  cost: {:.6g}\n  binds: \"{}\"\n",
        chosen.goodput, chosen.units * chosen.evaluation.low, chosen.units * chosen.evaluation.high,
        chosen.evaluation.goodput / candidate.gpus(), candidate.gpus() * chosen.units, chosen.cost,
        chosen.evaluation.binds);
    return text;
}

std::string plan_helm_values(const PlanInputs& inputs, const PlanRow& chosen) {
    const Candidate& candidate = chosen.candidate;
    const PlannedGpu& gpu = inputs.gpus[candidate.gpu];
    const auto pool = [&](const char* role, std::uint32_t count, const Split& split) {
        // Of a machine that was measured nobody knows what its devices are called; its threads are known.
        const std::string device = !gpu.is_this           ? fmt::format(", gpus: {}", split.gpus())
                                   : gpu.this_threads > 0 ? fmt::format(", threads: {}", gpu.this_threads)
                                                          : "";
        return fmt::format("{}: {{replicas: {}{}}}\n", role, count * chosen.units, device);
    };
    const auto none = [](const char* role) { return fmt::format("{}: {{replicas: 0}}\n", role); };
    const std::string pools =
        is_colocated(chosen)
            ? none("prefill") + none("decode") + pool("mixed", candidate.prefill_count, candidate.prefill)
            : pool("prefill", candidate.prefill_count, candidate.prefill) +
                  pool("decode", candidate.decode_count, candidate.decode) + none("mixed");
    return "# Made by `sluice plan`: workers of each role and what they are to keep, for helm/sluice.\n" + pools +
           fmt::format(
               "config:\n  slo_classes:\n    default: {{ttft_ms: {:.6g}, tpot_ms: {:.6g}, attainment: {:.6g}}}\n",
               inputs.targets.ttft_s * 1e3, inputs.targets.tpot_s * 1e3, inputs.targets.attainment);
}

std::string plan_json(const SearchSpace& space, const SearchResult& result, const std::vector<WhatIf>& what_ifs) {
    boost::json::array rows;
    for (const PlanRow& row : result.rows) {
        rows.push_back(json_of(space, row));
    }
    boost::json::array phases;
    for (const PlanRow& row : result.phases) {
        phases.push_back(json_of(space, row));
    }
    boost::json::array others;
    for (const WhatIf& what_if : what_ifs) {
        others.push_back({{"condition", what_if.condition}, {"best", json_of(space, what_if.best)}});
    }
    return boost::json::serialize(boost::json::object{
               {"rows", std::move(rows)}, {"phases", std::move(phases)}, {"what_ifs", std::move(others)}}) +
           "\n";
}

}  // namespace cli
