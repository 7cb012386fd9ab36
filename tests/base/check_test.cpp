#include "base/check.h"

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <string>

namespace {

void require_below(int value, int limit) {
    CHECK(value < limit, "value " << value << " of " << limit);
}
void require_plain(bool value) {
    CHECK(value);
}

}  // namespace

#include "tests/support/catch.h"

namespace {

/// What the child says on stderr before it dies of SIGABRT; empty when it lives.
template <class Body>
std::string last_words(Body body) {
    int ends[2];
    REQUIRE(pipe(ends) == 0);
    const pid_t child = fork();
    if (child == 0) {
        std::signal(SIGABRT, SIG_DFL);
        dup2(ends[1], STDERR_FILENO);
        body();
        _exit(0);
    }
    close(ends[1]);
    std::string words;
    char buffer[512];
    for (ssize_t got = read(ends[0], buffer, sizeof buffer); got > 0; got = read(ends[0], buffer, sizeof buffer)) {
        words.append(buffer, static_cast<std::size_t>(got));
    }
    close(ends[0]);
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child);
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGABRT) { return {}; }
    return words;
}

}  // namespace

TEST_CASE("a CHECK that fails prints condition, place and values and stops the process", "[base]") {
    const std::string words = last_words([] { require_below(7, 5); });
    CAPTURE(words);
    REQUIRE(words.find("CHECK failed: value < limit at ") == 0);
    REQUIRE(words.find("check_test.cpp:") != std::string::npos);
    REQUIRE(words.find(": value 7 of 5\n") != std::string::npos);
    REQUIRE(last_words([] { require_plain(false); }).find("CHECK failed: value at ") == 0);
}

TEST_CASE("a CHECK that holds does nothing", "[base]") {
    require_below(4, 5);
    require_plain(true);
    REQUIRE(last_words([] { require_plain(true); }).empty());
}
