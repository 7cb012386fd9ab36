// The fleet page's server side, with a cluster that is made up: who is let in, how often is looked, what a drain does.
#include "cli/fleet_desk.h"

#include <boost/json.hpp>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "proto/roles.h"
#include "tests/gateway/support.h"

#include "tests/support/catch.h"

namespace {

namespace json = boost::json;
using base::ErrorCode;
using cli::FleetDesk;
using gateway_test::FakeExchange;
using namespace std::chrono_literals;

using Fields = std::vector<std::pair<std::string, std::string>>;

proto::WorkerState worker_of(std::uint64_t id, std::uint64_t life) {
    proto::WorkerState worker;
    worker.mutable_endpoint()->set_worker_id(id);
    worker.mutable_endpoint()->set_incarnation(life);
    worker.mutable_endpoint()->set_control_address("127.0.0.1:7100");
    worker.set_role(proto::role_message(proto::Role::decode));
    worker.set_state("ready");
    worker.mutable_load()->set_requests_running(2);
    return worker;
}

/// A desk, and the I/O thread that it posts to: the test's own.
struct World {
    World() {
        admin = cli::make_admin_key();
        gateway::ApiKey other;
        other.id = "chat-key";
        other.digest = gateway::digest_of_key("for-chats");
        desk =
            FleetDesk::open({.look =
                                 [this] {
                                     ++looks;
                                     wait_while_held();
                                     cli::TopMoment moment;
                                     moment.at = clock.now();
                                     moment.unix_s = static_cast<double>(looks);
                                     return moment;
                                 },
                             .describe = [this]() -> base::Result<proto::DescribeReply> {
                                 if (is_lost) { return base::fail(ErrorCode::unavailable, "nobody listens"); }
                                 proto::DescribeReply reply;
                                 proto::ModelState& model = *reply.add_models();
                                 model.set_model("m");
                                 *model.add_workers() = worker_of(0xaa, 0xbb);
                                 return reply;
                             },
                             .drain = [this](std::uint64_t id, std::uint64_t life) -> base::Result<proto::WorkerState> {
                                 wait_while_held();
                                 if (is_lost) { return base::fail(ErrorCode::unavailable, "nobody listens"); }
                                 if (id != 0xaa) { return base::fail(ErrorCode::not_found, "there is no worker"); }
                                 if (life != 0xbb) {
                                     return base::fail(ErrorCode::failed_precondition, "another life");
                                 }
                                 ++drains;
                                 return worker_of(id, life);
                             },
                             .keys_file = "",
                             .keys = {admin.key, other},
                             .clock = clock})
                .value();
        desk->start([this](std::function<void()> step) {
            {
                const std::scoped_lock lock(mutex);
                posted.push_back(std::move(step));
            }
            changed.notify_all();
        });
    }
    ~World() { hold(false); }

    std::shared_ptr<FakeExchange> send(const std::string& method, const std::string& path, const std::string& secret,
                                       const std::string& body = "", Fields fields = {}) {
        gateway::HttpRequest request;
        request.head.method = method;
        const auto end = std::min(path.find('?'), path.size());
        request.head.path = request.head.sent_path = path.substr(0, end);
        request.head.query = end < path.size() ? path.substr(end + 1) : "";
        if (!secret.empty()) { fields.emplace_back("authorization", "Bearer " + secret); }
        if (!body.empty()) { fields.emplace_back("content-type", "application/json"); }
        request.head.fields = std::move(fields);
        request.body = body;
        auto exchange = std::make_shared<FakeExchange>();
        desk->handle(request, exchange);
        return exchange;
    }
    /// The same, answered.
    gateway::HttpResponse ask(const std::string& method, const std::string& path, const std::string& secret,
                              const std::string& body = "") {
        const auto exchange = send(method, path, secret, body);
        run_until([&] { return exchange->response.has_value(); });
        REQUIRE(exchange->answers == 1);
        return *exchange->response;
    }
    json::object state() {
        const auto response = ask("GET", "/fleet/state", admin.secret);
        REQUIRE(response.status == 200u);
        return json::parse(response.body).as_object();
    }
    /// Does what was posted, until that holds.
    template <class Condition>
    void run_until(Condition holds) {
        while (!holds()) {
            std::unique_lock lock(mutex);
            REQUIRE(changed.wait_for(lock, 60s, [&] { return !posted.empty(); }));
            const auto step = std::move(posted.front());
            posted.pop_front();
            lock.unlock();
            step();
        }
    }
    /// What is done on the desk's thread stands still meanwhile.
    void hold(bool should) {
        {
            const std::scoped_lock lock(mutex);
            is_held = should;
        }
        changed.notify_all();
    }
    void wait_while_held() {
        std::unique_lock lock(mutex);
        changed.wait(lock, [&] { return !is_held; });
    }

