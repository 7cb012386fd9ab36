// The other process of processes_test and ucx_test. "net_peer CARRIER sink": takes every message and answers each with
// one of kind + 1 that says how many bytes came. "net_peer CARRIER source ADDRESS": sends 4 MiB payloads of kind 1
// without end. Prints its address (hex) and runs until its stdin ends.
#include <spdlog/spdlog.h>

#include <atomic>
#include <cstdio>
#include <string>
#include <thread>

#include "base/check.h"
#include "tests/net/carriers.h"
#include "tests/net/child.h"
#include "tests/net/recorder.h"

namespace {

class Sink final : public net::Handler {
public:
    explicit Sink(net::Transport& transport) : transport_(transport), space_(std::size_t{8} << 20) {}

    base::Result<net::Target> on_header(net::PeerId from, net::MessageKind kind, std::span<const std::byte>,
                                        std::size_t payload_bytes) override {
        from_ = from;
        kind_ = kind;
        bytes_ = payload_bytes;
        if (payload_bytes == 0) { answer(); }
        return net::Target{std::span(space_).first(payload_bytes), net::ReceiveToken{1},
                           net_test::in(net_test::kLimit)};
    }
    void on_payload(net::ReceiveToken, base::Result<void> outcome) override {
        if (outcome) { answer(); }
    }
    void on_peer_lost(net::PeerId, const base::Error&) override {}

private:
    void answer() {
        const net::MessageKind kind{static_cast<std::uint16_t>(net::raw(kind_) + 1)};
        static_cast<void>(transport_.send(from_, {kind, std::to_string(bytes_), {}}, net_test::in(net_test::kLimit),
                                          [](const base::Result<void>&) {}));
    }

    net::Transport& transport_;
    std::vector<std::byte> space_;
    net::PeerId from_{};
    net::MessageKind kind_{};
    std::size_t bytes_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
    spdlog::set_level(spdlog::level::off);  // standard output is the test's
    const base::SystemClock clock;
    CHECK(argc >= 3);
    const auto made = net_test::make_carrier(argv[1], clock);
    net::Transport& transport = *made;
    Sink sink(transport);
    CHECK(transport.start(sink).has_value());
    std::printf("%s\n", net_test::to_hex(transport.address()).c_str());
    std::fflush(stdout);
    std::jthread source;
    if (argc == 4 && std::string(argv[2]) == "source") {
        const auto peer = transport.connect(net_test::from_hex(argv[3]));
        CHECK(peer.has_value());
        source = std::jthread([&, peer = *peer](std::stop_token stop) {
            const auto data = net_test::pattern(std::size_t{4} << 20, 1);
            std::atomic<int> under_way{0};
            while (!stop.stop_requested()) {
                if (under_way >= 4) {
                    std::this_thread::yield();
                    continue;
                }
                ++under_way;
                const auto sent = transport.send(peer, net_test::message(1, "", data), net_test::in(net_test::kLimit),
                                                 [&](const base::Result<void>&) { --under_way; });
                if (!sent) { break; }
            }
            while (under_way > 0 && !stop.stop_requested()) {
                std::this_thread::yield();
            }
        });
    }
    while (std::fgetc(stdin) != EOF) {}
    source.request_stop();
    transport.stop();
    return 0;
}
