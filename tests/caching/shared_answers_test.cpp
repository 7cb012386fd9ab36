// What gateways share, on a real Valkey or Redis server: each SharedAnswers here is a gateway's.
#include "caching/store/shared_answers.h"

#include <hiredis/hiredis.h>

#include <chrono>
#include <deque>
#include <fstream>
#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "tests/support/catch.h"
#include "tests/support/key_value_server.h"

using namespace std::chrono_literals;
using caching::SavedAnswer;
using caching::SharedAnswers;
using caching::SharedMoment;
using caching::SharedPurge;
using test_support::KeyValueServer;

namespace {

const base::HashKey kKey{{std::byte{1}, std::byte{2}}};
const base::SystemClock kClock;

template <class Condition>
void wait_for(const Condition& condition, const char* what) {
    INFO(what);
    const auto end = std::chrono::steady_clock::now() + 2min;
    while (!condition()) {
        REQUIRE(std::chrono::steady_clock::now() < end);
        std::this_thread::sleep_for(1ms);
    }
}

SavedAnswer make(std::uint64_t number, const std::string& text, const std::string& tag = "handbook") {
    SavedAnswer answer;
    answer.key = {number, ~number};
    answer.tenant = "acme";
    answer.model = "m";
    answer.revision = "00ff";
    answer.tags = {tag};
    answer.created_unix_us = kClock.unix_us();
    answer.expires_unix_us = answer.created_unix_us + 3'600'000'000;
    answer.saved_s = 1.5;
    answer.answer = {.text = text,
                     .is_cut = false,
                     .stop_string = "\n",
                     .stop_token = 7,
                     .prompt_tokens = 3,
                     .cached_tokens = 2,
                     .completion_tokens = 5};
    return answer;
}

/// A gateway's side: what is posted runs on this thread, when the test lets it.
struct Gateway {
    explicit Gateway(const KeyValueServer& server, base::HashKey key = kKey, base::Duration lease = 200ms)
        : Gateway(server.options(), key, lease) {}
    Gateway(caching::SharedServer::Options options, base::HashKey key, base::Duration lease)
        : shared(std::make_unique<SharedAnswers>(SharedAnswers::Setup{.server = std::move(options),
                                                                      .key = key,
                                                                      .patience = 10s,
                                                                      .lease = lease,
                                                                      .tasks_max = 64,
                                                                      .clock = kClock,
                                                                      .post =
                                                                          [this](std::function<void()> work) {
                                                                              const std::scoped_lock lock(mutex);
                                                                              posted.push_back(std::move(work));
                                                                          },
                                                                      .purged =
                                                                          [this](const SharedPurge& purge) {
                                                                              if (is_busy) { return false; }
                                                                              heard.push_back(purge);
                                                                              return true;
                                                                          },
                                                                      .forget =
                                                                          [this] {
                                                                              ++forgotten;
                                                                              return true;
                                                                          }})) {}
    void run() {
        std::deque<std::function<void()>> work;
        {
            const std::scoped_lock lock(mutex);
            work.swap(posted);
        }
        for (const auto& one : work) {
            one();
        }
    }
    template <class Condition>
    void until(const Condition& condition, const char* what) {
        wait_for(
            [&] {
                run();
                return condition();
            },
            what);
    }
    void ready() {
        until([this] { return shared->is_current(); }, "the log is known to its end");
    }
    void keep(const SavedAnswer& answer) {
        const auto before = shared->counts();
        REQUIRE(shared->keep(answer, shared->now()));
        until(
            [&] {
                const auto now = shared->counts();
                return now.written + now.lost > before.written + before.lost;
            },
            "it is written");
    }
    /// What the others have kept; nothing where there is nothing, or nobody to ask.
    std::optional<SavedAnswer> look(std::uint64_t number) {
        std::optional<SavedAnswer> result;
        bool is_answered = false;
        const bool is_asked = shared->look_up({number, ~number}, [&](std::optional<SavedAnswer> found) {
            result = std::move(found);
            is_answered = true;
        });
        if (!is_asked) { return std::nullopt; }
        until([&] { return is_answered; }, "an answer, whatever it is");
        return result;
    }
    base::Result<void> purge(const SharedPurge& purge) {
        std::optional<base::Result<void>> result;
        REQUIRE(shared->purge(purge, [&](base::Result<void> told) { result = std::move(told); }));
        until([&] { return result.has_value(); }, "the purge has an outcome");
        return *result;
    }