    base::FakeClock clock;
    cli::MadeKey admin;
    std::atomic<int> looks = 0;
    std::atomic<int> drains = 0;
    std::atomic<bool> is_lost = false;
    std::mutex mutex;
    std::condition_variable changed;
    std::deque<std::function<void()>> posted;
    bool is_held = false;
    std::unique_ptr<FleetDesk> desk;  // last: its thread uses the rest
};

constexpr const char* kDrain = R"({"worker":"00000000000000aa","incarnation":"00000000000000bb"})";

}  // namespace

TEST_CASE("nothing is told or done without a key of scope admin", "[cli][fleet]") {
    World world;
    for (const auto& [method, path, body] :
         {std::tuple("GET", "/fleet/state", ""), std::tuple("POST", "/fleet/drain", kDrain)}) {
        CAPTURE(path);
        REQUIRE(world.send(method, path, "", body)->response->status == 401u);
        REQUIRE(world.send(method, path, "sk-sluice-guess", body)->response->status == 401u);
        REQUIRE(world.send(method, path, "for-chats", body)->response->status == 403u);
    }
    REQUIRE(world.looks == 0);
    REQUIRE(world.drains == 0);
    REQUIRE(world.state().at("workers").at("total").to_number<int>() == 1);
}

TEST_CASE("the page's files tell nothing, and need no key", "[cli][fleet]") {
    World world;
    for (const char* path :
         {"/fleet", "/page/style.css", "/page/shared.mjs", "/page/fleet/style.css", "/page/fleet/main.mjs",
          "/page/fleet/tables.mjs", "/page/fleet/words.mjs", "/page/icon.svg"}) {
        CAPTURE(path);
        REQUIRE(FleetDesk::is_route(path));
        const auto response = world.send("GET", path, "")->response;
        REQUIRE(response->status == 200u);
        REQUIRE_FALSE(response->body.empty());
        REQUIRE(world.send("POST", path, world.admin.secret, "{}")->response->status == 405u);
    }
    REQUIRE(world.send("GET", "/", "")->response->status == 302u);
    for (const char* path : {"/page/main.mjs", "/fleet/", "/page/fleet/", "/page/page.cpp"}) {
        REQUIRE_FALSE(FleetDesk::is_route(path));
    }
    REQUIRE(world.send("GET", "/fleet/drain", world.admin.secret)->response->status == 405u);
    REQUIRE(world.send("POST", "/fleet/state", world.admin.secret)->response->status == 405u);
    REQUIRE(world.looks == 0);
}

TEST_CASE("there is one look for all who watch, and none for nobody", "[cli][fleet]") {
    World world;
    world.hold(true);
    std::vector<std::shared_ptr<FakeExchange>> pages;
    for (int i = 0; i < 5; ++i) {
        pages.push_back(world.send("GET", "/fleet/state?q=decode", world.admin.secret));
    }
    world.hold(false);
    world.run_until([&] { return pages.back()->response.has_value(); });
    REQUIRE(world.looks == 1);
    for (const auto& page : pages) {
        REQUIRE(page->response->status == 200u);
    }
    world.state();
    REQUIRE(world.looks == 1);  // it is young enough
    world.clock.advance(2s);
    REQUIRE(world.state().at("interval_s").to_number<double>() == Approx(2));
    REQUIRE(world.looks == 2);
    world.clock.advance(1h);  // nobody watched: rates over an hour say nothing of now
    REQUIRE(world.looks == 2);
    REQUIRE(world.state().at("interval_s").is_null());
}

TEST_CASE("more pages than may wait for a look are asked to come again", "[cli][fleet]") {
    World world;
    world.hold(true);
    std::vector<std::shared_ptr<FakeExchange>> pages;
    for (int i = 0; i < 80; ++i) {
        pages.push_back(world.send("GET", "/fleet/state", world.admin.secret));
    }
    const auto refused =
        std::count_if(pages.begin(), pages.end(), [](const auto& page) { return page->response.has_value(); });
    REQUIRE(refused == 80 - 64);
    REQUIRE(pages.back()->response->status == 503u);
    world.hold(false);
    world.run_until([&] { return pages.front()->response.has_value(); });
}

