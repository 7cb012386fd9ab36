#include "cli/model/child.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "cli/model/part_file.h"
#include "engine/model/read_file.h"

extern char** environ;

namespace cli::model {
namespace {

using base::ErrorCode;
using base::Result;

constexpr int kTickMs = 200;
constexpr auto kEndPatience = std::chrono::seconds(5);  // from the request to end until it is killed

/// Ours with the child's on top, as `name=value`.
std::vector<std::string> merged_environment(const Child& child) {
    std::vector<std::string> merged;
    for (char** entry = environ; *entry != nullptr; ++entry) {
        const std::string_view text(*entry);
        const std::string_view name = text.substr(0, text.find('='));
        bool is_replaced = false;
        for (const auto& [key, value] : child.environment) {
            is_replaced = is_replaced || key == name;
        }
        if (!is_replaced) { merged.emplace_back(text); }
    }
    for (const auto& [key, value] : child.environment) {
        merged.push_back(key + "=" + value);
    }
    return merged;
}

std::vector<char*> pointers_to(std::vector<std::string>& texts) {
    std::vector<char*> pointers;
    for (std::string& text : texts) {
        pointers.push_back(text.data());
    }
    pointers.push_back(nullptr);
    return pointers;
}

/// Between fork and exec: only calls that are safe there.
[[noreturn]] void become(char* const* command, char* const* environment, const char* folder, int input, int log,
                         ::pid_t parent) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) { ::_exit(127); }
    ::setpgid(0, 0);  // its own helpers end with it
    sigset_t none;
    sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    ::signal(SIGPIPE, SIG_DFL);
    if (::chdir(folder) != 0 || ::dup2(input, 0) < 0 || ::dup2(log, 1) < 0 || ::dup2(log, 2) < 0) { ::_exit(126); }
    ::execvpe(command[0], command, environment);
    ::_exit(127);
}

/// A started child that is ended when nobody has waited for it.
class Running {
public:
    Running(::pid_t pid, int handle) : pid_(pid), handle_(handle) {}
    Running(const Running&) = delete;
    Running& operator=(const Running&) = delete;
    ~Running() {
        if (pid_ <= 0) { return; }
        ::kill(-pid_, SIGTERM);
        if (!wait_for(std::chrono::duration_cast<std::chrono::milliseconds>(kEndPatience).count())) {
            ::kill(-pid_, SIGKILL);
            (void)status();
        }
    }

    /// True when it has ended within that time.
    bool wait_for(long milliseconds) const {
        pollfd waits{handle_.number(), POLLIN, 0};
        return ::poll(&waits, 1, static_cast<int>(milliseconds)) > 0;
    }
    /// Takes the end of a child that has ended, or will at once.
    int status() {
        int status = 0;
        while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {}
        pid_ = 0;
        return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    }

private:
    ::pid_t pid_;
    Descriptor handle_;
};

}  // namespace

Result<int> run_child(const Child& child, const std::function<Result<void>()>& tick) {
    const Descriptor log(::open(child.log.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
    if (log.number() < 0) { return tl::unexpected(engine::system_error("open", child.log, errno)); }
    const Descriptor input(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    std::vector<std::string> command = child.command;
    std::vector<std::string> environment = merged_environment(child);
    const std::vector<char*> arguments = pointers_to(command);
    const std::vector<char*> variables = pointers_to(environment);
    const std::string folder = child.folder.string();

    const ::pid_t parent = ::getpid();
    const ::pid_t pid = ::fork();
    if (pid < 0) { return base::fail(ErrorCode::resource_exhausted, std::string("fork: ") + std::strerror(errno)); }
    if (pid == 0) { become(arguments.data(), variables.data(), folder.c_str(), input.number(), log.number(), parent); }
    ::setpgid(pid, pid);  // both do: whoever comes first
    const int handle = static_cast<int>(::syscall(SYS_pidfd_open, pid, 0));
    const int error_number = errno;
    Running running(pid, handle);
    if (handle < 0) {
        return base::fail(ErrorCode::internal, std::string("pidfd_open: ") + std::strerror(error_number));
    }

    const auto deadline = std::chrono::steady_clock::now() + child.whole;
    while (!running.wait_for(kTickMs)) {
        if (const auto ticked = tick(); !ticked) { return base::pass_on(ticked); }
        if (std::chrono::steady_clock::now() > deadline) {
            return base::fail(ErrorCode::deadline_exceeded,
                              command[0] + " took longer than " + std::to_string(child.whole.count()) + " minutes");
        }
    }
    return running.status();
}

}  // namespace cli::model
