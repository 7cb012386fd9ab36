#pragma once

#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <thread>

#include "caching/store/shared_server.h"
#include "tests/support/catch.h"

namespace test_support {

/// A real Valkey or Redis server on a socket of this machine, in a folder that goes with it.
class KeyValueServer {
public:
    KeyValueServer() {
        ::signal(SIGPIPE, SIG_IGN);  // hiredis writes to a server that is gone; our processes ignore it, too
        char name[] = "/tmp/sluice-kv-XXXXXX";
        REQUIRE(mkdtemp(name) != nullptr);
        folder_ = name;
    }
    ~KeyValueServer() {
        stop(SIGKILL);
        std::filesystem::remove_all(folder_);
    }
    KeyValueServer(const KeyValueServer&) = delete;
    KeyValueServer& operator=(const KeyValueServer&) = delete;

    /// The server's file; empty where the machine has none (scripts/bootstrap --test).
    static std::string program() {
        // The package of the tools has the server by the name of one of them, which it then goes by.
        for (const char* path : {"/usr/bin/valkey-server", "/usr/bin/redis-server", "/usr/bin/valkey-check-rdb",
                                 "/usr/bin/redis-check-rdb"}) {
            if (access(path, X_OK) == 0) { return path; }
        }
        return {};
    }

    /// Until it answers.
    void start(const std::string& more_name = "", const std::string& more_value = "") {
        const std::string file = program();
        REQUIRE_FALSE(file.empty());
        pid_ = fork();
        REQUIRE(pid_ >= 0);
        if (pid_ == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            const std::string log = (folder_ / "log").string();
            const std::string dir = folder_.string();
            const std::string at = path();
            const bool has_more = !more_name.empty();
            execl(file.c_str(), "redis-server", "--port", "0", "--unixsocket", at.c_str(), "--dir", dir.c_str(),
                  "--save", "", "--logfile", log.c_str(), has_more ? more_name.c_str() : static_cast<char*>(nullptr),
                  more_value.c_str(), static_cast<char*>(nullptr));
            _exit(127);
        }
        const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(1);
        while (!caching::SharedServer::connect(options("probe"))) {
            REQUIRE(std::chrono::steady_clock::now() < end);
            std::this_thread::sleep_for(std::chrono::milliseconds(5));
        }
    }
    void stop(int signal_number) {
        if (pid_ <= 0) { return; }
        kill(pid_, signal_number);
        if (signal_number == SIGSTOP) { waitpid(pid_, nullptr, WUNTRACED); }  // it may have answered until then
        if (signal_number == SIGSTOP || signal_number == SIGCONT) { return; }
        kill(pid_, SIGCONT);
        waitpid(pid_, nullptr, 0);
        pid_ = 0;
    }
    caching::SharedServer::Options options(const std::string& name = "sluice") const {
        caching::SharedServer::Options options;
        options.address.path = path();
        options.name = name;
        options.answer_timeout = std::chrono::seconds(20);
        return options;
    }
    std::string path() const { return (folder_ / "socket").string(); }

private:
    std::filesystem::path folder_;
    pid_t pid_ = 0;
};

/// False, with a word in the test's output, on a machine without such a server.
inline bool has_key_value_server() {
    if (!KeyValueServer::program().empty()) { return true; }
    WARN("SKIPPED: this machine has no Valkey and no Redis (scripts/bootstrap --test)");
    return false;
}

}  // namespace test_support