    std::mutex mutex;
    std::deque<std::function<void()>> posted;
    std::vector<SharedPurge> heard;
    int forgotten = 0;
    bool is_busy = false;
    std::unique_ptr<SharedAnswers> shared;
};

std::string document_key(std::uint64_t number) {
    char hex[33];
    std::snprintf(hex, sizeof hex, "%016llx%016llx", static_cast<unsigned long long>(number),
                  static_cast<unsigned long long>(~number));
    return std::string("sluice:a:") + hex;
}

/// A server and the gateways that share it.
struct Sharing {
    /// False, and the test is over, on a machine without one.
    bool start(const std::string& more_name = "", const std::string& more_value = "") {
        if (!test_support::has_key_value_server()) { return false; }
        server.start(more_name, more_value);
        return true;
    }
    /// One more, which knows the log of purges to its end.
    Gateway& join(base::Duration lease = 200ms, base::HashKey key = kKey) {
        Gateway& one = gateways.emplace_back(server, key, lease);
        one.ready();
        return one;
    }
    /// A command as anybody may send it; the reply as text.
    std::string command(const std::vector<std::string>& words) const {
        redisContext* const context = redisConnectUnix(server.path().c_str());
        REQUIRE((context != nullptr && context->err == 0));
        std::vector<const char*> starts;
        std::vector<std::size_t> sizes;
        for (const std::string& word : words) {
            starts.push_back(word.data());
            sizes.push_back(word.size());
        }
        auto* const reply = static_cast<redisReply*>(
            redisCommandArgv(context, static_cast<int>(words.size()), starts.data(), sizes.data()));
        REQUIRE(reply != nullptr);
        std::string text = reply->str != nullptr ? std::string(reply->str, reply->len) : std::to_string(reply->integer);
        if (reply->type == REDIS_REPLY_ARRAY) { text = std::to_string(reply->elements); }
        freeReplyObject(reply);
        redisFree(context);
        return text;
    }

    KeyValueServer server;
    std::deque<Gateway> gateways;
};

SharedPurge of_tag(const std::string& tag) {
    SharedPurge purge;
    purge.tag = tag;
    return purge;
}

}  // namespace

TEST_CASE("sharing gateways: what one keeps another one finds, as it was", "[caching][shared]") {
    Sharing all;
    if (!all.start()) { return; }
    Gateway& one = all.join();
    Gateway& two = all.join();
    CHECK_FALSE(two.look(1));
    const SavedAnswer kept = make(1, std::string("a\0b\xff", 4));
    one.keep(kept);
    const auto found = two.look(1);
    REQUIRE(found);
    CHECK(found->answer == kept.answer);
    CHECK(found->tenant == kept.tenant);
    CHECK(found->tags == kept.tags);
    CHECK(found->created_unix_us == kept.created_unix_us);
    CHECK(found->expires_unix_us == kept.expires_unix_us);
    // It goes with its time by itself.
    const long long lives_ms = std::stoll(all.command({"PTTL", document_key(1)}));
    CHECK((lives_ms > 3'000'000 && lives_ms <= 3'600'000));
}

