#include "bench/text_source.h"

#include <zlib.h>

#include <boost/json.hpp>
#include <cerrno>
#include <cstring>
#include <memory>
#include <string_view>

namespace bench {
namespace {

using base::ErrorCode;
using base::Result;

constexpr std::size_t kLineBytesMax = std::size_t{64} << 20;
constexpr unsigned kPieceBytes = 1u << 16;

struct CloseGzip {
    void operator()(gzFile_s* file) const { gzclose(file); }
};
using GzipFile = std::unique_ptr<gzFile_s, CloseGzip>;

/// Opens a file for reading whether it is compressed or not.
Result<GzipFile> open_gzip(const std::string& path) {
    errno = 0;
    GzipFile file(gzopen(path.c_str(), "rb"));
    if (file != nullptr) { return file; }
    const ErrorCode code = errno == EACCES ? ErrorCode::permission_denied : ErrorCode::not_found;
    return base::fail(code, "cannot open " + path + ": " + std::strerror(errno == 0 ? ENOMEM : errno));
}

/// Appends what comes next to `text`. False at the end of the file.
Result<bool> append_piece(gzFile_s* file, const std::string& path, std::string& text) {
    const std::size_t before = text.size();
    text.resize(before + kPieceBytes);
    const int read = gzread(file, text.data() + before, kPieceBytes);
    text.resize(before + static_cast<std::size_t>(read < 0 ? 0 : read));
    int number = Z_OK;
    const char* what = gzerror(file, &number);
    if (read < 0 || (number != Z_OK && number != Z_STREAM_END)) {
        return base::fail(ErrorCode::data_loss, "cannot read " + path + ": " + what);
    }
    return read > 0;
}

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

Result<TextSource> read_plain(gzFile_s* file, const std::string& path, std::size_t bytes_max) {
    TextSource source;
    for (bool more = true; more && source.text.size() <= bytes_max;) {
        const auto read = append_piece(file, path, source.text);
        if (!read) { return base::pass_on(read); }
        more = *read;
    }
    source.is_cut = source.text.size() > bytes_max;
    cut(source.text, bytes_max);
    return source;
}

Result<TextSource> read_rows(gzFile_s* file, const std::string& path, std::size_t bytes_max) {
    TextSource source;
    std::string pending;  // of the file, not yet taken apart
    std::size_t line_number = 0;
    for (bool more = true; more && source.text.size() <= bytes_max;) {
        const auto read = append_piece(file, path, pending);
        if (!read) { return base::pass_on(read); }
        more = *read;
        if (!more && !pending.empty() && !pending.ends_with('\n')) { pending += '\n'; }
        std::size_t begin = 0;
        for (std::size_t end = 0; (end = pending.find('\n', begin)) != std::string::npos; begin = end + 1) {
            const std::string_view line = std::string_view(pending).substr(begin, end - begin);
            ++line_number;
            if (line.find_first_not_of(" \t\r") == std::string_view::npos) { continue; }
            const auto text = text_of_row(line);
            if (!text) { return base::pass_on(text, path + ": line " + std::to_string(line_number)); }
            if (source.rows > 0) { source.text += "\n\n"; }
            source.text += *text;
            ++source.rows;
            if (source.text.size() > bytes_max) { break; }
        }
        pending.erase(0, begin);
        if (pending.size() > kLineBytesMax) {
            return base::fail(ErrorCode::invalid_argument,
                              path + ": line " + std::to_string(line_number + 1) + " has more than 64 MiB");
        }
    }
    source.is_cut = source.text.size() > bytes_max;
    cut(source.text, bytes_max);
    return source;
}

}  // namespace

Result<TextSource> read_text_source(const std::string& path, std::size_t bytes_max) {
    const auto file = open_gzip(path);
    if (!file) { return base::pass_on(file); }
    const bool has_rows = path.ends_with(".jsonl") || path.ends_with(".jsonl.gz");
    return has_rows ? read_rows(file->get(), path, bytes_max) : read_plain(file->get(), path, bytes_max);
}

}  // namespace bench
