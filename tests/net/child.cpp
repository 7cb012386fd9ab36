#include "tests/net/child.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/check.h"

namespace net_test {

Child::Child(const std::string& program, const std::vector<std::string>& arguments) {
    int in[2];
    int out[2];
    CHECK(pipe2(in, O_CLOEXEC) == 0 && pipe2(out, O_CLOEXEC) == 0);
    std::vector<std::string> all{program};
    all.insert(all.end(), arguments.begin(), arguments.end());
    std::vector<char*> argv;
    for (std::string& argument : all) {
        argv.push_back(argument.data());
    }
    argv.push_back(nullptr);
    pid_ = fork();
    CHECK(pid_ >= 0);
    if (pid_ == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(in[0], STDIN_FILENO);
        dup2(out[1], STDOUT_FILENO);
        // What UCX opened in the parent must not live on here: a peer's death would go unseen.
        close_range(3, ~0u, 0);
        execv(argv[0], argv.data());
        _exit(127);
    }
    close(in[0]);
    close(out[1]);
    to_child_ = fdopen(in[1], "w");
    from_child_ = fdopen(out[0], "r");
}

Child::~Child() {
    kill();
    std::fclose(to_child_);
    std::fclose(from_child_);
}

std::string Child::read_line() {
    std::string line;
    for (int c = std::fgetc(from_child_); c != EOF && c != '\n'; c = std::fgetc(from_child_)) {
        line.push_back(static_cast<char>(c));
    }
    return line;
}

void Child::write_line(const std::string& line) {
    std::fprintf(to_child_, "%s\n", line.c_str());
    std::fflush(to_child_);
}

void Child::signal(int number) {
    if (pid_ <= 0) { return; }
    ::kill(pid_, number);
    if (number != SIGSTOP) { return; }
    int status = 0;
    const pid_t stopped = ::waitpid(pid_, &status, WUNTRACED);
    CHECK(stopped == pid_ && WIFSTOPPED(status), "the child ended instead of stopping");
}

void Child::kill() {
    if (pid_ <= 0) { return; }
    ::kill(pid_, SIGKILL);
    wait();
}

int Child::wait() {
    if (pid_ <= 0) { return -1; }
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

std::string to_hex(const std::string& bytes) {
    constexpr char kDigits[] = "0123456789abcdef";
    std::string hex;
    for (const char c : bytes) {
        const auto byte = static_cast<unsigned char>(c);
        hex.push_back(kDigits[byte >> 4]);
        hex.push_back(kDigits[byte & 15]);
    }
    return hex;
}

std::string from_hex(const std::string& hex) {
    std::string bytes;
    for (std::size_t i = 0; i + 1 < hex.size(); i += 2) {
        bytes.push_back(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
    }
    return bytes;
}

}  // namespace net_test
