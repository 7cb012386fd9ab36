#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace bench {

using Seconds = std::chrono::duration<double>;

/// What happened to one request. Times count from the start of the run.
struct RequestRecord {
    std::size_t index = 0;
    std::uint64_t session = 0;  // conversation it belongs to; 0: none
    std::uint32_t prompt_tokens_asked = 0;
    std::uint32_t output_tokens_asked = 0;

    Seconds due{};                     // when the plan wanted it sent: latencies count from here
    Seconds sent{};                    // when the generator began to connect or write
    std::vector<Seconds> token_times;  // when each chunk with text arrived
    Seconds end{};                     // when the answer was complete or had failed

    std::uint32_t prompt_tokens = 0;  // as the server counted; 0 when it did not say
    std::uint32_t cached_tokens = 0;  // of them, from a prefix cache
    std::uint32_t output_tokens = 0;  // as the server counted, else the number of chunks with text
    int http_status = 0;              // 0 when there was no answer
    std::string error_kind;           // empty when all went well, else a word to count by, e.g. "http_429", "timeout"
    std::string error_message;

    bool is_ok() const { return error_kind.empty(); }
    /// Due until the first text. Empty when none came.
    std::optional<Seconds> ttft() const {
        if (token_times.empty()) { return std::nullopt; }
        return token_times.front() - due;
    }
    /// Mean gap of the tokens after the first. Empty below two tokens.
    std::optional<Seconds> tpot() const {
        if (token_times.size() < 2 || output_tokens < 2) { return std::nullopt; }
        return (token_times.back() - token_times.front()) / static_cast<double>(output_tokens - 1);
    }
    /// Due until the answer was complete.
    Seconds end_to_end() const { return end - due; }
};

/// A target that is not set always holds.
struct SloTargets {
    std::optional<Seconds> ttft = {};
    std::optional<Seconds> tpot = {};
    std::optional<Seconds> end_to_end = {};

    bool is_any() const { return ttft || tpot || end_to_end; }
};

/// Whether the request was answered, in time by all targets. An answer of one token has no TPOT and cannot miss it.
bool meets(const SloTargets& targets, const RequestRecord& record);

}  // namespace bench
