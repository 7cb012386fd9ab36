#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "scheduler/planner/model.h"

namespace scheduler::planner {

/// Workers that could serve a workload: one unit, of which there may be several side by side.
struct Candidate {
    enum class Kind {
        colocated,      // mixed workers with chunked prefill: one
        split,          // prefill and decode workers
        prefill_alone,  // one phase, as DistServe's Algorithm 1 searches it: the other one costs nothing
        decode_alone,
    };
    Kind kind = Kind::colocated;
    std::size_t gpu = 0;  // index in SearchSpace::gpus
    Split prefill;        // of a prefill worker; of a mixed one
    Split decode;
    std::uint32_t prefill_count = 1;
    std::uint32_t decode_count = 1;
    std::uint32_t step_tokens = 2048;  // of a mixed or prefill worker's step

    std::uint32_t gpus() const;
    /// "2 prefill TP2, 3 decode TP1" or "mixed TP2, steps of 512"
    std::string text() const;
    bool operator==(const Candidate&) const = default;
};

/// What a candidate's unit can do.
struct Evaluation {
    double goodput = 0;  // requests a second within both targets at the wanted attainment: mean over seeds
    double low = 0;      // the worst seed
    double high = 0;     // the best one
    std::string binds;   // what stops it from doing more: "TTFT: prefill 98 % busy"
};
using Evaluate = std::function<Evaluation(const Candidate&)>;

struct SearchSpace {
    struct GpuChoice {
        std::string name;
        double cost = 1;  // of one for an hour
        std::uint32_t per_node = 8;
        std::vector<Split> splits;  // those whose weights fit
        /// So many workers compute at once before they make each other slower, and there is no more of the machine: no
        /// plan has more units of one worker than that. 0: no bound.
        std::uint32_t workers_at_once = 0;
    };
    std::vector<GpuChoice> gpus;
    std::vector<std::uint32_t> step_tokens{512, 2048, 8192};
    bool has_high_affinity = true;          // KV goes to any node; else only inside one
    std::uint32_t pool_max = 8;             // workers of a pool in one unit
    std::uint32_t joint_max = 6;            // units of both phases that are evaluated, the most promising first
    std::uint32_t refined_max = 4;          // rows that `refine` looks at again, besides the best of each kind
    std::vector<Candidate> also;            // units to evaluate besides, refined too
    std::optional<double> rate;             // requests a second to serve: the cheapest that does it is best
    std::optional<std::uint32_t> gpus_max;  // GPUs to use: the most goodput is best
};

struct PlanRow {
    Candidate candidate;
    Evaluation evaluation;
    std::uint32_t units = 1;  // side by side
    double goodput = 0;       // of all units
    bool is_cut = false;      // the machine has no room for as many units as were asked for
    double cost = 0;          // of all units
    double goodput_per_cost = 0;
    bool is_refined = false;
};

struct SearchResult {
    std::vector<PlanRow> rows;    // the best first; ties: the one with fewer GPUs, then colocated
    std::vector<PlanRow> phases;  // of one phase alone, in the order they were tried
};

/// DistServe's Algorithms 1 (high affinity: the phases searched apart, then joined) and 2 (low affinity: both in one
/// node), with one change: what is best apart only ranks the joint units, and the most promising of these are evaluated
/// together, hand-offs included. Colocated ones are always among the rows. `refine`, where there is one, evaluates the
/// best rows again, with more care; these then stand before all others. Pure but for these two.
/// Source: DistServe (Zhong et al., OSDI 2024), section 4. Error: resource_exhausted when the model fits nowhere.
base::Result<SearchResult> search(const SearchSpace& space, const Evaluate& evaluate, const Evaluate& refine = {});

}  // namespace scheduler::planner
