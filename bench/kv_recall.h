#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/result.h"

namespace text {
class Tokenizer;
}

namespace bench {

/// A prompt with something to find in it, and what was to be found.
struct RecallItem {
    std::vector<base::TokenId> prompt;  // two tokens or more
    std::vector<base::TokenId> answer;  // not empty
};

/// Lines of LongEval (JSON lines with `prompt`, `correct_line` and `expected_number`; .gz or plain): the record, the
/// question, and the line that is asked for up to its number, which is to be found. Those of at most `tokens_max`
/// tokens, `items_max` of them. `lines_max` above 0: only so many lines of each record, the right one among them.
/// Errors: not_found, invalid_argument (with the line), also where none is short enough.
base::Result<std::vector<RecallItem>> read_longeval(const std::string& path, const text::Tokenizer& tokenizer,
                                                    std::uint32_t lines_max, std::size_t tokens_max,
                                                    std::size_t items_max);

/// `items` prompts of about `context` tokens out of a text, each with a sentence about a pass key of five digits at
/// another depth, and a question for it at the end. The same for the same text. Error: invalid_argument (the text is
/// too short).
base::Result<std::vector<RecallItem>> make_passkeys(std::string_view text, const text::Tokenizer& tokenizer,
                                                    std::size_t context, std::size_t items);

}  // namespace bench
