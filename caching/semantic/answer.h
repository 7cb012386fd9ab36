#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace caching {

/// A complete answer, once, whatever form it goes out in. All of it is what the model made.
struct Answer {
    std::string content;
    std::string reasoning;
    std::string refusal;
    std::string tool_calls;  // JSON; empty: none
    std::string finish_reason = "stop";
    std::optional<std::string> stop_string = {};  // that ended it, or
    std::optional<std::int64_t> stop_token = {};  // a token that the request named
    std::string model;
    std::uint64_t prompt_tokens = 0;
    std::uint64_t cached_tokens = 0;  // of them
    std::uint64_t completion_tokens = 0;
    std::uint64_t reasoning_tokens = 0;  // of them
    std::int64_t created_unix_us = 0;
};

/// The JSON document that stores keep.
std::string to_document(const Answer& answer);
/// Error: data_loss for what is no such document.
base::Result<Answer> from_document(std::string_view document);

/// Equal for answers that say the same in other blanks; never 0.
std::uint64_t meaning_of(const Answer& answer);

/// Complete and clean, so that it may be given to another: finish_reason "stop", not refused, not empty.
bool may_be_stored(const Answer& answer);

}  // namespace caching
