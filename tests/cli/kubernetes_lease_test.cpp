// Who leads by a Lease: against a server that keeps objects as an API server does, and fails as the test says.
#include "cli/kubernetes_lease.h"

#include <arpa/inet.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <boost/json.hpp>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "base/clock.h"
#include "scheduler/election.h"

#include "tests/support/catch.h"

using base::ErrorCode;
using cli::open_kubernetes_lease;
using cli::RecordLease;
using scheduler::LeaderTerm;
using namespace std::chrono_literals;
namespace json = boost::json;

namespace {

constexpr const char* kPath = "/apis/coordination.k8s.io/v1/namespaces/serving/leases";

/// One object, and its versions. One connection at a time, one request each.
class ApiServer {
public:
    ApiServer() {
        listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t bytes = sizeof(address);
        REQUIRE(bind(listener_, reinterpret_cast<sockaddr*>(&address), bytes) == 0);
        REQUIRE(listen(listener_, 64) == 0);
        REQUIRE(getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &bytes) == 0);
        url = "http://127.0.0.1:" + std::to_string(ntohs(address.sin_port));
        thread_ = std::jthread([this](const std::stop_token& stop) { run(stop); });
    }
    ~ApiServer() {
        thread_.request_stop();
        thread_.join();
        close(listener_);
    }

    /// How the next requests are answered: as usual; with this status; not at all, before or after the write.
    struct Mode {
        int status = 0;
        bool is_silent_before = false;
        bool is_silent_after = false;
        std::string body = {};
    };
    void set(Mode mode) {
        const std::scoped_lock lock(mutex_);
        mode_ = std::move(mode);
    }
    json::value object() {
        const std::scoped_lock lock(mutex_);
        return object_;
    }
    /// As somebody else does who has the right to write.
    void edit(const std::function<void(json::value&)>& change) {
        const std::scoped_lock lock(mutex_);
        change(object_);
        stamp();
    }
    std::string last_token() {
        const std::scoped_lock lock(mutex_);
        return token_;
    }
    int writes() {
        const std::scoped_lock lock(mutex_);
        return writes_;
    }

    std::string url;

private:
    void stamp() {
        if (object_.is_object()) { object_.at("metadata").as_object()["resourceVersion"] = std::to_string(++version_); }
    }
    void run(const std::stop_token& stop) {
        while (!stop.stop_requested()) {
            pollfd waits{listener_, POLLIN, 0};
            if (poll(&waits, 1, 20) <= 0) { continue; }
            const int connection = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
            const std::string request = read_request(connection);
            const std::string answer = respond(request);
            if (!answer.empty()) { send(connection, answer.data(), answer.size(), MSG_NOSIGNAL); }
            close(connection);
        }
    }
    static std::string read_request(int connection) {
        std::string text;
        std::array<char, 4096> bytes;
        while (true) {
            const auto end = text.find("\r\n\r\n");
            if (end != std::string::npos) {
                const auto at = text.find("Content-Length: ");
                const std::size_t body = at < end ? std::stoul(text.substr(at + 16)) : 0;
                if (text.size() >= end + 4 + body) { return text; }
            }
            const ssize_t count = recv(connection, bytes.data(), bytes.size(), 0);
            if (count <= 0) { return text; }
            text.append(bytes.data(), static_cast<std::size_t>(count));
        }
    }
    static std::string written(int status, const std::string& body) {
        return "HTTP/1.1 " + std::to_string(status) + " X\r\nContent-Type: application/json\r\nConnection: close\r\n" +
               "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
    }
    std::string respond(const std::string& request) {
        const std::scoped_lock lock(mutex_);
        const auto bearer = request.find("Bearer ");
        if (bearer != std::string::npos) {
            token_ = request.substr(bearer + 7, request.find('\r', bearer) - bearer - 7);
        }
        if (mode_.is_silent_before) { return {}; }
        if (mode_.status != 0) { return written(mode_.status, mode_.body); }
        const std::string line = request.substr(0, request.find(" HTTP/"));
        const std::string body = request.substr(request.find("\r\n\r\n") + 4);
        const std::string one = std::string(kPath) + "/sluice";
        const std::string known =
            object_.is_object() ? std::string(object_.at("metadata").at("resourceVersion").as_string()) : "";
        if (line == "GET " + one) {
            return object_.is_object() ? written(200, json::serialize(object_)) : written(404, R"({"message":"none"})");
        }
        const bool is_new = line == std::string("POST ") + kPath;
        if (!is_new && line != "PUT " + one) { return written(405, "{}"); }
        json::value given = json::parse(body);
        if (is_new && object_.is_object()) { return written(409, R"({"reason":"AlreadyExists"})"); }
        if (!is_new) {
            if (!object_.is_object()) { return written(404, "{}"); }
            const json::value* const version = given.at("metadata").as_object().if_contains("resourceVersion");
            if (version == nullptr || *version != json::value(known)) {
                return written(409, R"({"reason":"Conflict"})");
            }
        }
        object_ = std::move(given);
        stamp();
        ++writes_;
        if (mode_.is_silent_after) { return {}; }
        return written(is_new ? 201 : 200, json::serialize(object_));
    }

