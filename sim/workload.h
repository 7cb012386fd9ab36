#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "sim/cluster.h"

namespace sim {

/// What kind of requests come: lengths to draw from, and how unevenly they arrive.
struct Workload {
    struct Lengths {
        std::uint32_t prompt_tokens = 0;
        std::uint32_t output_tokens = 0;
    };
    std::string name;
    double rate = 0;                       // requests a second, as they came; 0: not known
    double burstiness = 1;                 // coefficient of variation of the gaps: 1 Poisson, 0 even
    std::vector<Lengths> lengths;          // prompt and answer of one request together. Empty: drawn apart from these
    std::vector<double> prompt_quantiles;  // of shares 0, 1/(n-1), ... 1; linear between
    std::vector<double> output_quantiles;
};

/// `count` requests at `rate` a second: gaps gamma-distributed around 1/rate with the workload's burstiness (the first
/// at its gap), lengths drawn at random. The same for the same values on every machine. Pure.
std::vector<ClusterRequest> draw_requests(const Workload& workload, double rate, std::size_t count, std::uint64_t seed);

/// Of arrivals in order and their lengths: the rate, the burstiness and the lengths themselves.
Workload workload_of(const std::vector<ClusterRequest>& requests, std::string name);

/// A FIT: YAML with `rate`, `burstiness`, `prompt_tokens` and `output_tokens` (quantiles, ascending).
std::string fit_yaml(const Workload& workload);
/// Error: invalid_argument with line or key. `name` for messages.
base::Result<Workload> read_fit(std::string_view yaml, const std::string& name);

/// The most that a sequence of it needs, and the means.
struct WorkloadSize {
    double tokens_max = 0;
    double prompt_mean = 0;
    double output_mean = 0;
};
WorkloadSize size_of(const Workload& workload);

}  // namespace sim
