#include "net/ucx.h"

#include <signal.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <set>
#include <sstream>

#include "base/seal.h"
#include "tests/net/child.h"
#include "tests/net/recorder.h"
// Last, see there.
#include "tests/support/catch.h"

using base::ErrorCode;
using net_test::Child;
using net_test::in;
using net_test::kLimit;
using net_test::message;
using net_test::Pair;
using net_test::pattern;
using net_test::Recorder;
using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

const base::SystemClock kClock;

Pair make_pair() {
    Pair pair;
    auto left = net::make_ucx_transport({}, kClock);
    auto right = net::make_ucx_transport({}, kClock);
    REQUIRE(left);
    REQUIRE(right);
    pair.left = std::move(*left);
    pair.right = std::move(*right);
    REQUIRE(pair.left->start(*pair.heard_left));
    REQUIRE(pair.right->start(*pair.heard_right));
    return pair;
}

/// One started transport of this process.
struct Here {
    Here() {
        auto made = net::make_ucx_transport({.connect_timeout = seconds(1)}, kClock);
        REQUIRE(made);
        transport = std::move(*made);
        REQUIRE(transport->start(heard));
    }
    ~Here() { transport->stop(); }
    Recorder heard;
    std::unique_ptr<net::Transport> transport;
};

}  // namespace

TEST_CASE("UCX keeps the promises of a transport, with two transports in one process", "[net]") {
    net_test::check_transport(make_pair);
}

TEST_CASE("UCX: our settings overrule the environment, and the signals are ours", "[net]") {
    const Here here;
    CHECK(std::string(std::getenv("UCX_POSIX_ERROR_HANDLING")) == "y");
    struct sigaction action{};
    REQUIRE(sigaction(SIGHUP, nullptr, &action) == 0);
    CHECK(action.sa_handler == SIG_DFL);
    CHECK(std::string(net::ucx_version()).starts_with("1."));
}

namespace {

/// Lines of /proc/net/tcp and tcp6 about sockets of `pid` that listen.
std::vector<std::string> listening_sockets(const std::string& pid) {
    std::set<std::string> inodes;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/" + pid + "/fd")) {
        std::error_code gone;
        const std::string target = std::filesystem::read_symlink(entry.path(), gone).string();
        if (target.starts_with("socket:[")) { inodes.insert(target.substr(8, target.size() - 9)); }
    }
    std::vector<std::string> found;
    for (const char* table : {"/proc/net/tcp", "/proc/net/tcp6"}) {
        std::ifstream lines(table);
        std::string line;
        std::getline(lines, line);  // titles
        while (std::getline(lines, line)) {
            std::istringstream words(line);
            const std::vector<std::string> fields{std::istream_iterator<std::string>(words), {}};
            if (fields.size() >= 10 && fields[3] == "0A" && inodes.contains(fields[9])) { found.push_back(line); }
        }
    }
    return found;
}

}  // namespace

TEST_CASE("UCX: nothing listens unless a network device is named, whatever the environment says", "[net]") {
    Here here;
    CHECK(listening_sockets("self").empty());

    // The other process reads its environment anew.
    setenv("UCX_NET_DEVICES", "all", 1);
    setenv("UCX_TLS", "tcp", 1);
    Child child(SLUICE_NET_PEER, {"ucx", "sink"});
    unsetenv("UCX_NET_DEVICES");
    unsetenv("UCX_TLS");
    const std::string address = net_test::from_hex(child.read_line());
    CHECK(listening_sockets(std::to_string(child.pid())).empty());
    const auto peer = here.transport->connect(address);
    REQUIRE(peer);
    Recorder& heard = here.heard;
    REQUIRE(here.transport->send(*peer, message(1, "", pattern(100000, 1)), in(kLimit), heard.completion("x")));
    REQUIRE(heard.wait_received(1));
    CHECK(heard.received_.back().header == "100000");
}

TEST_CASE("UCX: it is given no address that does not carry the cluster's MAC", "[net]") {
    Here here;
    const std::string address = here.transport->address();
    // Nine bytes ended the process, and so did an address with a byte too few.
    std::string flipped = address;
    flipped[20] = static_cast<char>(flipped[20] ^ 1);
    for (const std::string& bad : {std::string(9, 'x'), std::string(), address.substr(0, address.size() - 1), flipped,
                                   std::string(200, '\xff')}) {
        const auto refused = here.transport->connect(bad);
        REQUIRE_FALSE(refused);
        CHECK(refused.error().code == ErrorCode::permission_denied);
    }
}

TEST_CASE("UCX: who greets with the address of another cluster, or none, is not admitted", "[net]") {
    // The key is another one here and there; the caller has got hold of an address that he can use.
    auto made = net::make_ucx_transport({.key = *base::parse_hash_key(std::string(32, '7'))}, kClock);
    REQUIRE(made);
    Recorder heard;
    REQUIRE((*made)->start(heard));
    Here stranger;
    const auto opened = base::open_address(*base::parse_hash_key(std::string(32, '7')), (*made)->address());
    REQUIRE(opened);
    const auto peer = stranger.transport->connect(base::seal_address({}, opened->life, opened->address));
    REQUIRE(peer);
    REQUIRE(
        stranger.transport->send(*peer, message(1, "hear me", nullptr), in(kLimit), stranger.heard.completion("x")));
    REQUIRE(stranger.heard.wait_lost(*peer));  // nobody answers the greeting
    (*made)->stop();
    CHECK(heard.received_.empty());
}
