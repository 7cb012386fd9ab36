#pragma once

#include <sys/stat.h>

#include <string>
#include <utility>

namespace gateway {

/// Whether a file is another one than at the last look: written anew, replaced, gone or back.
class FileWatch {
public:
    explicit FileWatch(std::string path) : path_(std::move(path)) { changed(); }

    const std::string& path() const { return path_; }
    /// Since the last call.
    bool changed();

private:
    std::string path_;
    struct ::stat seen_{};
};

}  // namespace gateway
