#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/result.h"
#include "bench/record.h"

namespace bench {

/// Blocks of a prompt with consecutive ids: equal ids are equal tokens.
struct BlockRun {
    std::uint64_t first = 0;
    std::uint32_t count = 0;
    bool operator==(const BlockRun&) const = default;
};

/// When a request falls due and how long it is.
struct PlannedRequest {
    Seconds due{};  // from the start of the run; plans are in ascending order
    std::uint32_t prompt_tokens = 0;
    std::uint32_t output_tokens = 0;

    // Turns of a conversation (sessions.h).
    std::uint64_t session = 0;              // 0: none
    std::optional<std::size_t> after = {};  // the request of the plan whose end it waits for; `due` is not used then
    Seconds think{};                        // from that end until it falls due
    std::vector<BlockRun> blocks = {};      // what its prompt consists of; empty: random
    std::uint32_t block_tokens = 0;
};

enum class Arrival { poisson, constant };

struct SyntheticWorkload {
    Arrival arrival = Arrival::poisson;
    double rate = 1;  // requests/s, > 0
    std::size_t requests = 100;
    std::uint64_t seed = 0;
    std::uint32_t prompt_tokens = 128;
    std::uint32_t output_tokens = 64;
    double length_spread = 0;  // 0..1: lengths are uniform in [(1 - spread) * n, (1 + spread) * n], at least 1
};

/// The same plan for the same values, on every machine. The first request is due after one gap. Pure.
std::vector<PlannedRequest> plan_synthetic(const SyntheticWorkload& workload);

struct TraceOptions {
    double time_scale = 1;             // > 0; 2 plays the trace at half its speed
    std::uint32_t length_divisor = 1;  // > 0
    std::size_t requests = 0;          // take the first that many; 0: all
    std::uint32_t prompt_tokens_max = std::numeric_limits<std::uint32_t>::max();  // longer ones are cut to this
    std::uint32_t output_tokens_max = std::numeric_limits<std::uint32_t>::max();
    bool with_blocks = false;  // PlannedRequest::blocks of `hash_ids`, where a row has them
};

/// Tokens of the blocks that `hash_ids` name where a row does not say: Mooncake's.
inline constexpr std::uint32_t kTraceBlockTokens = 512;

/// Reads a trace: JSON lines with `timestamp` (ms), `input_length`, `output_length`, or CSV with a header that names
/// `arrival_s`, `input_tokens`, `output_tokens`. JSON lines may have `hash_ids` (of consecutive prefix blocks; the last
/// may be in part) and `block_tokens`. Rows are put in order of arrival and moved so that the first is due at
/// 0. Error: invalid_argument with the line when a row cannot be read, or nothing is in the trace. Pure.
base::Result<std::vector<PlannedRequest>> parse_trace(std::string_view text, const TraceOptions& options);

/// A prompt as text (chat: one user message) or as token ids.
using Prompt = std::variant<std::string, std::vector<std::int32_t>>;

/// How long a text of this many words is for the server's tokenizer: measured with two probes, or the default for
/// English.
struct WordLength {
    double tokens_fixed = 0;       // template, BOS
    double tokens_per_word = 1.3;  // > 0
};

/// Makes prompts of wanted lengths from a seed. Not thread-safe.
class PromptMaker {
public:
    struct Options {
        std::uint64_t seed = 0;
        WordLength word_length = {};
        bool token_ids = false;  // exact lengths, for /v1/completions
        std::int32_t token_id_first = 10;
        std::int32_t token_id_last = 400;        // inclusive; must exist in the model
        std::vector<std::string> texts = {};     // taken in turn instead of random words when not empty
        std::uint32_t shared_prefix_tokens = 0;  // the same first tokens in every prompt, to measure prefix hits
    };
    explicit PromptMaker(Options options);

    /// About `tokens` (> 0) tokens long; exactly with token ids.
    Prompt make(std::uint32_t tokens);
    /// The same from blocks of `block_tokens` (> 0) tokens: which tokens are in a block depends on its id and the seed
    /// alone, so prompts begin alike exactly where their blocks do. Cut or filled up to `tokens`.
    Prompt make(std::uint32_t tokens, std::span<const BlockRun> blocks, std::uint32_t block_tokens);

    /// `count` words from `random`, separated by spaces.
    static std::string random_words(std::mt19937_64& random, std::size_t count);

private:
    std::size_t words_for(std::uint32_t tokens) const;

    Options options_;
    std::mt19937_64 random_;
    std::size_t next_text_ = 0;
};

/// From two probes of the same server: `words` sent and prompt tokens counted. The default when they tell nothing.
WordLength fit_word_length(std::size_t words_a, std::uint32_t tokens_a, std::size_t words_b, std::uint32_t tokens_b);

/// Prompts of a file: each line a JSON object with `prompt` (string), or each line a text. Empty lines are passed over.
/// Error: invalid_argument when a line that begins with `{` is not such an object, or the file has none.
base::Result<std::vector<std::string>> parse_prompts(std::string_view text);

}  // namespace bench
