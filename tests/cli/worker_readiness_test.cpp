#include "cli/worker_readiness.h"

#include <chrono>

#include "tests/support/catch.h"

using namespace std::chrono_literals;

TEST_CASE("a worker tells how far its model is, then what it says itself", "[cli][ready]") {
    base::FakeClock clock;
    cli::WorkerReadiness readiness(clock);
    REQUIRE(gateway::ready_text(readiness.parts()) == "[-]model: not begun to load\nnot ready\n");
    readiness.at(0, 40'000'000);
    REQUIRE(gateway::ready_text(readiness.parts()) == "[-]model: loading: 0 bytes of 40.0 MB, 0 %\nnot ready\n");
    clock.advance(2s);
    readiness.at(10'000'000, 40'000'000);
    REQUIRE(gateway::ready_text(readiness.parts()) ==
            "[-]model: loading: 10.0 MB of 40.0 MB, 25 %, 5.0 MB/s, 6 s left\nnot ready\n");
    readiness.at(40'000'000, 40'000'000);
    REQUIRE(gateway::ready_text(readiness.parts()) == "[-]model: read; memory and kernels are made ready\nnot ready\n");
    readiness.started([] { return gateway::ReadyParts{{.name = "model", .words = "tiny"}}; });
    REQUIRE(gateway::ready_text(readiness.parts()) == "[+]model: tiny\nready\n");
}
