#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "gateway/openai/errors.h"
#include "gateway/request/special_texts.h"

namespace gateway {

/// Keeps what a client wrote apart from what the chat template writes: every string of the template's context gets a
/// mark behind each character at which the text of a special token begins, wherever the template prints it (contents,
/// names, arguments of calls, tools, documents, variables). Behind the template the marks are taken out again, and are
/// the places at which the tokenizer finds no such token. The mark is a character that occurs nowhere in the request,
/// and all work is linear in the request's size.
class DataMarks {
public:
    /// `texts` is borrowed.
    explicit DataMarks(const SpecialTexts& texts) : texts_(texts) {}

    /// The template's context (a JSON object) with marks where it needs any. Error: 400 when the request holds every
    /// character that could be a mark.
    ApiResult<std::string> mark(std::string context);

    struct Rendered {
        std::string text;
        std::vector<std::size_t> text_starts;  // bytes of `text`, ascending
    };
    /// What the template made of it, without the marks. After mark().
    Rendered unmark(std::string rendered) const;

private:
    const SpecialTexts& texts_;
    std::string mark_;     // empty: none was needed
    std::string escaped_;  // the mark as "\ue000", as a template prints it inside of a list or in ASCII
};

}  // namespace gateway
