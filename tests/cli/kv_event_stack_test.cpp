// Where workers publish their KV events, and where they may.
#include "cli/kv_event_stack.h"

#include <string>

#include "base/config.h"

#include "tests/support/catch.h"

namespace {

/// What reading says of the settings; empty: nothing is wrong.
std::string problem_of(const std::vector<std::string>& assignments) {
    base::Config config;
    for (const std::string& one : assignments) {
        REQUIRE(config.set("worker.kv_events." + one).has_value());
    }
    cli::read_kv_events(config);
    const auto finished = config.finish();
    return finished ? "" : finished.error().message;
}

}  // namespace

TEST_CASE("the workers of a process have addresses that follow each other", "[cli]") {
    REQUIRE(cli::endpoint_of_rank("tcp://127.0.0.1:5557", 0) == "tcp://127.0.0.1:5557");
    REQUIRE(cli::endpoint_of_rank("tcp://127.0.0.1:5557", 3) == "tcp://127.0.0.1:5560");
    REQUIRE(cli::endpoint_of_rank("tcp://[::1]:5557", 1) == "tcp://[::1]:5558");
    REQUIRE(cli::endpoint_of_rank("tcp://*:5557", 1) == "tcp://*:5558");
    REQUIRE(cli::endpoint_of_rank("tcp://*:*", 1) == "tcp://*:*");
    REQUIRE(cli::endpoint_of_rank("ipc:///run/kv", 2) == "ipc:///run/kv_dp2");
    REQUIRE(cli::endpoint_of_rank("", 2).empty());
}

TEST_CASE("an address to publish at is one that can be listened on", "[cli]") {
    for (const char* good :
         {"tcp://127.0.0.1:5557", "tcp://127.0.0.1:*", "tcp://*:65535", "tcp://[::1]:1", "ipc:///run/kv"}) {
        REQUIRE(problem_of({std::string("endpoint=") + good}).empty());
    }
    for (const char* bad : {"5557", "tcp://:5557", "tcp://host", "tcp://host:0", "tcp://host:65536", "tcp://host:55x",
                            "ipc://", "inproc://kv", "udp://host:5557"}) {
        const std::string said = problem_of({std::string("endpoint='") + bad + "'"});
        CAPTURE(bad);
        REQUIRE(said.find("worker.kv_events.endpoint") != std::string::npos);
        REQUIRE(said.find("tcp://HOST:PORT") != std::string::npos);
    }
    REQUIRE(problem_of({"replay_endpoint=ipc:///run/kv"}).find("worker.kv_events.endpoint") != std::string::npos);
}

TEST_CASE("events show prompts, so beyond this host the network has to be trusted", "[cli]") {
    cli::ClusterSettings cluster;
    cli::KvEventSettings settings;
    REQUIRE(cli::check_kv_events(settings, cluster).has_value());
    for (const char* near : {"tcp://127.0.0.1:5557", "tcp://[::1]:5557", "tcp://localhost:5557", "ipc:///run/kv"}) {
        settings.endpoint = settings.replay_endpoint = near;
        REQUIRE(cli::check_kv_events(settings, cluster).has_value());
    }
    settings.replay_endpoint = "tcp://0.0.0.0:5558";
    const auto refused = cli::check_kv_events(settings, cluster);
    REQUIRE_FALSE(refused.has_value());
    REQUIRE(refused.error().code == base::ErrorCode::permission_denied);
    REQUIRE(refused.error().message.find("worker.kv_events.replay_endpoint is tcp://0.0.0.0:5558") !=
            std::string::npos);
    cluster.trusted_network = true;
    REQUIRE(cli::check_kv_events(settings, cluster).has_value());
}
