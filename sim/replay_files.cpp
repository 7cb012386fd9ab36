#include "sim/replay_files.h"

#include <algorithm>
#include <array>
#include <boost/json.hpp>
#include <cmath>

#include "scheduler/planner/json_read.h"
#include "sim/percentile.h"

namespace sim {
namespace {

using scheduler::planner::find_value;
using scheduler::planner::number_at;
using scheduler::planner::parse_json;
using scheduler::planner::text_at;

constexpr std::size_t kRequestsMax = 10'000'000;
constexpr double kGiB = 1024.0 * 1024 * 1024;

// What CUDA leaves to programs of a card's nominal memory: 79.1 of 80 GiB (A100, H100), 23.6 of 24 (RTX 4090).
constexpr double kMemoryOfPrograms = 0.985;
// Bytes for each logit while vLLM's profiling run samples all sequences: float32 logits, their sorted values and 64-bit
// indices, the softmax and its running sum.
constexpr double kSamplerBytesPerLogit = 4 + 4 + 8 + 4 + 4;
// Graphs of the batch sizes up to 2 * max_num_seqs, and workspaces of cuBLAS and of the attention kernels.
constexpr double kGraphBytes = 0.45 * kGiB;

base::Result<boost::json::value> only_instance(const boost::json::value& machine) {
    const auto alone = [&](const boost::json::value& in, const char* list) -> const boost::json::value* {
        const boost::json::value* found = find_value(in, list);
        return found != nullptr && found->is_array() && found->get_array().size() == 1 ? &found->get_array()[0]
                                                                                       : nullptr;
    };
    const boost::json::value* node = alone(machine, "nodes");
    const boost::json::value* instance = node != nullptr ? alone(*node, "instances") : nullptr;
    if (instance == nullptr) {
        return base::fail(base::ErrorCode::unimplemented,
                          "the machine file has to have one node with one instance: a replay is of one engine");
    }
    if (find_value(*instance, "pd_type") != nullptr) {
        return base::fail(base::ErrorCode::unimplemented,
                          "pd_type: replays are of engines that do prefill and decode; for split ones use --plan");
    }
    return *instance;
}

}  // namespace

base::Result<ReplayMachine> read_replay_machine(std::string_view machine_json, std::string_view meta_json,
                                                const scheduler::planner::Model& model) {
    const auto machine = parse_json(machine_json, "machine file");
    if (!machine) { return base::pass_on(machine); }
    const auto meta = parse_json(meta_json, "engine meta file");
    if (!meta) { return base::pass_on(meta); }
    const auto instance = only_instance(*machine);
    if (!instance) { return base::pass_on(instance); }
    ReplayMachine read;
    struct Field {
        const boost::json::value* in;
        const char* path;
        std::optional<double> fallback;
        double least;
        double most;
        const char* name;
        double value = 0;
    };
    // vLLM 0.19's own defaults where the settings have null.
    std::array fields{
        Field{&*instance, "npu_mem.mem_size", {}, 0.1, 1e5, "machine file"},
        Field{&*instance, "npu_mem.mem_util", 0.9, 0.01, 1, "machine file"},
        Field{&*instance, "tp_size", 1, 1, 64, "machine file"},
        Field{&*machine, "link_bw", 16, 1e-3, 1e6, "machine file"},
        Field{&*machine, "link_latency", 20'000, 0, 1e9, "machine file"},
        Field{&*meta, "engine_kwargs.max_num_seqs", 256, 1, 1e6, "engine meta file"},
        Field{&*meta, "engine_kwargs.max_num_batched_tokens", 2048, 1, 1e7, "engine meta file"},
        Field{&*meta, "engine_kwargs.max_model_len", model.shape.context_tokens, 1, 1e9, "engine meta file"},
        Field{&*meta, "engine_kwargs.block_size", 16, 1, 1024, "engine meta file"},
        Field{&*meta, "engine_kwargs.tensor_parallel_size", 0, 0, 64, "engine meta file"},
        Field{&*meta, "engine_kwargs.gpu_memory_utilization", 0, 0, 1, "engine meta file"}};
    for (Field& field : fields) {
        const auto value = number_at(*field.in, field.path, field.fallback, field.least, field.most, field.name);
        if (!value) { return base::pass_on(value); }
        field.value = *value;
    }
    const auto count = [&](std::size_t index) { return static_cast<std::uint32_t>(fields[index].value); };
    read.memory_bytes = fields[0].value * kGiB;
    read.memory_share = fields[10].value > 0 ? fields[10].value : fields[1].value;
    read.tensor = count(9) > 0 ? count(9) : count(2);
    read.link = {fields[3].value * 1e9, fields[4].value * 1e-9};
    read.options.sequences_max = count(5);
    read.options.tokens_max = count(6);
    read.options.context_max = count(7);
    read.options.block_tokens = count(8);
    const auto is_off = [&](const char* path) {
        const boost::json::value* value = find_value(*meta, path);
        return value != nullptr && value->is_bool() && !value->get_bool();
    };
    read.options.keeps_prefixes = !is_off("engine_kwargs.enable_prefix_caching");
    read.options.plans_ahead = !is_off("engine_kwargs.async_scheduling");
    const auto parallel = number_at(*meta, "engine_kwargs.data_parallel_size", 1, 1, 4096, "engine meta file");
    if (!parallel) { return base::pass_on(parallel); }
    if (*parallel > 1) {
        return base::fail(base::ErrorCode::unimplemented,
                          "data_parallel_size above 1: replay each engine with its own requests");
    }
    if (text_at(*meta, "engine_kwargs.kv_cache_dtype", "auto").rfind("fp8", 0) == 0) { read.kv_bits = 8; }
    if (is_off("engine_kwargs.enable_chunked_prefill")) {
        return base::fail(base::ErrorCode::unimplemented, "a replay of vLLM without chunked prefill");
    }
    return read;
}

base::Result<ReplayMemory> replay_memory(const ReplayMachine& machine, const scheduler::planner::Model& model) {
    const double element = model.weight_bits / 8.0;
    const base::ModelShape& shape = model.shape;
    const double width =
        model.is_moe() ? static_cast<double>(model.expert_intermediate) * model.experts_per_token : shape.intermediate;
    ReplayMemory memory;
    memory.usable = machine.memory_bytes * kMemoryOfPrograms * machine.memory_share;
    memory.weights = model.weight_bytes_per_gpu({.tensor = machine.tensor, .pipeline = 1});
    memory.activations = machine.options.tokens_max * element * (4.0 * shape.hidden + 3.0 * width / machine.tensor);
    memory.sampler = static_cast<double>(machine.options.sequences_max) * shape.vocabulary * kSamplerBytesPerLogit;
    memory.graphs = kGraphBytes;
    memory.kv = memory.usable - memory.weights - memory.activations - memory.sampler - memory.graphs;
    const double kv_share = machine.kv_bits > 0 ? static_cast<double>(machine.kv_bits) / model.kv_bits : 1;
    const double block = machine.options.block_tokens * kv_share *
                         model.kv_bytes_per_token_per_gpu({.tensor = machine.tensor, .pipeline = 1});
    if (memory.kv < block) {
        return base::fail(base::ErrorCode::resource_exhausted,
                          "no memory for KV: weights of " + std::to_string(memory.weights / kGiB) +
                              " GiB on a GPU with " + std::to_string(memory.usable / kGiB) + " GiB to use");
    }
    memory.blocks = static_cast<std::uint32_t>(std::min(4e9, memory.kv / block));
    return memory;
}

base::Result<std::vector<ReplayRequest>> read_replay_requests(std::string_view json_lines) {
    std::vector<ReplayRequest> requests;
    for (std::size_t line = 1; !json_lines.empty(); ++line) {
        const std::size_t end = json_lines.find('\n');
        const std::string_view text = json_lines.substr(0, end);
        json_lines.remove_prefix(end == std::string_view::npos ? json_lines.size() : end + 1);
        if (text.find_first_not_of(" \t\r") == std::string_view::npos) { continue; }
        const std::string name = "requests, line " + std::to_string(line);
        if (requests.size() == kRequestsMax) {
            return base::fail(base::ErrorCode::invalid_argument, name + ": more requests than can be replayed");
        }
        const auto json = parse_json(text, name);
        if (!json) { return base::pass_on(json); }
        const auto input = number_at(*json, "input_toks", {}, 1, 1e8, name);
        const auto output = number_at(*json, "output_toks", {}, 1, 1e8, name);
        const auto arrival = number_at(*json, "arrival_time", {}, -1e15, 1e15, name);
        for (const auto* number : {&input, &output, &arrival}) {
            if (!*number) { return base::pass_on(*number); }
        }
        ReplayRequest& request = requests.emplace_back();
        const boost::json::value* id = find_value(*json, "request_id");
        request.id = id == nullptr ? std::to_string(requests.size() - 1)
                                   : (id->is_string() ? std::string(id->get_string()) : boost::json::serialize(*id));
        request.arrival_s = *arrival;
        request.input_tokens = static_cast<std::uint32_t>(*input);
        request.output_tokens = static_cast<std::uint32_t>(*output);
    }
    if (requests.empty()) { return base::fail(base::ErrorCode::invalid_argument, "the requests file has no request"); }
    return requests;
}

std::string replay_json(const std::vector<ReplayRequest>& requests, const ReplayResult& result,
                        const ReplayMemory& memory, const HostConstants& host,
                        const std::vector<scheduler::planner::Source>& sources) {
    boost::json::array rows;
    std::vector<double> ttft;
    std::vector<double> tpot;
    for (std::size_t i = 0; i < requests.size(); ++i) {
        const ReplayOutcome& outcome = result.outcomes[i];
        boost::json::object row{{"request_id", requests[i].id}, {"ttft_ms", outcome.ttft_s * 1e3}};
        row["tpot_ms"] = outcome.tpot_s ? boost::json::value(*outcome.tpot_s * 1e3) : boost::json::value(nullptr);
        rows.push_back(std::move(row));
        ttft.push_back(outcome.ttft_s * 1e3);
        if (outcome.tpot_s) { tpot.push_back(*outcome.tpot_s * 1e3); }
    }
    const auto summary = [](std::vector<double> values) {
        std::sort(values.begin(), values.end());
        return boost::json::object{{"mean", mean(values)},
                                   {"p50", percentile(values, 0.5)},
                                   {"p90", percentile(values, 0.9)},
                                   {"p99", percentile(values, 0.99)}};
    };
    boost::json::array from;
    for (const auto& source : sources) {
        from.push_back({{"what", source.what}, {"from", source.from}});
    }
    const boost::json::object json{
        {"requests", std::move(rows)},
        {"ttft_ms", summary(std::move(ttft))},
        {"tpot_ms", summary(std::move(tpot))},
        {"makespan_s", result.makespan_s},
        {"steps", result.steps},
        {"preemptions", result.preemptions},
        {"running_max", result.running_max},
        {"kv_share_max", result.kv_share_max},
        {"memory",
         {{"usable_bytes", memory.usable},
          {"weight_bytes", memory.weights},
          {"activation_bytes", memory.activations},
          {"sampler_bytes", memory.sampler},
          {"graph_bytes", memory.graphs},
          {"kv_bytes", memory.kv},
          {"kv_blocks", memory.blocks}}},
        {"host", {{"step_ms", host.step_seconds * 1e3}, {"arrival_ms", host.arrival_seconds * 1e3}}},
        {"sources", std::move(from)}};
    return boost::json::serialize(json);
}

}  // namespace sim
