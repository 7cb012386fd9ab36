#pragma once

#include <cstddef>
#include <memory>

#include "text/shim/sluice_text.h"
#include "text/text_process.h"
#include "text/tokenizer.h"

namespace text {

/// What a Tokenizer owns; seen by its own sources and the detokenizer only.
struct Tokenizer::Parts {
    std::shared_ptr<TextProcess> process;  // null: `handle` is the tokenizer
    SluiceTokenizer* handle = nullptr;
    SluiceTokenTable table{};  // its pointers are the handle's or the process's
    std::size_t text_bytes_max = 0;

    bool has(base::TokenId token) const { return token >= 0 && static_cast<std::size_t>(token) < table.tokens; }
};

}  // namespace text
