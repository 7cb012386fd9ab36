#pragma once

#include <cstddef>
#include <string>

#include "base/result.h"

namespace bench {

/// Text to measure a model on.
struct TextSource {
    std::string text;
    std::size_t rows = 0;  // of a .jsonl file that have been read; else 0
    bool is_cut = false;   // there was more than was asked for
};

/// At most `bytes_max` bytes of a file, cut between two characters: a plain text, or `.jsonl`, where each line is an
/// object whose field "text" is taken, with an empty line between two of them. Either may be compressed by gzip
/// (`.jsonl.gz`, `.txt.gz`). Reads no more of the file than it needs.
/// Errors: not_found, permission_denied, data_loss for a damaged gzip file; invalid_argument for a line that is no
/// object with such a field, or longer than 64 MiB, with its number.
base::Result<TextSource> read_text_source(const std::string& path, std::size_t bytes_max);

}  // namespace bench