    int listener_ = -1;
    std::mutex mutex_;
    Mode mode_;
    json::value object_;
    std::uint64_t version_ = 100;
    std::string token_;
    int writes_ = 0;
    std::jthread thread_;
};

/// The folder of a service account.
struct Account {
    Account() {
        std::string name = (std::filesystem::temp_directory_path() / "account-XXXXXX").string();
        REQUIRE(mkdtemp(name.data()) != nullptr);
        folder = name;
        put("token", "first\n");
        put("namespace", "serving");
    }
    ~Account() { std::filesystem::remove_all(folder); }
    void put(const std::string& name, const std::string& text) const { std::ofstream(folder / name) << text; }
    cli::KubernetesAccess access(const ApiServer& server) const { return {server.url, folder.string()}; }
    std::filesystem::path folder;
};

std::unique_ptr<RecordLease> open(const Account& account, const ApiServer& server,
                                  std::chrono::milliseconds lease = 60s) {
    auto opened = open_kubernetes_lease("sluice", account.access(server), lease);
    REQUIRE(opened);
    return std::move(*opened);
}

LeaderTerm term(std::uint64_t serial, const std::string& holder, std::uint64_t beat = 0) {
    LeaderTerm made;
    made.serial = serial;
    made.epoch = 1000 + serial;
    made.holder = holder;
    made.beat = beat;
    made.workers = 3;
    return made;
}

}  // namespace

TEST_CASE("a Lease is begun, renewed and given back as Kubernetes' clients do it", "[cli]") {
    ApiServer server;
    const Account account;
    const auto a = open(account, server);
    const auto b = open(account, server);
    REQUIRE(a->look().value() == LeaderTerm());
    REQUIRE(a->begin({}, term(1, "a:7000")).value());
    const json::value made = server.object();
    CHECK(made.at("kind") == "Lease");
    CHECK(made.at("metadata").at("name") == "sluice");
    CHECK(made.at("spec").at("holderIdentity") == "a:7000");
    CHECK(made.at("spec").at("leaseDurationSeconds") == 60);
    CHECK(made.at("spec").at("leaseTransitions") == 1);
    CHECK(made.at("spec").at("acquireTime").as_string().size() == std::string("2026-01-01T00:00:00.000000Z").size());
    CHECK(made.at("metadata").at("annotations").at("sluice.dev/epoch") == "1001");
    CHECK(server.last_token() == "first");

    REQUIRE(b->look().value() == term(1, "a:7000"));
    account.put("token", "second\n");  // tokens of pods are replaced while they run
    REQUIRE(a->renew(term(1, "a:7000", 1)).value());
    CHECK(server.last_token() == "second");
    REQUIRE_FALSE(b->begin(term(1, "a:7000"), term(2, "b:7000")).value());  // renewed since b looked
    REQUIRE(b->look().value() == term(1, "a:7000", 1));

    a->resign();
    const auto over = b->look().value();
    REQUIRE(over.over);
    REQUIRE(over.epoch == 1001);
    REQUIRE(b->begin(over, term(2, "b:7000")).value());
    REQUIRE_FALSE(a->renew(term(1, "a:7000", 2)).value());
    REQUIRE(server.object().at("spec").at("holderIdentity") == "b:7000");
}

