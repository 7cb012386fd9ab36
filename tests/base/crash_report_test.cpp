#include "base/crash_report.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <limits>
#include <string>

#include "tests/support/catch.h"

namespace {

struct End {
    int signal_number;
    std::string told;
};

/// How a child that does this ends, and what it says of it.
End fall(const std::function<void()>& act) {
    std::array<int, 2> ends{};
    REQUIRE(pipe(ends.data()) == 0);
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        const rlimit none{};
        setrlimit(RLIMIT_CORE, &none);
        dup2(ends[1], STDERR_FILENO);
        for (const int number : {SIGSEGV, SIGABRT, SIGFPE, SIGILL, SIGBUS, SIGTERM}) {
            signal(number, SIG_DFL);  // Catch has handlers of its own
        }
        base::report_crashes("this test");
        act();
        _exit(0);
    }
    close(ends[1]);
    End end{};
    std::array<char, 4096> piece{};
    for (ssize_t count = 0; (count = read(ends[0], piece.data(), piece.size())) > 0;) {
        end.told.append(piece.data(), static_cast<std::size_t>(count));
    }
    close(ends[0]);
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child);
    REQUIRE(WIFSIGNALED(status));
    end.signal_number = WTERMSIG(status);
    return end;
}

std::size_t lines_of(const std::string& text) {
    return static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n'));
}

/// Deeper than any stack; what the frames hold is used, so that they stay.
std::size_t descend(std::size_t depth) {
    if (depth == std::numeric_limits<std::size_t>::max()) { return 0; }
    volatile char room[4096] = {};
    room[depth % sizeof(room)] = static_cast<char>(depth);
    return descend(depth + 1) + static_cast<std::size_t>(room[0]);
}

}  // namespace

TEST_CASE("Who touches memory that is not there says which, and where it stood") {
    volatile std::uintptr_t place = 0x1234;
    const End end = fall([&] { *reinterpret_cast<volatile int*>(place) = 1; });
    REQUIRE(end.signal_number == SIGSEGV);
    REQUIRE(end.told.starts_with("this test ends by SIGSEGV in thread "));
    REQUIRE(end.told.find(", address 0x1234. It stood here") != std::string::npos);
    REQUIRE(lines_of(end.told) >= 3);
}

TEST_CASE("A signal of another process has no address") {
    const End end = fall([] { kill(getpid(), SIGSEGV); });
    REQUIRE(end.signal_number == SIGSEGV);
    REQUIRE(end.told.find("address") == std::string::npos);
    REQUIRE(end.told.find("ends by SIGSEGV") != std::string::npos);
}

TEST_CASE("abort() is told, and ends as it would") {
    const End end = fall([] { std::abort(); });
    REQUIRE(end.signal_number == SIGABRT);
    REQUIRE(end.told.starts_with("this test ends by SIGABRT in thread "));
    REQUIRE(lines_of(end.told) >= 3);
}

TEST_CASE("A stack that overflows is told too") {
    const End end = fall([] { _exit(static_cast<int>(descend(0))); });
    REQUIRE(end.signal_number == SIGSEGV);
    REQUIRE(end.told.starts_with("this test ends by SIGSEGV in thread "));
}

TEST_CASE("Who is asked to end says nothing") {
    const End end = fall([] { kill(getpid(), SIGTERM); });
    REQUIRE(end.signal_number == SIGTERM);
    REQUIRE(end.told.empty());
}
