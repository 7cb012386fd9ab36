#include "gateway/file_watch.h"

namespace gateway {

bool FileWatch::changed() {
    struct ::stat now{};
    if (::stat(path_.c_str(), &now) != 0) { now = {}; }
    const auto same = [](const ::timespec& one, const ::timespec& other) {
        return one.tv_sec == other.tv_sec && one.tv_nsec == other.tv_nsec;
    };
    const bool is_other = now.st_ino != seen_.st_ino || now.st_size != seen_.st_size ||
                          !same(now.st_mtim, seen_.st_mtim) || !same(now.st_ctim, seen_.st_ctim);
    seen_ = now;
    return is_other;
}

}  // namespace gateway
