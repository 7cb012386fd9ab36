#include "base/log_file.h"

#include <fcntl.h>
#include <spdlog/sinks/rotating_file_sink.h>
#include <spdlog/spdlog.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "base/log_pattern.h"

namespace base {

LogFile LogFile::read(Config& config) {
    LogFile file;
    file.path = config.string("log.file", file.path);
    file.bytes_max = static_cast<std::uint64_t>(
        config.integer("log.file_bytes_max", static_cast<std::int64_t>(file.bytes_max), 65'536, 1ll << 40));
    file.files_max = static_cast<std::uint32_t>(config.integer("log.files_max", file.files_max, 1, 1000));
    return file;
}

Result<void> LogFile::open(const std::string& role) const {
    if (path.empty()) { return {}; }
    static const std::string kRole = "{role}";
    std::string name = path;
    if (const auto at = name.find(kRole); at != std::string::npos) { name.replace(at, kRole.size(), role); }
    const std::string lock = name + ".lock";
    const int held = ::open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0640);  // until the process ends
    if (held < 0) {
        return fail(ErrorCode::invalid_argument, "log.file: " + lock + " cannot be made: " + std::strerror(errno));
    }
    if (::flock(held, LOCK_EX | LOCK_NB) != 0) {
        ::close(held);
        return fail(ErrorCode::failed_precondition, "log.file: another process writes " + name +
                                                        "; two would turn it over under each other: name one "
                                                        "for each, or put {role} into the name");
    }
    try {
        auto sink = std::make_shared<spdlog::sinks::rotating_file_sink_mt>(name, bytes_max, files_max);
        sink->set_pattern(log_pattern(role));
        spdlog::default_logger()->sinks() = {std::move(sink)};
    } catch (const spdlog::spdlog_ex& error) {
        ::close(held);
        return fail(ErrorCode::invalid_argument, std::string("log.file: ") + error.what());
    }
    return {};
}

}  // namespace base
