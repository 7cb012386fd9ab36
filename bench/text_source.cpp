#include "bench/text_source.h"

#include <boost/json.hpp>
#include <string_view>

#include "bench/packed_file.h"

namespace bench {
namespace {

using base::ErrorCode;
using base::Result;

/// Cuts `text` to at most `bytes` bytes, before a character and not within one.
void cut(std::string& text, std::size_t bytes) {
    if (text.size() <= bytes) { return; }
    const auto continues = [&text](std::size_t at) { return (static_cast<unsigned char>(text[at]) & 0xc0u) == 0x80u; };
    while (bytes > 0 && continues(bytes)) {
        --bytes;
    }
    text.resize(bytes);
}

Result<std::string> text_of_row(std::string_view line) {
    boost::system::error_code error;
    const boost::json::value row = boost::json::parse(line, error);
    const boost::json::value* text = !error && row.is_object() ? row.get_object().if_contains("text") : nullptr;
    if (text == nullptr || !text->is_string()) {
        return base::fail(ErrorCode::invalid_argument, "is no JSON object with a text in its field \"text\"");
    }
    return std::string(text->get_string());
}

Result<TextSource> read_plain(const std::string& path, std::size_t bytes_max) {
    auto file = PackedFile::open(path);
    if (!file) { return base::pass_on(file); }
    TextSource source;
    for (bool more = true; more && source.text.size() <= bytes_max;) {
        const auto read = file->append_piece(source.text);
        if (!read) { return base::pass_on(read); }
        more = *read;
    }
    return source;
}

Result<TextSource> read_rows(const std::string& path, std::size_t bytes_max) {
    TextSource source;
    const auto read = each_line(path, [&](std::string_view line) -> Result<bool> {
        const auto text = text_of_row(line);
        if (!text) { return base::pass_on(text); }
        if (source.rows > 0) { source.text += "\n\n"; }
        source.text += *text;
        ++source.rows;
        return source.text.size() <= bytes_max;
    });
    if (!read) { return base::pass_on(read); }
    return source;
}

}  // namespace

Result<TextSource> read_text_source(const std::string& path, std::size_t bytes_max) {
    const bool has_rows = path.ends_with(".jsonl") || path.ends_with(".jsonl.gz");
    auto source = has_rows ? read_rows(path, bytes_max) : read_plain(path, bytes_max);
    if (!source) { return source; }
    source->is_cut = source->text.size() > bytes_max;
    cut(source->text, bytes_max);
    return source;
}

}  // namespace bench
