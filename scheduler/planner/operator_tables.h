#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <tuple>

#include "base/result.h"
#include "scheduler/planner/gpu.h"
#include "scheduler/planner/model.h"
#include "scheduler/planner/step_times.h"

namespace scheduler::planner {

/// Measured times of a GPU's operators whatever the model: aiconfigurator's tables (ai-dynamo/aiconfigurator,
/// systems/data) as CSV, bfloat16, milliseconds. And vidur's of whole models. Any may be missing: what is missing comes
/// from the datasheet. Seconds within.
class OperatorTables {
public:
    /// m, n, k, gemm_dtype, latency_ms. Each add: error invalid_argument that names table, column and row.
    base::Result<void> add_gemm(std::string_view csv, const std::string& name);
    /// batch_size, isl, num_heads, num_key_value_heads, head_dim, kv_cache_dtype, latency_ms: prompts without a prefix.
    base::Result<void> add_context_attention(std::string_view csv, const std::string& name);
    /// batch_size, step (KV length - 1), heads as above, latency_ms.
    base::Result<void> add_generation_attention(std::string_view csv, const std::string& name);
    /// num_gpus, message_size (elements of two bytes), latency_ms; with `backend` or `op_name` columns only vllm_graph
    /// and all_reduce of half count.
    base::Result<void> add_all_reduce(std::string_view csv, const std::string& name);
    /// vidur's compute profile of one model: num_tensor_parallel_workers, num_tokens, medians of operators in ms; used
    /// for models with the same widths only, and there in place of the products.
    base::Result<void> add_model_operators(std::string_view csv, const std::string& name);
    /// What is not here is made of the tables of another GPU and the datasheets of both: attention of prompts goes with
    /// arithmetic, that of decoding with memory, all-reduces with the links of a node; what a kernel takes with nothing
    /// to do stays. Products are not: matrices of one GPU tell little of another's, so they are measured or come from
    /// the roofline.
    void borrow(const OperatorTables& others, const Gpu& own, const Gpu& other);

    struct Heads {
        std::uint32_t q = 0;
        std::uint32_t kv = 0;
        std::uint32_t dim = 0;
        auto operator<=>(const Heads&) const = default;
    };
    struct Widths {
        std::uint32_t hidden = 0;
        std::uint32_t intermediate = 0;
        std::uint32_t heads_q = 0;
        std::uint32_t heads_kv = 0;
        std::uint32_t tensor = 0;
        auto operator<=>(const Widths&) const = default;
    };
    template <class Table>
    struct Named {
        Table table;
        std::string name;
    };
    /// Null when there is none.
    const Named<Grid>* gemm() const { return gemm_.table.empty() ? nullptr : &gemm_; }
    const Named<Curve>* context_attention(const Heads& heads) const;
    const Named<Grid>* generation_attention(const Heads& heads) const;
    const Named<Curve>* all_reduce(std::uint32_t gpus) const;
    const Named<Curve>* model_operators(const Widths& widths) const;

private:
    Named<Grid> gemm_;                                   // m, n, k
    std::map<Heads, Named<Curve>> context_attention_;    // over tokens of one prompt
    std::map<Heads, Named<Grid>> generation_attention_;  // sequences, tokens of each
    std::map<std::uint32_t, Named<Curve>> all_reduce_;   // over bytes
    std::map<Widths, Named<Curve>> model_operators_;     // one layer, over tokens of the step
};

/// Times of a worker of `split` on such GPUs: each operator from the tables where they have it, else from the roofline
/// of the datasheet. One stage after the other; without host overhead.
StepTimes times_of_gpu(const Gpu& gpu, const OperatorTables& tables, const Model& model, const Split& split);

}  // namespace scheduler::planner
