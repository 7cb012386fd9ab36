#include "scheduler/planner/operator_tables.h"

#include <algorithm>
#include <vector>

#include "scheduler/planner/csv.h"
#include "scheduler/planner/make_grid.h"

namespace scheduler::planner {
namespace {

constexpr double kMilli = 1e-3;

/// Whether the row counts: the column is not there, or has this value.
bool is_kind(const Csv& csv, std::size_t row, std::string_view column, std::string_view value) {
    return !csv.has(column) || csv.text(row, *csv.column(column)) == value;
}

std::uint32_t whole(double number) {
    return static_cast<std::uint32_t>(std::min(number, 4e9));
}

template <class Map, class Key>
auto find_in(const Map& map, const Key& key) {
    const auto found = map.find(key);
    return found == map.end() ? nullptr : &found->second;
}

}  // namespace

base::Result<void> OperatorTables::add_gemm(std::string_view text, const std::string& name) {
    const auto csv = Csv::parse(text, name);
    if (!csv) { return base::pass_on(csv); }
    const auto columns = csv->columns({"m", "n", "k", "latency_ms"});
    if (!columns) { return base::pass_on(columns); }
    std::vector<Grid::Point> points;
    for (std::size_t row = 0; row < csv->rows(); ++row) {
        if (!is_kind(*csv, row, "gemm_dtype", "bfloat16")) { continue; }
        const auto numbers = csv->numbers(row, *columns);
        if (!numbers) { return base::pass_on(numbers); }
        points.push_back({{(*numbers)[1], (*numbers)[2], (*numbers)[0]}, (*numbers)[3] * kMilli});
    }
    auto grid = make_grid(3, points, name);
    if (!grid) { return base::pass_on(grid); }
    gemm_ = {std::move(*grid), name};
    return {};
}

base::Result<void> OperatorTables::add_context_attention(std::string_view text, const std::string& name) {
    const auto csv = Csv::parse(text, name);
    if (!csv) { return base::pass_on(csv); }
    const auto columns =
        csv->columns({"batch_size", "isl", "num_heads", "num_key_value_heads", "head_dim", "latency_ms"});
    if (!columns) { return base::pass_on(columns); }
    std::map<Heads, std::vector<Curve::Sample>> samples;
    for (std::size_t row = 0; row < csv->rows(); ++row) {
        if (!is_kind(*csv, row, "kv_cache_dtype", "bfloat16") || !is_kind(*csv, row, "window_size", "0")) { continue; }
        const auto numbers = csv->numbers(row, *columns);
        if (!numbers) { return base::pass_on(numbers); }
        const auto& n = *numbers;
        if (n[0] != 1) { continue; }
        samples[{whole(n[2]), whole(n[3]), whole(n[4])}].push_back({n[1], n[5] * kMilli});
    }
    for (auto& [heads, points] : samples) {
        context_attention_[heads] = {Curve(std::move(points)), name};
    }
    return {};
}

base::Result<void> OperatorTables::add_generation_attention(std::string_view text, const std::string& name) {
    const auto csv = Csv::parse(text, name);
    if (!csv) { return base::pass_on(csv); }
    const auto columns =
        csv->columns({"batch_size", "step", "num_heads", "num_key_value_heads", "head_dim", "latency_ms"});
    if (!columns) { return base::pass_on(columns); }
    std::map<Heads, std::vector<Grid::Point>> points;
    for (std::size_t row = 0; row < csv->rows(); ++row) {
        if (!is_kind(*csv, row, "kv_cache_dtype", "bfloat16") || !is_kind(*csv, row, "window_size", "0")) { continue; }
        const auto numbers = csv->numbers(row, *columns);
        if (!numbers) { return base::pass_on(numbers); }
        const auto& n = *numbers;
        points[{whole(n[2]), whole(n[3]), whole(n[4])}].push_back({{n[0], n[1] + 1}, n[5] * kMilli});
    }
    for (const auto& [heads, of_heads] : points) {
        auto grid = make_grid(2, of_heads, name);
        if (!grid) { return base::pass_on(grid); }
        generation_attention_[heads] = {std::move(*grid), name};
    }
    return {};
}

base::Result<void> OperatorTables::add_all_reduce(std::string_view text, const std::string& name) {
    const auto csv = Csv::parse(text, name);
    if (!csv) { return base::pass_on(csv); }
    const auto columns = csv->columns({"num_gpus", "message_size", "latency_ms"});
    if (!columns) { return base::pass_on(columns); }
    std::map<std::uint32_t, std::vector<Curve::Sample>> samples;
    for (std::size_t row = 0; row < csv->rows(); ++row) {
        if (!is_kind(*csv, row, "backend", "vllm_graph") || !is_kind(*csv, row, "op_name", "all_reduce") ||
            !is_kind(*csv, row, "nccl_dtype", "half")) {
            continue;
        }
        const auto numbers = csv->numbers(row, *columns);
        if (!numbers) { return base::pass_on(numbers); }
        samples[whole((*numbers)[0])].push_back({(*numbers)[1] * 2, (*numbers)[2] * kMilli});
    }
    for (auto& [gpus, points] : samples) {
        all_reduce_[gpus] = {Curve(std::move(points)), name};
    }
    return {};
}

base::Result<void> OperatorTables::add_model_operators(std::string_view text, const std::string& name) {
    const auto csv = Csv::parse(text, name);
    if (!csv) { return base::pass_on(csv); }
    const auto columns = csv->columns({"num_tensor_parallel_workers", "num_tokens", "n_head", "n_kv_head", "n_embd",
                                       "n_expanded_embd", "input_layernorm.median", "attn_pre_proj.median",
                                       "attn_rope.median", "attn_post_proj.median", "post_attention_layernorm.median",
                                       "mlp_up_proj.median", "mlp_act.median", "mlp_down_proj.median", "add.median"});
    if (!columns) { return base::pass_on(columns); }
    std::map<Widths, std::vector<Curve::Sample>> samples;
    for (std::size_t row = 0; row < csv->rows(); ++row) {
        const auto numbers = csv->numbers(row, *columns);
        if (!numbers) { return base::pass_on(numbers); }
        const auto& n = *numbers;
        double sum = n[14];  // a layer adds twice
        for (std::size_t i = 6; i < n.size(); ++i) {
            sum += n[i];
        }
        samples[{whole(n[4]), whole(n[5]), whole(n[2]), whole(n[3]), whole(n[0])}].push_back({n[1], sum * kMilli});
    }
    for (auto& [widths, points] : samples) {
        model_operators_[widths] = {Curve(std::move(points)), name};
    }
    return {};
}

const OperatorTables::Named<Curve>* OperatorTables::context_attention(const Heads& heads) const {
    return find_in(context_attention_, heads);
}
const OperatorTables::Named<Grid>* OperatorTables::generation_attention(const Heads& heads) const {
    return find_in(generation_attention_, heads);
}
const OperatorTables::Named<Curve>* OperatorTables::all_reduce(std::uint32_t gpus) const {
    return find_in(all_reduce_, gpus);
}
const OperatorTables::Named<Curve>* OperatorTables::model_operators(const Widths& widths) const {
    return find_in(model_operators_, widths);
}

}  // namespace scheduler::planner
