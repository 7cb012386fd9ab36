#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "bench/workload.h"

namespace bench {

/// One request as a file of lengths has it: tokens, or texts whose tokens the server's tokenizer knows.
struct LengthSample {
    double prompt_tokens = 0;
    double output_tokens = 0;
    std::string prompt;  // ShareGPT: the first turn, to be sent as it is
    std::size_t prompt_words = 0;
    std::size_t answer_words = 0;  // of the turn after it
};

/// Reads ShareGPT's form (a JSON array of objects with `conversations`: [{from, value}, ...]; the first two turns of
/// each, where a person's is the first) or CSV with a header that names `input_tokens` and `output_tokens`.
/// Error: invalid_argument with the row. Pure.
base::Result<std::vector<LengthSample>> parse_lengths(std::string_view text);

struct LengthOptions {
    WordLength word_length = {};                                                  // of texts
    std::uint32_t divisor = 1;                                                    // > 0: of lengths, not of texts
    std::uint32_t prompt_tokens_max = std::numeric_limits<std::uint32_t>::max();  // longer: left out, like vLLM does
    std::uint32_t output_tokens_max = std::numeric_limits<std::uint32_t>::max();
    std::uint64_t seed = 0;
};

/// Gives each request of `plan` the lengths of a sample drawn at random, and returns the texts to send, if there are
/// any, in the plan's order. Samples whose prompt is too long are never drawn, longer answers are cut.
/// Error: invalid_argument when none is left. Pure.
base::Result<std::vector<std::string>> draw_lengths(std::vector<PlannedRequest>& plan,
                                                    const std::vector<LengthSample>& samples,
                                                    const LengthOptions& options);

}  // namespace bench