TEST_CASE("sharing gateways: documents that others wrote, changed or cut off are none", "[caching][shared]") {
    Sharing all;
    if (!all.start()) { return; }
    Gateway& one = all.join();
    one.keep(make(1, "text"));
    const std::string whole = all.command({"GET", document_key(1)});
    REQUIRE(one.look(1));
    for (std::size_t at : {std::size_t{0}, std::size_t{20}, whole.size() - 1}) {
        std::string changed = whole;
        changed[at] = static_cast<char>(changed[at] ^ 1);
        all.command({"SET", document_key(1), changed});
        CHECK_FALSE(one.look(1));
    }
    for (std::size_t size = 0; size < whole.size(); size += 7) {
        all.command({"SET", document_key(1), whole.substr(0, size)});
        CHECK_FALSE(one.look(1));
    }
    all.command({"SET", document_key(2), whole});  // another request's
    CHECK_FALSE(one.look(2));
    all.command({"DEL", document_key(1)});
    all.command({"LPUSH", document_key(1), whole});
    CHECK_FALSE(one.look(1));
    all.command({"DEL", document_key(1)});
    all.command({"SET", document_key(1), whole});
    CHECK(one.look(1));
    Gateway& stranger = all.join(200ms, base::HashKey{{std::byte{9}}});  // of a cluster with another key
    CHECK_FALSE(stranger.look(1));
}

TEST_CASE("sharing gateways: what one purges no other one serves, and all hear of it", "[caching][shared]") {
    Sharing all;
    if (!all.start()) { return; }
    Gateway& one = all.join();
    Gateway& two = all.join();
    one.keep(make(1, "old"));
    one.keep(make(2, "other", "menu"));
    const SharedMoment before = two.shared->now();
    REQUIRE(one.purge(of_tag("handbook")));
    CHECK_FALSE(two.look(1));  // at once, also where it has not heard yet
    CHECK(two.look(2));
    two.until([&] { return !two.heard.empty(); }, "the other one hears");
    CHECK(two.heard.back() == of_tag("handbook"));
    CHECK(two.forgotten == one.forgotten);
    // What a model began to say before the purge is none either; what it says afterwards is.
    REQUIRE(two.shared->keep(make(3, "begun before"), before));
    wait_for(
        [&] {
            return !all.command({"GET", document_key(3)}).empty() && all.command({"EXISTS", document_key(3)}) == "1";
        },
        "it is there");
    CHECK_FALSE(one.look(3));
    two.ready();
    two.until([&] { return two.shared->now() != before; }, "it is applied");
    two.keep(make(3, "begun after"));
    CHECK(one.look(3));
    // The documents go, too.
    one.until([&] { return all.command({"EXISTS", document_key(1)}) == "0"; }, "it is swept");
    CHECK(all.command({"EXISTS", document_key(2)}) == "1");
}

TEST_CASE("sharing gateways: one that cannot hear serves nothing that it keeps", "[caching][shared]") {
    Sharing all;
    if (!all.start()) { return; }
    Gateway& one = all.join();
    Gateway& two = all.join();
    SECTION("because it has too much to do") {
        two.is_busy = true;
        REQUIRE(one.purge(of_tag("handbook")));
        two.until([&] { return !two.shared->is_current(); }, "its lease is over");
        two.is_busy = false;
        two.until([&] { return two.shared->is_current(); }, "it is told again");
        CHECK_FALSE(two.heard.empty());
    }
    SECTION("because the server is frozen") {
        all.server.stop(SIGSTOP);
        two.until([&] { return !two.shared->is_current(); }, "its lease is over");
        all.server.stop(SIGCONT);
        two.until([&] { return two.shared->is_current(); }, "it goes on");
        CHECK(two.forgotten == 1);  // at its start only: nothing was lost
    }
    SECTION("because the server is dead") {
        all.server.stop(SIGKILL);
        two.until([&] { return !two.shared->is_up() && !two.shared->is_current(); }, "its lease is over");
        CHECK_FALSE(two.look(1));
        CHECK_FALSE(two.shared->keep(make(1, "text"), two.shared->now()));
        const auto told = two.purge(of_tag("handbook"));
        REQUIRE_FALSE(told);
        CHECK(told.error().code == base::ErrorCode::unavailable);
    }
}

