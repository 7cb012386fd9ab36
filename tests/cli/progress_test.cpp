#include "cli/model/progress.h"

#include "tests/support/catch.h"

using namespace cli::model;

TEST_CASE("a line of progress has bytes, share, rate and the time that is left", "[cli][model]") {
    CHECK(progress_line("m", 45'200'000, 98'400'000, 12'300'000) == "m: 45.2 MB of 98.4 MB, 45 %, 12.3 MB/s, 5 s left");
    CHECK(progress_line("m", 0, 98'400'000, 0) == "m: 0 bytes of 98.4 MB, 0 %");
    CHECK(progress_line("m", 98'400'000, 98'400'000, 10) == "m: 98.4 MB of 98.4 MB, 100 %, 10 bytes/s");
    CHECK(progress_line("m", 5'000, std::nullopt, 2'000) == "m: 5.0 kB, 2.0 kB/s");
    CHECK(progress_line("m", 0, 10'000'000'000, 1'000'000) == "m: 0 bytes of 10.0 GB, 0 %, 1.0 MB/s, 2 h 46 min left");
}

TEST_CASE("elsewhere than on a terminal a line comes every few seconds", "[cli][model]") {
    base::FakeClock clock;
    std::string out;
    Progress progress("m", false, clock, [&out](std::string_view text) { out += text; });
    progress.begin(0, 10'000);
    for (std::uint64_t done = 0; done <= 10'000; done += 1000) {
        progress.at(done);
        clock.advance(std::chrono::seconds(1));
    }
    progress.end();
    CHECK(out == "m: 5.0 kB of 10.0 kB, 50 %, 1.0 kB/s, 5 s left\nm: 10.0 kB of 10.0 kB, 100 %, 1.0 kB/s\n");
}

TEST_CASE("on a terminal one line is rewritten, and what is said stands in a line of its own", "[cli][model]") {
    base::FakeClock clock;
    std::string out;
    Progress progress("m", true, clock, [&out](std::string_view text) { out += text; });
    progress.begin(0, 2'000);
    clock.advance(std::chrono::seconds(1));
    progress.at(1'000);
    progress.say("trying again");
    CHECK(out ==
          "\rm: 1.0 kB of 2.0 kB, 50 %, 1.0 kB/s, 1 s left\rm: 1.0 kB of 2.0 kB, 50 %, 1.0 kB/s, 1 s left\n"
          "trying again\n");
}

TEST_CASE("a file that has to begin again does not spoil the rate", "[cli][model]") {
    base::FakeClock clock;
    std::string out;
    Progress progress("m", false, clock, [&out](std::string_view text) { out = text; });
    progress.begin(9'000, 10'000);
    clock.advance(std::chrono::seconds(1));
    progress.at(0);
    clock.advance(std::chrono::seconds(5));
    progress.at(5'000);
    CHECK(out == "m: 5.0 kB of 10.0 kB, 50 %, 1.0 kB/s, 5 s left\n");
}
