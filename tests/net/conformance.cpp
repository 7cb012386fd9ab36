#include "tests/net/recorder.h"
// Last, see there.
#include "tests/support/catch.h"

namespace net_test {

using base::ErrorCode;

void check_transport(const std::function<Pair()>& make_pair) {
    Pair pair = make_pair();
    net::Transport& left = *pair.left;
    net::Transport& right = *pair.right;
    Recorder& at_left = *pair.heard_left;
    Recorder& at_right = *pair.heard_right;
    const auto peer = left.connect(right.address());
    REQUIRE(peer);

    SECTION("a header and payloads of every size arrive as they were sent") {
        const std::vector<std::size_t> sizes{
            0, 1, 100, 4095, 4096, 8192, 70000, 1u << 20, left.limits().payload_bytes_max};
        for (std::size_t i = 0; i < sizes.size(); ++i) {
            const auto data = sizes[i] == 0 ? nullptr : pattern(sizes[i], static_cast<unsigned>(i));
            const std::string header(i * 100, static_cast<char>('a' + i));
            REQUIRE(left.send(*peer, message(static_cast<unsigned>(i), header, data), in(kLimit),
                              at_left.completion(std::to_string(i))));
        }
        REQUIRE(at_right.wait_received(sizes.size()));
        for (std::size_t i = 0; i < sizes.size(); ++i) {
            CHECK(at_left.outcome(std::to_string(i)));
        }
        for (const Recorder::Received& received : at_right.received_) {
            const auto i = net::raw(received.kind);
            REQUIRE(i < sizes.size());
            CHECK(received.header == std::string(i * 100u, static_cast<char>('a' + i)));
            REQUIRE(received.payload.size() == sizes[i]);
            if (sizes[i] != 0) { CHECK(received.payload == *pattern(sizes[i], i)); }
            CHECK(received.outcome->has_value());
        }
        CHECK(at_right.stray_payloads_ == 0);
    }

    SECTION("the side that was connected to answers over the same connection") {
        REQUIRE(left.send(*peer, message(1, "ask", nullptr), in(kLimit), at_left.completion("ask")));
        REQUIRE(at_right.wait_received(1));
        const net::PeerId back = at_right.received_.front().from;
        const auto data = pattern(100000, 5);
        REQUIRE(right.send(back, message(2, "answer", data), in(kLimit), at_right.completion("answer")));
        REQUIRE(at_left.wait_received(1));
        CHECK(at_left.received_.front().from == *peer);
        CHECK(at_left.received_.front().header == "answer");
        CHECK(at_left.received_.front().payload == *data);
        CHECK(at_right.outcome("answer"));
        SECTION("and its own connect gives that connection") {
            CHECK(right.connect(left.address()).value_or(net::PeerId{}) == back);
        }
    }

    SECTION("connecting again gives the same peer") {
        CHECK(left.connect(right.address()).value_or(net::PeerId{}) == *peer);
    }

    SECTION("a refused payload is not taken, and later messages still come") {
        at_right.refuse(true);
        const auto data = pattern(100000, 6);
        REQUIRE(left.send(*peer, message(1, "no", data), in(kLimit), at_left.completion("no")));
        static_cast<void>(at_left.outcome("no"));  // success or cancelled: it proves nothing
        REQUIRE(at_right.wait([](Recorder& self) { return self.refused_ == 1; }));
        at_right.refuse(false);
        REQUIRE(left.send(*peer, message(2, "yes", data), in(kLimit), at_left.completion("yes")));
        REQUIRE(at_right.wait_received(1));
        CHECK(at_right.received_.front().header == "yes");
        CHECK(at_left.outcome("yes"));
    }

    SECTION("a closed connection is lost on both sides, and a new one can be made") {
        REQUIRE(left.send(*peer, message(1, "hello", nullptr), in(kLimit), at_left.completion("hello")));
        REQUIRE(at_right.wait_received(1));
        left.disconnect(*peer);
        REQUIRE(at_left.wait_lost(*peer));
        REQUIRE(at_right.wait_lost(at_right.received_.front().from));
        const auto sent = left.send(*peer, message(1, "late", nullptr), in(kLimit), at_left.completion("late"));
        REQUIRE(!sent);
        CHECK(sent.error().code == ErrorCode::unavailable);
        const auto again = left.connect(right.address());
        REQUIRE(again);
        CHECK(*again != *peer);
        REQUIRE(left.send(*again, message(2, "again", nullptr), in(kLimit), at_left.completion("again")));
        REQUIRE(at_right.wait_received(2));
        CHECK(at_right.received_.back().header == "again");
        CHECK(at_right.received_.back().from != at_right.received_.front().from);
    }

    SECTION("what is too long is refused at once") {
        const std::string header(left.limits().header_bytes_max + 1, 'x');
        const auto sent = left.send(*peer, message(1, header, nullptr), in(kLimit), at_left.completion("long"));
        REQUIRE(!sent);
        CHECK(sent.error().code == ErrorCode::invalid_argument);
        const auto data = pattern(left.limits().payload_bytes_max + 1, 1);
        CHECK(!left.send(*peer, message(1, "", data), in(kLimit), at_left.completion("long")));
        CHECK(!left.connect(""));
    }

    SECTION("stopping ends every send and tells the other side") {
        const auto data = pattern(1u << 20, 7);
        REQUIRE(left.send(*peer, message(1, "first", nullptr), in(kLimit), at_left.completion("first")));
        REQUIRE(at_right.wait_received(1));
        for (int i = 0; i < 20; ++i) {
            REQUIRE(left.send(*peer, message(1, "bulk", data), in(kLimit), at_left.completion(std::to_string(i))));
        }
        left.stop();
        for (int i = 0; i < 20; ++i) {
            CHECK(at_left.completions_[std::to_string(i)].size() == 1);
        }
        CHECK(data.use_count() == 1);  // nothing reads the payload any more
        CHECK(at_right.wait_lost(at_right.received_.front().from));
        right.stop();
        CHECK(at_right.under_way_.empty());
        CHECK(!left.connect(right.address()));
        CHECK(!left.send(*peer, message(1, "", nullptr), in(kLimit), at_left.completion("after")));
    }

    SECTION("both sides may send at once, many messages, without loss") {
        REQUIRE(left.send(*peer, message(1, "open", nullptr), in(kLimit), at_left.completion("open")));
        REQUIRE(at_right.wait_received(1));
        const net::PeerId back = at_right.received_.front().from;
        const auto data = pattern(20000, 8);
        for (int i = 0; i < 200; ++i) {
            REQUIRE(left.send(*peer, message(3, std::to_string(i), i % 3 == 0 ? data : nullptr), in(kLimit),
                              at_left.completion("l")));
            REQUIRE(right.send(back, message(4, std::to_string(i), i % 2 == 0 ? data : nullptr), in(kLimit),
                               at_right.completion("r")));
        }
        REQUIRE(at_right.wait_received(201));
        REQUIRE(at_left.wait_received(200));
        for (const Recorder::Received& received : at_left.received_) {
            CHECK((received.payload.empty() || received.payload == *data));
        }
        REQUIRE(at_left.wait([](Recorder& self) { return self.completions_["l"].size() == 200; }));
        REQUIRE(at_right.wait([](Recorder& self) { return self.completions_["r"].size() == 200; }));
    }
}

}  // namespace net_test
