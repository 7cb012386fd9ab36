#pragma once

#include <cstddef>

#include "text/shim/sluice_text.h"
#include "text/tokenizer.h"

namespace text {

/// What a Tokenizer owns; seen by its own sources and the detokenizer only.
struct Tokenizer::Parts {
    SluiceTokenizer* handle = nullptr;
    SluiceTokenTable table{};  // its pointers are the handle's
    std::size_t text_bytes_max = 0;

    bool has(base::TokenId token) const { return token >= 0 && static_cast<std::size_t>(token) < table.tokens; }
};

}  // namespace text
