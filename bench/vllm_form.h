#pragma once

#include <boost/json/object.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "bench/record.h"
#include "bench/report.h"

namespace bench {

/// `ttft:200 tpot:50 e2el:5000`: vLLM's form of targets, in milliseconds, each name at most once.
/// Error: invalid_argument, naming the pair and what there is.
base::Result<SloTargets> parse_goodput(std::span<const std::string> pairs);

/// What else vLLM's results say of a run.
struct VllmRun {
    std::string model;
    std::optional<double> request_rate;          // empty: a trace, at its own speed
    std::optional<std::size_t> concurrency_max;  // empty: no bound
    SloTargets targets;
};

/// The figures under the names of vLLM's benchmark, to be put beside ours.
boost::json::object vllm_json(const Report& report, const VllmRun& run);
/// The block that vLLM's benchmark prints; ends in a newline.
std::string vllm_text(const Report& report, const VllmRun& run);

}  // namespace bench
