#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "base/ids.h"

namespace base {

/// Where the reasoning of an answer stands, and how long it may become.
struct ReasoningRule {
    TokenId begin = -1;                            // a first token that opens it
    TokenId end = -1;                              // closes it
    bool is_begun = false;                         // the prompt has opened it
    std::optional<std::uint32_t> tokens_max = {};  // between the two; then `end` is the next token. Empty: any number
    bool operator==(const ReasoningRule&) const = default;
};

/// How far an answer is in its reasoning. Follows from its tokens alone, so that one that is computed again, or goes on
/// elsewhere, stands where it stood.
class ReasoningState {
public:
    explicit ReasoningState(const ReasoningRule& rule) : rule_(rule), is_inside_(rule.is_begun) {}

    /// All tokens of the answer so far; those before are the same as in earlier calls.
    void follow(std::span<const TokenId> generated) {
        for (; seen_ < generated.size(); ++seen_) {
            take(generated[seen_]);
        }
    }

    /// The next token may open it.
    bool may_begin() const { return seen_ == 0 && !is_inside_; }
    bool is_inside() const { return is_inside_; }
    /// Of its text, without the tokens that open and close it.
    std::uint32_t tokens() const { return tokens_; }
    /// Tokens of the answer up to and with the one that closed it; 0: there was no reasoning, or it still goes on.
    std::size_t answer_begin() const { return answer_begin_; }
    /// What the next token has to be.
    std::optional<TokenId> forced() const {
        const bool is_spent = is_inside_ && rule_.tokens_max && tokens_ >= *rule_.tokens_max;
        return is_spent ? std::optional(rule_.end) : std::nullopt;
    }

private:
    void take(TokenId token) {
        if (is_inside_ && token == rule_.end) {
            is_inside_ = false;
            answer_begin_ = seen_ + 1;
        } else if (is_inside_) {
            ++tokens_;
        } else if (seen_ == 0 && token == rule_.begin) {
            is_inside_ = true;
        }
    }

    ReasoningRule rule_;
    bool is_inside_;
    std::size_t seen_ = 0;
    std::uint32_t tokens_ = 0;
    std::size_t answer_begin_ = 0;
};

}  // namespace base
