#include "gateway/text_queue.h"

#include <string>
#include <vector>

#include "gateway/http/byte_account.h"
#include "gateway/http/connection_book.h"

#include "tests/support/catch.h"

namespace {

constexpr std::uint64_t kSmall = 100;
constexpr std::uint64_t kLarge = 1 << 20;

}  // namespace

TEST_CASE("whoever has had less goes first, whatever another has waiting", "[gateway][text]") {
    gateway::TextQueue queue({.large_at_once = 1, .large_bytes = kLarge});
    std::string order;
    for (int work = 0; work < 5; ++work) {
        queue.push("greedy", 50'000, [&] { order += 'g'; });
    }
    queue.push("modest", kSmall, [&] { order += 'm'; });
    queue.push("modest", kSmall, [&] { order += 'm'; });
    for (int thread = 0; thread < 7; ++thread) {
        queue.run();
    }
    REQUIRE(order == "gmmgggg");
    // One that was never here does not wait for the debts of others.
    queue.push("greedy", 50'000, [&] { order += 'g'; });
    queue.push("new", kSmall, [&] { order += 'n'; });
    queue.run();
    queue.run();
    REQUIRE(order == "gmmggggng");
}

TEST_CASE("equal payers take turns", "[gateway][text]") {
    gateway::TextQueue queue({});
    std::string order;
    for (const char payer : {'a', 'b', 'c'}) {
        for (int work = 0; work < 3; ++work) {
            queue.push(std::string(1, payer), 1000, [&order, payer] { order += payer; });
        }
    }
    for (int thread = 0; thread < 9; ++thread) {
        queue.run();
    }
    REQUIRE(order == "abcabcabc");
}

TEST_CASE("large work leaves a thread for what is small, and nothing is forgotten", "[gateway][text]") {
    gateway::TextQueue queue({.large_at_once = 1, .large_bytes = kLarge});
    std::string order;
    // While one large work runs, the other threads come by.
    queue.push("a", kLarge, [&] {
        order += '[';
        queue.push("b", kSmall, [&] { order += 's'; });
        for (int thread = 0; thread < 3; ++thread) {
            queue.run();
        }
        order += ']';
    });
    queue.push("a", kLarge, [&] { order += 'L'; });
    queue.push("a", kLarge, [&] { order += 'L'; });
    queue.run();
    REQUIRE(order == "[s]LL");
}

TEST_CASE("bytes are counted for all and for each until their request is gone", "[gateway][http]") {
    using Taken = gateway::ByteAccount::Taken;
    const auto account = std::make_shared<gateway::ByteAccount>(
        gateway::ByteAccount::Options{.bytes_max = 100, .bytes_per_payer_max = 60});
    auto a = account->open("a");
    REQUIRE(a->add(40) == Taken::yes);
    auto again = account->open("a");
    REQUIRE(again->add(30) == Taken::payer_full);
    REQUIRE(again->add(20) == Taken::yes);
    auto b = account->open("b");
    REQUIRE(b->add(41) == Taken::all_full);
    REQUIRE(b->add(40) == Taken::yes);
    REQUIRE(account->bytes() == 100u);
    a.reset();
    REQUIRE(account->bytes() == 60u);
    REQUIRE(again->add(40) == Taken::yes);
    again.reset();
    b.reset();
    REQUIRE(account->bytes() == 0u);
}

TEST_CASE("room is made by what has been idle longest, first of the client that has its share", "[gateway][http]") {
    gateway::ConnectionBook book({.connections_max = 4, .connections_per_client_max = 2});
    std::vector<char> storage(16);
    const auto connection = [&](std::size_t number) {  // never looked into
        return reinterpret_cast<gateway::Connection*>(&storage.at(number));
    };
    book.opened(*connection(0), "a");
    book.opened(*connection(1), "b");
    book.opened(*connection(2), "a");
    REQUIRE(book.room_for("b").is_there);
    REQUIRE_FALSE(book.room_for("a").is_there);
    REQUIRE(book.room_for("a").client_is_full);
    for (const std::size_t number : {1u, 2u, 0u}) {
        book.set_idle(*connection(number), true);
        book.set_idle(*connection(number), true);
    }
    REQUIRE(book.room_for("a").close_first == connection(2));
    REQUIRE(book.room_for("b").close_first == nullptr);
    book.opened(*connection(3), "");  // a proxy's
    REQUIRE(book.room_for("c").close_first == connection(1));
    REQUIRE(book.room_for("").close_first == connection(1));
    book.set_idle(*connection(1), false);
    REQUIRE(book.room_for("c").close_first == connection(2));
    book.closed(*connection(2));
    book.closed(*connection(2));
    REQUIRE(book.size() == 3u);
    REQUIRE(book.room_for("a").close_first == nullptr);
    book.set_idle(*connection(0), false);
    book.opened(*connection(2), "b");
    REQUIRE_FALSE(book.room_for("c").is_there);
    REQUIRE_FALSE(book.room_for("c").client_is_full);
}
