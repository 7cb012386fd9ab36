#pragma once

#include <algorithm>
#include <cstddef>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/ids.h"
#include "gateway/request/stop_matcher.h"
#include "gateway/request/text_port.h"

namespace gateway {

/// Unicode code points of valid UTF-8.
inline std::size_t code_points(std::string_view text) {
    return static_cast<std::size_t>(
        std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

/// One generated (or prompt) token with what was asked about it.
struct TokenRecord {
    base::TokenId token = -1;
    float logprob = 0.0F;                                   // when logprobs were asked for
    std::vector<std::pair<base::TokenId, float>> top = {};  // most likely first; when asked for
    std::size_t text_offset = 0;                            // code points of text made before the token
};

/// What may be shown to the client: text, and the tokens whose text is now wholly out.
struct Piece {
    std::string text;
    std::vector<TokenRecord> tokens;
    bool empty() const { return text.empty() && tokens.empty(); }
};

/// From the tokens of one sequence to what its client sees: detokenizing, stop strings (also across tokens), and the
/// tokens that belong to the text. Owned by one Generation.
class TextStream {
public:
    struct Options {
        std::vector<std::string> stop_strings = {};
        bool include_stop_string = false;
        std::uint32_t tokens_min = 0;  // a stop string that is complete within so many first tokens does not count
    };
    TextStream(std::unique_ptr<Detokenizer> detokenizer, Options options);

    /// The next token; its `text_offset` is set here. After it, `stopped()` may name a stop string: the text then ends
    /// before it (or after it, if included).
    Piece push(TokenRecord record);
    /// The sequence is over: everything held back comes out. The token that ended it (EOS) is not pushed.
    Piece finish();

    /// The stop string that was found.
    std::optional<std::string> stopped() const;

private:
    struct Held {
        TokenRecord record;
        std::size_t begin;  // bytes of text before the token
    };
    /// Lets text out up to byte `end` of the whole text, and the tokens that end at or before it.
    Piece release(std::size_t end, bool all_tokens);

    std::unique_ptr<Detokenizer> detokenizer_;
    Options options_;
    StopMatcher matcher_;
    std::optional<StopMatcher::Match> match_;
    std::string held_text_;
    std::deque<Held> held_tokens_;
    std::size_t produced_ = 0;     // bytes of text that the tokens made
    std::size_t code_points_ = 0;  // of the same text
    std::size_t released_ = 0;     // bytes that went out
    std::uint32_t tokens_ = 0;
};

}  // namespace gateway