TEST_CASE("of those who begin at once one does", "[cli]") {
    ApiServer server;
    const Account account;
    constexpr std::size_t kCandidates = 4;
    std::array<std::unique_ptr<RecordLease>, kCandidates> all;
    for (auto& one : all) {
        one = open(account, server);
        REQUIRE(one->look().value().serial == 0);
    }
    std::atomic<int> begun = 0;
    {
        std::array<std::jthread, kCandidates> threads;
        for (std::size_t i = 0; i < kCandidates; ++i) {
            threads[i] = std::jthread([&, i] {
                const auto mine = all[i]->begin({}, term(1, "candidate " + std::to_string(i)));
                begun += mine && *mine ? 1 : 0;
            });
        }
    }
    REQUIRE(begun == 1);
    REQUIRE(server.writes() == 1);
}

TEST_CASE("a leader goes on when others edit its Lease, when an answer is lost, and when it is deleted", "[cli]") {
    ApiServer server;
    const Account account;
    const auto a = open(account, server);
    REQUIRE(a->look());
    REQUIRE(a->begin({}, term(1, "a:7000")).value());
    SECTION("a label") {
        server.edit([](json::value& object) {
            object.at("metadata").as_object()["labels"] = json::object{{"team", "serving"}};
        });
        REQUIRE(a->renew(term(1, "a:7000", 1)).value());
        REQUIRE(server.object().at("metadata").at("labels").at("team") == "serving");
    }
    SECTION("a lost answer") {
        server.set({.is_silent_after = true});
        REQUIRE(a->renew(term(1, "a:7000", 1)).error().code == ErrorCode::unavailable);
        server.set({});
        REQUIRE(a->renew(term(1, "a:7000", 2)).value());
        REQUIRE(server.object().at("metadata").at("annotations").at("sluice.dev/beat") == "2");
    }
    SECTION("deleted") {
        server.edit([](json::value& object) { object = nullptr; });
        REQUIRE(a->renew(term(1, "a:7000", 1)).value());
        REQUIRE(server.object().at("spec").at("holderIdentity") == "a:7000");
    }
    SECTION("but not when its term was ended by hand") {
        server.edit([](json::value& object) { object.at("spec").as_object()["holderIdentity"] = ""; });
        REQUIRE_FALSE(a->renew(term(1, "a:7000", 1)).value());
    }
}

TEST_CASE("what an API server may fail with is an error, and nobody leads by it", "[cli]") {
    ApiServer server;
    const Account account;
    const auto a = open(account, server, 1000ms);
    const auto failing = [&](ApiServer::Mode mode, const std::string& words) {
        server.set(std::move(mode));
        const auto looked = a->look();
        REQUIRE_FALSE(looked);
        INFO(looked.error().message);
        CHECK(looked.error().code == ErrorCode::unavailable);
        CHECK(looked.error().message.find(words) != std::string::npos);
        const auto begun = a->begin({}, term(1, "a:7000"));
        CHECK((!begun && begun.error().code == ErrorCode::unavailable));
        server.set({});
        CHECK(server.object().is_null());
    };
    failing({.status = 500, .body = R"({"message":"etcdserver: request timed out"})"}, "500: etcdserver");
    failing({.status = 403, .body = R"({"message":"leases is forbidden"})"}, "needs get, create and update of leases");
    failing({.status = 401}, "401");
    failing({.status = 429}, "429");
    failing({.is_silent_before = true}, "no answer of " + server.url);
    failing({.status = 200, .body = "<html>"}, "no JSON object");
    std::filesystem::remove(account.folder / "token");
    failing({}, "service account");
}

