#include <signal.h>

#include "tests/kv_transfer/peer_worker.h"
#include "tests/net/child.h"
// Last, see there.
#include "tests/support/catch.h"

using base::ErrorCode;
using kv_test::make_key;
using kv_test::PeerWorker;
using kv_test::ReceiverEvent;
using kv_test::SenderEvent;
using net_test::Child;
using std::chrono::seconds;

namespace {

/// Events until the hand-off is released; the failed or completed one. Empty: hangs.
template <class Event>
std::optional<Event> wait_end(base::BoundedQueue<Event>& events, const kv_test::HandoffKey& key) {
    std::optional<Event> end;
    while (auto event = events.pop({}, std::chrono::steady_clock::now() + seconds(60))) {
        if (event->key != key) { continue; }
        if (event->kind == Event::Kind::released) { return end; }
        end = std::move(event);
    }
    return std::nullopt;
}

std::string any_carrier() {
    const auto* const carrier = GENERATE(values({"ucx", "tls"}));
    return carrier;
}

}  // namespace

TEST_CASE("between processes: KV goes to another process bit for bit", "[kv_transfer]") {
    const std::string carrier = any_carrier();
    CAPTURE(carrier);
    Child child(SLUICE_KV_PEER, {carrier, "decode"});
    const std::string address = net_test::from_hex(child.read_line());
    PeerWorker worker(carrier, kv_test::kPrefill);
    for (unsigned request = 1; request <= 3; ++request) {
        worker.fill(request);
        REQUIRE(worker.hand_off(request, address));
        const auto end = wait_end(worker.sent, make_key(request));
        REQUIRE(end);
        CHECK(end->kind == SenderEvent::Kind::completed);
        CHECK(child.read_line() == "completed " + std::to_string(request) + " " + std::to_string(worker.checksum()));
        CHECK(child.read_line() == "released " + std::to_string(request));
    }
}

TEST_CASE("between processes: KV goes between two transports of one process", "[kv_transfer]") {
    const std::string carrier = any_carrier();
    CAPTURE(carrier);
    PeerWorker prefill(carrier, kv_test::kPrefill);
    PeerWorker decode(carrier, kv_test::kDecode);
    prefill.fill(1);
    REQUIRE(prefill.hand_off(1, decode.transport->address()));
    const auto asked = decode.received.pop({}, std::chrono::steady_clock::now() + seconds(60));
    REQUIRE(asked);
    decode.grant(*asked);
    REQUIRE(wait_end(prefill.sent, make_key(1))->kind == SenderEvent::Kind::completed);
    REQUIRE(wait_end(decode.received, make_key(1))->kind == ReceiverEvent::Kind::completed);
    CHECK(decode.checksum() == prefill.checksum());
}

TEST_CASE("between processes: a decode worker that is killed or stopped in the middle fails the hand-off",
          "[kv_transfer]") {
    const std::string carrier = any_carrier();
    CAPTURE(carrier);
    const int number = GENERATE(SIGKILL, SIGSTOP);
    CAPTURE(number);
    Child child(SLUICE_KV_PEER, {carrier, "decode"});
    PeerWorker worker(carrier, kv_test::kPrefill, PeerWorker::Patience{.peer = seconds(5)});
    worker.fill(1);
    const std::string address = net_test::from_hex(child.read_line());
    kv_test::HandoffKey key;
    bool is_granted = false;
    for (unsigned request = 1; !is_granted; ++request) {
        key = make_key(request);
        REQUIRE(request <= 20);
        REQUIRE(worker.sender->open({.key = key,
                                     .kv_address = address,
                                     .kv_tokens = PeerWorker::kTokens,
                                     .blocks = worker.blocks,
                                     .deadline = worker.clock.now() + seconds(30)}));
        const auto event = worker.sent.pop({}, worker.clock.now() + seconds(60));
        REQUIRE(event);
        is_granted = event->kind == SenderEvent::Kind::granted;
        // A child that had no core for as long as we wait for a dead one: once more.
        if (!is_granted) { REQUIRE(worker.sent.pop({}, worker.clock.now() + seconds(60))); }
    }
    number == SIGKILL ? child.kill() : child.signal(number);
    worker.sender->ready(key, 0, 12, 0, PeerWorker::kTokens);
    const auto end = wait_end(worker.sent, key);
    REQUIRE(end);
    CHECK(end->kind == SenderEvent::Kind::failed);
    CHECK(end->error->code == ErrorCode::unavailable);
}

TEST_CASE("between processes: a prefill worker that is killed or stopped in the middle fails the hand-off",
          "[kv_transfer]") {
    const std::string carrier = any_carrier();
    CAPTURE(carrier);
    const int number = GENERATE(SIGKILL, SIGSTOP);
    CAPTURE(number);
    PeerWorker worker(carrier, kv_test::kDecode, PeerWorker::Patience{.peer = seconds(5), .lease = seconds(1)});
    Child child(SLUICE_KV_PEER, {carrier, "prefill", net_test::to_hex(worker.transport->address())});
    // A few go well; then it dies while one is granted.
    kv_test::HandoffKey last;
    for (int granted = 0; granted < 4;) {
        const auto event = worker.received.pop({}, worker.clock.now() + seconds(60));
        REQUIRE(event);
        if (event->kind != ReceiverEvent::Kind::room_requested) { continue; }
        if (++granted == 4) { number == SIGKILL ? child.kill() : child.signal(number); }
        last = event->key;
        worker.grant(*event);
    }
    const auto end = wait_end(worker.received, last);
    REQUIRE(end);
    CHECK(end->kind == ReceiverEvent::Kind::failed);
    // By the transport, or by the lease of one second, whichever sees it first.
    CHECK((end->error->code == ErrorCode::unavailable || end->error->code == ErrorCode::deadline_exceeded));
    child.kill();
    worker.receiver->stop();
    worker.transport->stop();
    CHECK(worker.receiver->staging_buffers_free() == 8);
}

TEST_CASE("between processes: KV is fetched from another process bit for bit, and from nobody when that is gone",
          "[kv_transfer]") {
    const std::string carrier = any_carrier();
    CAPTURE(carrier);
    Child child(SLUICE_KV_PEER, {carrier, "lend"});
    const std::string address = net_test::from_hex(child.read_line());
    const std::string checksum = child.read_line();
    PeerWorker worker(carrier, kv_test::kDecode);
    worker.lease = seconds(60);
    for (unsigned request = 1; request <= 3; ++request) {
        worker.fill(100 + request);
        REQUIRE(worker.fetch(request, address));
        const auto end = wait_end(worker.received, kv_test::make_fetch_key(request));
        REQUIRE(end);
        REQUIRE(end->kind == ReceiverEvent::Kind::completed);
        CHECK(end->kv_tokens == PeerWorker::kTokens);
        CHECK(std::to_string(worker.checksum()) == checksum);
    }
    const int number = GENERATE(SIGKILL, SIGSTOP);
    CAPTURE(number);
    number == SIGKILL ? child.kill() : child.signal(number);
    worker.answer_timeout = seconds(2);
    REQUIRE(worker.fetch(9, address));
    const auto end = wait_end(worker.received, kv_test::make_fetch_key(9));
    REQUIRE(end);
    CHECK(end->kind == ReceiverEvent::Kind::failed);
    CHECK(end->error->code == ErrorCode::unavailable);
}