TEST_CASE("words and rows of the question are read as they are meant", "[cli][fleet]") {
    World world;
    const auto matching = [&](const std::string& query) {
        const auto response = world.ask("GET", "/fleet/state" + query, world.admin.secret);
        return json::parse(response.body).at("workers").at("matching").to_number<int>();
    };
    REQUIRE(matching("?q=DECODE+ready&rows=5") == 1);
    REQUIRE(matching("?q=127.0.0.1%3A7100") == 1);
    REQUIRE(matching("?q=decode%20prefill") == 0);
    REQUIRE(matching("?q=%zz%") == 0);
    REQUIRE(matching("?rows=all&q=") == 1);
}

TEST_CASE("a drain is asked for once, and the next look is a new one", "[cli][fleet]") {
    World world;
    world.state();
    const auto response = world.ask("POST", "/fleet/drain", world.admin.secret, kDrain);
    REQUIRE(response.status == 200u);
    const json::object told = json::parse(response.body).as_object();
    REQUIRE(told.at("worker").as_string() == "00000000000000aa");
    REQUIRE(told.at("requests").to_number<int>() == 2);
    REQUIRE(world.drains == 1);
    world.state();
    REQUIRE(world.looks == 2);
}

TEST_CASE("what cannot be drained is said with why", "[cli][fleet]") {
    World world;
    const auto status = [&](const std::string& body) {
        return world.ask("POST", "/fleet/drain", world.admin.secret, body).status;
    };
    REQUIRE(status(R"({"worker":"ff","incarnation":"bb"})") == 404u);
    REQUIRE(status(R"({"worker":"aa","incarnation":"cc"})") == 409u);
    for (const char* body : {"{", "[]", "{}", R"({"worker":"aa"})", R"({"worker":170,"incarnation":187})",
                             R"({"worker":"aa","incarnation":"0"})", R"({"worker":"xyz","incarnation":"bb"})"}) {
        CAPTURE(body);
        REQUIRE(status(body) == 400u);
    }
    const auto form = world.send("POST", "/fleet/drain", world.admin.secret, "", {{"content-type", "text/plain"}});
    REQUIRE(form->response->status == 415u);
    world.is_lost = true;
    const auto lost = world.ask("POST", "/fleet/drain", world.admin.secret, kDrain);
    REQUIRE(lost.status == 503u);
    REQUIRE(lost.body.find("nobody listens") != std::string::npos);
    REQUIRE(world.drains == 0);
}

TEST_CASE("more drains than may be in work are refused, and those in work all answered", "[cli][fleet]") {
    World world;
    world.hold(true);
    std::vector<std::shared_ptr<FakeExchange>> asked;
    for (int i = 0; i < 9; ++i) {
        asked.push_back(world.send("POST", "/fleet/drain", world.admin.secret, kDrain));
    }
    REQUIRE(asked.back()->response->status == 503u);
    const auto page = world.send("GET", "/fleet/state", world.admin.secret);  // there is room for a look
    world.hold(false);
    world.run_until([&] { return page->response.has_value(); });
    for (std::size_t i = 0; i < 8; ++i) {
        REQUIRE(asked[i]->response->status == 200u);
    }
}

TEST_CASE("while the scheduler is lost the last known workers are told, as old", "[cli][fleet]") {
    World world;
    world.state();
    world.is_lost = true;
    world.clock.advance(5s);
    const json::object lost = world.state();
    REQUIRE_FALSE(lost.at("scheduler").at("reached").as_bool());
    REQUIRE(lost.at("scheduler").at("problem").as_string() == "nobody listens");
    REQUIRE(lost.at("workers").at("total").to_number<int>() == 1);
    REQUIRE(lost.at("changes").at(0).at("what").as_string() == "scheduler");
    world.is_lost = false;
    world.clock.advance(5s);
    const json::object back = world.state();
    REQUIRE(back.at("scheduler").at("reached").as_bool());
    REQUIRE(back.at("changes").as_array().size() == 2u);
    REQUIRE(back.at("changes").at(0).at("text").as_string() == "is reached");  // newest first
}

TEST_CASE("a key that was made for a run is one of scope admin, and no two are the same", "[cli][fleet]") {
    const cli::MadeKey one = cli::make_admin_key();
    const cli::MadeKey other = cli::make_admin_key();
    REQUIRE(one.secret != other.secret);
    REQUIRE(one.key.digest == gateway::digest_of_key(one.secret));
    REQUIRE(one.key.allows("admin"));
    REQUIRE_FALSE(one.key.allows("chat"));
}