TEST_CASE("a Lease of somebody else is left alone; an empty one is taken", "[cli]") {
    ApiServer server;
    const Account account;
    const auto a = open(account, server);
    server.edit([](json::value& object) {
        object = json::parse(R"({"metadata":{"name":"sluice"},"spec":{"holderIdentity":"kube-scheduler-1"}})");
    });
    REQUIRE(a->look().error().code == ErrorCode::invalid_argument);
    server.edit([](json::value& object) { object.at("spec").as_object().erase("holderIdentity"); });
    const auto seen = a->look();
    REQUIRE(seen.value() == LeaderTerm());
    REQUIRE(a->begin(*seen, term(1, "a:7000")).value());
    REQUIRE(a->renew(term(1, "a:7000", 1)).value());
}

TEST_CASE("names and servers that make no sense are refused at once", "[cli]") {
    ApiServer server;
    const Account account;
    const auto code = [&](const std::string& name, cli::KubernetesAccess access) {
        const auto opened = open_kubernetes_lease(name, access, 2s);
        return opened ? std::string("fine") : std::string(base::error_code_name(opened.error().code));
    };
    CHECK(code("sluice", account.access(server)) == "fine");
    CHECK(code("other/sluice", account.access(server)) == "fine");
    for (const char* bad : {"", "a/", "/a", "a/b/c", "Sluice", "../x", "a?b"}) {
        CAPTURE(bad);
        CHECK(code(bad, account.access(server)) == "invalid_argument");
    }
    CHECK(code("sluice", {"http://10.0.0.1:8001", account.folder.string()}) == "invalid_argument");
    CHECK(code("sluice", {"https://10.0.0.1:6443", account.folder.string()}) == "fine");
    CHECK(code("sluice", {"ftp://127.0.0.1", account.folder.string()}) == "invalid_argument");
    CHECK(code("sluice", {server.url, "/no/such/folder"}) == "unavailable");
}

TEST_CASE("schedulers elect one by a Lease, and keep it while the API server is gone", "[cli]") {
    ApiServer server;
    const Account account;
    base::FakeClock clock;
    const auto lease_a = open(account, server, 60s);
    const auto lease_b = open(account, server, 60s);
    scheduler::Election a({.name = "a:7000", .lease = 1000ms}, *lease_a, clock);
    scheduler::Election b({.name = "b:7000", .lease = 1000ms}, *lease_b, clock);
    REQUIRE(a.step({}).leads_at(clock.now()));
    REQUIRE(b.step({}).leader == "a:7000");
    server.set({.status = 503});
    for (int look = 0; look < 20; ++look) {
        clock.advance(250ms);
        REQUIRE(a.step({}).leads_at(clock.now()));
        REQUIRE_FALSE(b.step({}).leads_at(clock.now()));
    }
    server.set({});
    REQUIRE_FALSE(b.step({}).leads_at(clock.now()));
    clock.advance(500ms);
    REQUIRE(a.step({}).leads_at(clock.now()));
    // It stops for good: the other one leads a lease after it has last seen it move.
    REQUIRE_FALSE(b.step({}).leads_at(clock.now()));
    clock.advance(999ms);
    REQUIRE_FALSE(b.step({}).leads_at(clock.now()));
    clock.advance(1ms);
    REQUIRE(b.step({}).leads_at(clock.now()));
    REQUIRE(b.standing().epoch > a.standing().epoch);
    REQUIRE_FALSE(a.step({}).leads_at(clock.now()));
}
