#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "bench/workload.h"

namespace bench {

/// A row of a trace as it stands there.
struct TraceRow {
    double arrival_s = 0;
    double prompt_tokens = 0;
    double output_tokens = 0;
    std::vector<BlockRun> blocks = {};
    std::uint32_t block_tokens = 0;
};

/// One line of a trace in JSON (parse_trace). Empty: it is no such row. Pure.
std::optional<TraceRow> json_row(std::string_view line, bool with_blocks);

}  // namespace bench