TEST_CASE("sharing gateways: a server that is started anew begins empty, and they with it", "[caching][shared]") {
    Sharing all;
    if (!all.start("--appendonly", "yes")) { return; }
    Gateway& one = all.join();
    one.keep(make(1, "text"));
    const SharedMoment before = one.shared->now();
    REQUIRE(one.look(1));
    SECTION("after a kill") {
        all.server.stop(SIGKILL);
    }
    SECTION("after an orderly end") {
        all.server.stop(SIGTERM);
    }
    all.server.start("--appendonly", "yes");
    one.until([&] { return one.forgotten == 2 && one.shared->is_current(); }, "it has forgotten and is there again");
    // The document came back with the server's file: purges of its last moment may not have.
    CHECK_FALSE(one.look(1));
    CHECK(one.shared->now().life != before.life);
    const auto lost = one.shared->counts().lost;
    REQUIRE(one.shared->keep(make(1, "text"), before));  // begun in the life before
    one.until([&] { return one.shared->counts().lost > lost; }, "it is not written");
    one.keep(make(1, "new"));
    REQUIRE(one.look(1));
}

TEST_CASE("sharing gateways: a log that was lost is not taken for one in which nothing stands", "[caching][shared]") {
    Sharing all;
    if (!all.start()) { return; }
    Gateway& one = all.join();
    Gateway& two = all.join();
    one.keep(make(1, "text"));
    const std::string whole = all.command({"GET", document_key(1)});
    SECTION("all of it") {
        all.command({"FLUSHALL"});
    }
    SECTION("its count") {
        all.command({"DEL", "sluice:count"});
    }
    two.until([&] { return two.forgotten == 2 && two.shared->is_current(); }, "everything goes");
    all.command({"SET", document_key(1), whole});
    CHECK_FALSE(two.look(1));
}

TEST_CASE("sharing gateways: records that were lost count as if everything had been purged", "[caching][shared]") {
    Sharing all;
    if (!all.start()) { return; }
    Gateway& one = all.join(60s);  // which looks when it is asked
    one.keep(make(1, "text", "kept"));
    auto operators = caching::SharedServer::connect(all.server.options());
    REQUIRE(operators);
    REQUIRE((*operators)->purge(caching::purge_bytes(of_tag("a"))));
    REQUIRE((*operators)->purge(caching::purge_bytes(of_tag("b"))));
    SECTION("nothing is lost") {
        CHECK(one.look(1));
        one.until([&] { return one.heard.size() == 2; }, "it hears");
        CHECK(one.forgotten == 1);
    }
    SECTION("the first is lost") {
        all.command({"LPOP", "sluice:purges"});
        CHECK_FALSE(one.look(1));
        one.until([&] { return one.forgotten == 2; }, "it forgets");
    }
    SECTION("all are lost") {
        all.command({"DEL", "sluice:purges"});
        CHECK_FALSE(one.look(1));
        one.until([&] { return one.forgotten == 2; }, "it forgets");
    }
}

TEST_CASE("sharing gateways: more purges than the log holds purge everything", "[caching][shared]") {
    Sharing all;
    if (!all.start()) { return; }
    Gateway& one = all.join(60s);
    one.keep(make(1, "text", "kept"));
    auto operators = caching::SharedServer::connect(all.server.options());
    REQUIRE(operators);
    for (std::uint64_t count = 0; count <= caching::SharedServer::kLogMost; ++count) {
        REQUIRE((*operators)->purge(caching::purge_bytes(of_tag("none"))));
    }
    CHECK(all.command({"LLEN", "sluice:purges"}) == std::to_string(caching::SharedServer::kLogMost));
    CHECK_FALSE(one.look(1));  // nobody knows what the first of them was
    one.until([&] { return one.forgotten == 2; }, "so everything here goes, too");
}

