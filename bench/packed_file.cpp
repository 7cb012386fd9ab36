#include "bench/packed_file.h"

#include <zlib.h>

#include <cerrno>
#include <cstring>

namespace bench {
namespace {

using base::ErrorCode;
using base::Result;

constexpr std::size_t kLineBytesMax = std::size_t{64} << 20;
constexpr unsigned kPieceBytes = 1u << 16;

}  // namespace

void PackedFile::Close::operator()(gzFile_s* file) const {
    gzclose(file);
}

Result<PackedFile> PackedFile::open(const std::string& path) {
    errno = 0;
    if (gzFile_s* file = gzopen(path.c_str(), "rb")) { return PackedFile(path, file); }
    const ErrorCode code = errno == EACCES ? ErrorCode::permission_denied : ErrorCode::not_found;
    return base::fail(code, "cannot open " + path + ": " + std::strerror(errno == 0 ? ENOMEM : errno));
}

Result<bool> PackedFile::append_piece(std::string& text) {
    const std::size_t before = text.size();
    text.resize(before + kPieceBytes);
    const int read = gzread(file_.get(), text.data() + before, kPieceBytes);
    text.resize(before + static_cast<std::size_t>(read < 0 ? 0 : read));
    int number = Z_OK;
    const char* what = gzerror(file_.get(), &number);
    if (read < 0 || (number != Z_OK && number != Z_STREAM_END)) {
        return base::fail(ErrorCode::data_loss, "cannot read " + path_ + ": " + what);
    }
    return read > 0;
}

Result<std::string> read_packed(const std::string& path, std::size_t bytes_max) {
    auto file = PackedFile::open(path);
    if (!file) { return base::pass_on(file); }
    std::string text;
    while (true) {
        const auto more = file->append_piece(text);
        if (!more) { return base::pass_on(more); }
        if (!*more) { return text; }
        if (text.size() > bytes_max) {
            return base::fail(ErrorCode::resource_exhausted,
                              path + " holds more than " + std::to_string(bytes_max >> 20) + " MiB of text");
        }
    }
}

Result<void> each_line(const std::string& path, const std::function<Result<bool>(std::string_view)>& take) {
    auto file = PackedFile::open(path);
    if (!file) { return base::pass_on(file); }
    std::string pending;  // not yet taken apart
    std::size_t line_number = 0;
    for (bool more = true; more;) {
        const auto read = file->append_piece(pending);
        if (!read) { return base::pass_on(read); }
        more = *read;
        if (!more && !pending.empty() && !pending.ends_with('\n')) { pending += '\n'; }
        std::size_t begin = 0;
        for (std::size_t end = 0; (end = pending.find('\n', begin)) != std::string::npos; begin = end + 1) {
            const std::string_view line = std::string_view(pending).substr(begin, end - begin);
            ++line_number;
            if (line.find_first_not_of(" \t\r") == std::string_view::npos) { continue; }
            const auto goes_on = take(line);
            if (!goes_on) { return base::pass_on(goes_on, path + ": line " + std::to_string(line_number)); }
            if (!*goes_on) { return {}; }
        }
        pending.erase(0, begin);
        if (pending.size() > kLineBytesMax) {
            return base::fail(ErrorCode::invalid_argument,
                              path + ": line " + std::to_string(line_number + 1) + " has more than 64 MiB");
        }
    }
    return {};
}

}  // namespace bench
