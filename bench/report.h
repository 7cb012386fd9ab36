#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <span>
#include <string>

#include "bench/record.h"
#include "bench/statistics.h"

namespace bench {

/// The figures of one run. Latencies are those of the requests that were answered, in milliseconds.
struct Report {
    std::size_t requests = 0;
    std::size_t requests_ok = 0;
    std::map<std::string, std::size_t> errors;  // by kind

    double duration_s = 0;       // first request due until the last answer
    double offered_per_s = 0;    // requests over the time in which they fell due; 0 for fewer than two
    double completed_per_s = 0;  // answered requests / duration
    double prompt_tokens_per_s = 0;
    double output_tokens_per_s = 0;
    double cached_share = 0;  // of prompt tokens, as the server says

    Summary ttft_ms;
    Summary tpot_ms;
    Summary itl_ms;  // gaps between neighbouring chunks of text, all requests together
    Summary end_to_end_ms;
    Summary lag_ms;  // how late the generator itself was; large values mean that this machine was too slow for the load
    std::size_t prompt_tokens = 0;
    std::size_t output_tokens = 0;

    std::size_t in_flight_max = 0;        // requests between being sent and their end, at once
    double output_tokens_peak_per_s = 0;  // in the fullest whole second
    double generator_cpu_s = 0;           // of this process during the run; 0: not measured
    double generator_cpu_share = 0;       // of one core

    double attainment = 0;     // share of all requests that met the targets; a failed one has not
    double goodput_per_s = 0;  // requests that met the targets / duration
};

/// Pure.
Report make_report(std::span<const RequestRecord> records, const SloTargets& targets);

/// The part of a run in which it neither filled nor emptied: from the end of the first answer until the last request
/// fell due. Times from the start of the run.
struct SteadyWindow {
    Seconds begin{};
    Seconds end{};
};
/// Empty when there is no such time. Pure.
std::optional<SteadyWindow> steady_window(std::span<const RequestRecord> records);
/// The figures of the requests that fell due in `window`; rates are of what ended in it, over its length. Pure.
Report make_steady_report(std::span<const RequestRecord> records, const SloTargets& targets,
                          const SteadyWindow& window);

/// A table for people, ends in a newline. `targets` are those that made the report.
std::string report_text(const Report& report, const SloTargets& targets);

}  // namespace bench