TEST_CASE("a record that cannot be read purges everything", "[caching][shared]") {
    SharedPurge purge = of_tag("handbook");
    purge.tenant = "acme";
    purge.name = base::BlockHash{1, 2};
    purge.revision = "00ff";
    purge.created_before_unix_us = 5;
    purge.near_text = "how";
    purge.near_similarity = 0.8;
    const std::string bytes = caching::purge_bytes(purge);
    CHECK(caching::read_purge_bytes(bytes) == purge);
    CHECK(caching::read_purge_bytes(bytes.substr(0, bytes.size() - 1)) == SharedPurge());
    CHECK(caching::read_purge_bytes("of a later version") == SharedPurge());
    CHECK(SharedPurge().matches(make(1, "any")));
}

TEST_CASE("sharing gateways: a server that is full or wants a password costs misses", "[caching][shared]") {
    Sharing all;
    if (!all.start()) { return; }
    SECTION("full") {
        Gateway& one = all.join();
        all.command({"CONFIG", "SET", "maxmemory", "1"});
        one.keep(make(1, "text"));
        CHECK(one.shared->counts().written == 0);
        CHECK(one.shared->counts().lost == 1);
        CHECK_FALSE(one.look(1));
        CHECK(one.shared->is_up());
        CHECK_FALSE(one.purge(of_tag("handbook")));  // which its operator is told
    }
    SECTION("with a password") {
        all.command({"CONFIG", "SET", "requirepass", "secret"});
        Gateway without(all.server);
        wait_for([&] { return !without.shared->is_up(); }, "it is refused");
        CHECK_FALSE(without.look(1));
        const std::string file = all.server.path() + ".password";
        std::ofstream(file) << "secret\n";
        auto options = all.server.options();
        options.password_file = file;
        Gateway with(options, kKey, 200ms);
        with.ready();
    }
    SECTION("with an account that may do what docs/caching.md says and no more") {
        const std::string file = all.server.path() + ".password";
        std::ofstream(file) << "secret";
        auto options = all.server.options();
        options.user = "sluice";
        options.password_file = file;
        REQUIRE(all.command({"ACL", "SETUSER", "sluice", "on", ">secret", "~sluice:*", "+info", "+get", "+set", "+mget",
                             "+unlink", "+multi", "+exec", "+rpush", "+ltrim", "+incr", "+lrange", "+scan"}) == "OK");
        Gateway one(options, kKey, 200ms);
        one.ready();
        one.keep(make(1, "text"));
        CHECK(one.look(1));
        CHECK(one.purge(of_tag("handbook")));
        one.until([&] { return all.command({"EXISTS", document_key(1)}) == "0"; }, "it is swept");
    }
}

TEST_CASE("sharing gateways: a server that says more than it was asked for is broken off", "[caching][shared]") {
    Sharing all;
    if (!all.start()) { return; }
    Gateway& one = all.join();
    REQUIRE(all.command({"SETRANGE", document_key(1), "80000000", "x"}) == "80000001");
    CHECK_FALSE(one.look(1));
    CHECK(one.shared->counts().refused == 0);  // it was not read to its end
    one.until([&] { return one.shared->is_up() && one.shared->is_current(); }, "it is asked again");
    one.keep(make(2, "text"));
    CHECK(one.look(2));
    CHECK(one.forgotten == 1);
}

TEST_CASE("addresses of servers are read", "[caching][shared]") {
    const auto text = [](const char* given) {
        const auto address = caching::ServerAddress::parse(given);
        return address ? address->text() : std::string("wrong");
    };
    CHECK(text("valkey") == "valkey:6379");
    CHECK(text("10.0.0.1:7000") == "10.0.0.1:7000");
    CHECK(text("[::1]:7000") == "[::1]:7000");
    CHECK(text("[::1]") == "[::1]:6379");
    CHECK(text("unix:/run/valkey.sock") == "unix:/run/valkey.sock");
    for (const char* wrong : {"", "unix:", "a:b", "a:0", "a:70000", "::1", "redis://a", "user@a", "[::1]x", "a b"}) {
        CHECK(text(wrong) == "wrong");
    }
}
