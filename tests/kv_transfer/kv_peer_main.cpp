// The other process of kv_transfer's tests between processes, and a small measurement. CARRIER: ucx, tls.
//   kv_peer CARRIER decode            takes every hand-off; prints its address, then a line per event
//   kv_peer CARRIER prefill ADDRESS   hands off request 1, 2, ... one after the other; prints a line per event
//   kv_peer CARRIER lend              has what is fetched from it; prints its address and the checksum of its KV
//   kv_peer CARRIER bench ADDRESS|-   hands 18.9 MB off 20 times to a "kv_peer CARRIER decode", or to a transport of
//   its own process
// Runs until its stdin ends.
#include <spdlog/spdlog.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>

#include "base/bounded_queue.h"
#include "base/check.h"
#include "tests/kv_transfer/peer_worker.h"
#include "tests/net/child.h"

namespace {

using namespace kv_test;

void say(const std::string& line) {
    std::printf("%s\n", line.c_str());
    std::fflush(stdout);
}

void decode(const std::string& carrier) {
    PeerWorker worker(carrier, kDecode);
    say(net_test::to_hex(worker.transport->address()));
    std::jthread step([&](std::stop_token stop) {
        while (auto event = worker.received.pop(stop)) {
            const std::string request = std::to_string(base::raw(event->key.request));
            switch (event->kind) {
                case ReceiverEvent::Kind::room_requested:
                    worker.grant(*event);
                    break;
                case ReceiverEvent::Kind::front:  // nothing is offered
                    break;
                case ReceiverEvent::Kind::completed:
                    say("completed " + request + " " + std::to_string(worker.checksum()));
                    break;
                case ReceiverEvent::Kind::failed:
                    say("failed " + request + " " + std::string(base::error_code_name(event->error->code)));
                    break;
                case ReceiverEvent::Kind::released:
                    say("released " + request);
                    break;
            }
        }
    });
    while (std::fgetc(stdin) != EOF) {}
    step.request_stop();
}

void prefill(const std::string& carrier, const std::string& address) {
    PeerWorker worker(carrier, kPrefill);
    worker.fill(1);
    say(net_test::to_hex(worker.transport->address()));
    std::jthread step([&](std::stop_token stop) {
        for (std::uint64_t request = 1; !stop.stop_requested(); ++request) {
            if (!worker.hand_off(request, address)) { return; }
            while (auto event = worker.sent.pop(stop)) {
                if (event->kind == SenderEvent::Kind::released) { break; }
            }
            say("released " + std::to_string(request));
        }
    });
    while (std::fgetc(stdin) != EOF) {}
    step.request_stop();
}

void lend(const std::string& carrier) {
    PeerWorker worker(carrier, kPrefill);
    worker.fill(1);
    say(net_test::to_hex(worker.transport->address()));
    say(std::to_string(worker.checksum()));
    std::jthread step([&](std::stop_token stop) {
        while (auto event = worker.sent.pop(stop)) {
            if (event->kind == SenderEvent::Kind::fetch_requested) { worker.lend(std::move(*event)); }
        }
    });
    while (std::fgetc(stdin) != EOF) {}
    step.request_stop();
}

void bench(const std::string& carrier, std::string address) {
    PeerWorker worker(carrier, kPrefill);
    worker.fill(1);
    std::unique_ptr<PeerWorker> other;
    std::jthread other_step;
    if (address == "-") {
        other = std::make_unique<PeerWorker>(carrier, kDecode);
        address = other->transport->address();
        other_step = std::jthread([&](std::stop_token stop) {
            while (auto event = other->received.pop(stop)) {
                if (event->kind == ReceiverEvent::Kind::room_requested) { other->grant(*event); }
            }
        });
    } else {
        address = net_test::from_hex(address);
    }
    const base::SystemClock clock;
    for (std::uint64_t request = 1; request <= 20; ++request) {
        const auto begin = clock.now();
        CHECK(worker.hand_off(request, address).has_value());
        while (auto event = worker.sent.pop({}, clock.now() + seconds(10))) {
            if (event->kind == SenderEvent::Kind::failed) { say("failed: " + event->error->message); }
            if (event->kind == SenderEvent::Kind::completed) {
                const double total = std::chrono::duration<double, std::milli>(clock.now() - begin).count();
                const double sent = std::chrono::duration<double, std::milli>(event->duration).count();
                std::printf("%.1f MB: %.2f ms, from the grant %.2f ms\n",
                            static_cast<double>(event->payload_bytes) / 1e6, total, sent);
            }
            if (event->kind == SenderEvent::Kind::released) { break; }
        }
    }
    other_step.request_stop();
}

}  // namespace

int main(int argc, char** argv) {
    spdlog::set_level(spdlog::level::off);  // standard output is the test's
    if (argc < 3) { return 2; }
    const std::string carrier = argv[1];
    const std::string mode = argv[2];
    if (mode == "decode") { decode(carrier); }
    if (mode == "prefill" && argc > 3) { prefill(carrier, net_test::from_hex(argv[3])); }
    if (mode == "lend") { lend(carrier); }
    if (mode == "bench" && argc > 3) { bench(carrier, argv[3]); }
    return 0;
}
