#include "cli/model/child.h"

#include <unistd.h>

#include <chrono>

#include "tests/cli/folder.h"
#include "tests/support/catch.h"

using namespace cli::model;

namespace {

base::Result<void> go_on() {
    return {};
}

}  // namespace

TEST_CASE("a child's output, folder, environment and status are as asked", "[cli][model]") {
    const cli_test::Folder folder;
    const auto status = run_child({.command = {"sh", "-c", "pwd; echo $GREETING; echo oops >&2; cat; exit 7"},
                                   .environment = {{"GREETING", "hello"}},
                                   .folder = folder.path(),
                                   .log = folder.path() / "log"},
                                  go_on);
    REQUIRE(status);
    CHECK(*status == 7);
    CHECK(cli_test::read(folder.path() / "log") ==
          std::filesystem::canonical(folder.path()).string() + "\nhello\noops\n");
}

TEST_CASE("a program that is not there is status 127, one that is killed 128 and the signal", "[cli][model]") {
    const cli_test::Folder folder;
    const auto log = folder.path() / "log";
    CHECK(run_child({.command = {"sluice-no-such-program"}, .folder = folder.path(), .log = log}, go_on).value() ==
          127);
    CHECK(run_child({.command = {"sh", "-c", "kill -9 $$"}, .folder = folder.path(), .log = log}, go_on).value() ==
          137);
}

TEST_CASE("a child ends, with what it has started, when the work is given up", "[cli][model]") {
    const cli_test::Folder folder;
    const auto pid_file = folder.path() / "pid";
    const auto status = run_child({.command = {"sh", "-c", "sleep 1000 & echo $! > pid; wait"},
                                   .folder = folder.path(),
                                   .log = folder.path() / "log"},
                                  [&]() -> base::Result<void> {
                                      if (cli_test::read(pid_file).find('\n') == std::string::npos) { return {}; }
                                      return base::fail(base::ErrorCode::cancelled, "enough");
                                  });
    REQUIRE_FALSE(status);
    CHECK(status.error().code == base::ErrorCode::cancelled);
    // The sleeping one is an orphan now: whoever takes orphans in may need a moment.
    const std::string stat = "/proc/" + std::to_string(std::stoi(cli_test::read(pid_file))) + "/stat";
    const auto is_gone = [&] {
        const std::string text = cli_test::read(stat);
        return text.empty() || text.find(") Z ") != std::string::npos;
    };
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (!is_gone() && std::chrono::steady_clock::now() < deadline) {
        ::usleep(1000);
    }
    CHECK(is_gone());
}
