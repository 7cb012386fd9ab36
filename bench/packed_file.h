#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"

struct gzFile_s;  // of zlib

namespace bench {

/// A file of text, compressed by gzip or not, read piece by piece.
class PackedFile {
public:
    /// Errors: not_found, permission_denied, with the path.
    static base::Result<PackedFile> open(const std::string& path);

    /// Appends what comes next to `text`. False at the end. Error: data_loss for a damaged file.
    base::Result<bool> append_piece(std::string& text);

private:
    struct Close {
        void operator()(gzFile_s* file) const;
    };
    PackedFile(std::string path, gzFile_s* file) : path_(std::move(path)), file_(file) {}

    std::string path_;
    std::unique_ptr<gzFile_s, Close> file_;
};

/// All of it. Errors: of the file; resource_exhausted beyond `bytes_max`.
base::Result<std::string> read_packed(const std::string& path, std::size_t bytes_max);

/// Calls `take` for each line of the file that is not blank, until it answers false. Reads no more than it needs.
/// Errors: of the file; what `take` gives, with path and line; invalid_argument for a line of more than 64 MiB.
base::Result<void> each_line(const std::string& path, const std::function<base::Result<bool>(std::string_view)>& take);

}  // namespace bench
