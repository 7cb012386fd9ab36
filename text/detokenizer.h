#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "text/tokenizer.h"

namespace text {

/// Replaces every occurrence of a pattern in a text that comes in pieces, as one pass over the whole would.
class StreamReplacer {
public:
    StreamReplacer(std::string_view pattern, std::string_view replacement)
        : pattern_(pattern), replacement_(replacement) {}
    /// Appends what is now final to `out`; holds back at most pattern - 1 bytes.
    void push(std::string_view text, std::string& out);
    void flush(std::string& out);

private:
    std::string pattern_;
    std::string replacement_;
    std::string held_;
};

/// Tokens to text, one token at a time. What it gives is final and whole UTF-8; all of it together, with flush(), is
/// Tokenizer::decode() of the tokens. Bytes of a character that the vocabulary lacks are held until the character is
/// whole; broken ones become U+FFFD. O(1) amortised per byte. Not thread-safe: one per stream.
class StreamDetokenizer {
public:
    /// Keeps the tokenizer alive.
    explicit StreamDetokenizer(std::shared_ptr<const Tokenizer> tokenizer, const DecodeOptions& options = {});
    /// `tokenizer` must outlive this.
    explicit StreamDetokenizer(const Tokenizer& tokenizer, const DecodeOptions& options = {});

    /// Appends the text that is final after `token` to `out`; often nothing. Ids outside the vocabulary are nothing.
    void push(base::TokenId token, std::string& out);
    std::string push(base::TokenId token);

    /// Appends the rest at the end of the tokens; the object is then spent.
    void flush(std::string& out);
    std::string flush();

private:
    void add_bytes(std::string_view bytes, std::string& out);
    void drain_utf8(bool is_end, std::string& out);
    void emit(std::string_view text, std::string& out);

    std::shared_ptr<const Tokenizer> owner_;  // may be empty
    const Tokenizer* tokenizer_;
    DecodeOptions options_;
    bool is_first_ = true;
    bool owes_space_ = false;            // the space of a suffix, dropped at the end of the text
    std::uint32_t leading_spaces_left_;  // spaces still to strip at the start of the text
    std::string pending_;                // bytes of an unfinished character
    std::vector<StreamReplacer> clean_up_;
};

}  // namespace text
