// What the fleet page is told: which workers, in which order, and what became different.
#include "cli/fleet_view.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

#include "cli/metrics_text.h"
#include "cli/top_view.h"
#include "proto/roles.h"

#include "tests/support/catch.h"

namespace {

namespace json = boost::json;
using cli::FleetMoment;
using cli::FleetQuery;

struct WorkerSays {
    std::uint64_t id = 1;
    std::uint64_t life = 100;
    proto::Role role = proto::Role::decode;
    std::string state = "ready";
    std::string address = "10.0.0.1:7100";
};

void add(proto::ModelState& model, const WorkerSays& says) {
    proto::WorkerState& worker = *model.add_workers();
    worker.mutable_endpoint()->set_worker_id(says.id);
    worker.mutable_endpoint()->set_incarnation(says.life);
    worker.mutable_endpoint()->set_control_address(says.address);
    worker.set_role(proto::role_message(says.role));
    worker.set_state(says.state);
    worker.set_heartbeat_age_us(1'234'567);
    proto::WorkerLoad& load = *worker.mutable_load();
    load.set_requests_running(3);
    load.set_requests_waiting(4);
    load.set_blocks_used(20);
    load.set_blocks_pinned(5);
    load.set_blocks_cached(25);
    load.set_blocks_free(50);
}

/// One model of these workers, seen at that second.
FleetMoment moment(double unix_s, const std::vector<WorkerSays>& workers, bool is_ready = true) {
    FleetMoment made;
    made.unix_s = made.roster_unix_s = unix_s;
    proto::ModelState& model = *made.roster.emplace().add_models();
    model.set_model("stories");
    model.set_ready(is_ready);
    made.roster->set_scheduler_epoch(7);
    for (const WorkerSays& worker : workers) {
        add(model, worker);
    }
    return made;
}

FleetMoment with_processes(FleetMoment made, const std::vector<cli::TopSource>& sources) {
    cli::TopMoment told;
    told.sources = sources;
    made.view = cli::top_view(told, nullptr);
    return made;
}

cli::TopSource process(const std::string& url, const std::string& version, const std::string& problem = {}) {
    return {.url = url,
            .samples = problem.empty() ? *cli::parse_metrics("sluice_build_info{version=\"" + version + "\"} 1\n")
                                       : std::vector<cli::Sample>(),
            .problem = problem};
}

std::vector<std::string> texts(const std::vector<cli::FleetChange>& changes) {
    std::vector<std::string> all;
    for (const cli::FleetChange& change : changes) {
        all.push_back(change.what + " " + change.name + ": " + change.text);
    }
    return all;
}

std::vector<std::string> ids(const json::object& told) {
    std::vector<std::string> all;
    for (const json::value& row : told.at("workers").at("rows").as_array()) {
        all.emplace_back(row.at("id").as_string());
    }
    return all;
}

}  // namespace

TEST_CASE("a worker's row has its life, its load and how full its KV is", "[cli][fleet]") {
    const json::object told = cli::fleet_json(moment(10, {{.id = 0xab, .life = 0xcd}}), {}, {});
    const json::object& row = told.at("workers").at("rows").at(0).as_object();
    REQUIRE(row.at("id").as_string() == "00000000000000ab");
    REQUIRE(row.at("incarnation").as_string() == "00000000000000cd");
    REQUIRE(row.at("model").as_string() == "stories");
    REQUIRE(row.at("role").as_string() == "decode");
    REQUIRE(row.at("running").to_number<int>() == 3);
    REQUIRE(row.at("kv").at("blocks").to_number<int>() == 100);
    REQUIRE(row.at("kv").at("in_use_ratio").to_number<double>() == Approx(0.25));
    REQUIRE(row.at("heartbeat_age_s").to_number<double>() == Approx(1.235));
    REQUIRE(told.at("served").at(0).at("ready").as_bool());
    REQUIRE(told.at("scheduler").at("reached").as_bool());
}

TEST_CASE("of thousands of workers those are told that are asked for, who needs attention first", "[cli][fleet]") {
    std::vector<WorkerSays> workers;
    for (std::uint64_t id = 1; id <= 5000; ++id) {
        workers.push_back({.id = id, .state = id == 4321 ? "suspect" : id % 1000 == 0 ? "draining" : "ready"});
    }
    workers[76].address = "rack-9.example:7100";
    const FleetMoment now = moment(0, workers);
    const json::object all = cli::fleet_json(now, {}, FleetQuery{.words = "", .rows_max = 8});
    REQUIRE(all.at("workers").at("total").to_number<int>() == 5000);
    REQUIRE(all.at("workers").at("matching").to_number<int>() == 5000);
    REQUIRE(all.at("workers").at("states").at("draining").to_number<int>() == 5);
    REQUIRE(ids(all) == std::vector<std::string>{"00000000000010e1", "00000000000003e8", "00000000000007d0",
                                                 "0000000000000bb8", "0000000000000fa0", "0000000000001388",
                                                 "0000000000000001", "0000000000000002"});
    const json::object few = cli::fleet_json(now, {}, FleetQuery{.words = " DECODE rack-9 ", .rows_max = 8});
    REQUIRE(few.at("workers").at("matching").to_number<int>() == 1);
    REQUIRE(few.at("workers").at("total").to_number<int>() == 5000);
    REQUIRE(ids(few) == std::vector<std::string>{"000000000000004d"});
    REQUIRE(ids(cli::fleet_json(now, {}, FleetQuery{.words = "decode encode"})).empty());
    REQUIRE(ids(cli::fleet_json(now, {}, FleetQuery{.words = "", .rows_max = 100'000})).size() == cli::kFleetRowsMax);
}

TEST_CASE("long lists of the rest are cut, and it is said", "[cli][fleet]") {
    FleetMoment now = moment(0, {});
    json::array kv;
    for (int i = 0; i < 700; ++i) {
        kv.push_back(json::object{{"worker", "w" + std::to_string(i)}});
    }
    now.view["kv"] = kv;
    const json::object told = cli::fleet_json(now, {}, {});
    REQUIRE(told.at("kv").as_array().size() == cli::kFleetViewRowsMax);
    REQUIRE(told.at("left_off").at("kv").to_number<int>() == 200);
}

TEST_CASE("who is the last to do what it does is marked", "[cli][fleet]") {
    using proto::Role;
    const auto is_last = [](const std::vector<WorkerSays>& workers) {
        std::vector<bool> last;
        const json::object told = cli::fleet_json(moment(0, workers), {}, {});
        for (const json::value& row : told.at("workers").at("rows").as_array()) {
            last.push_back(row.at("is_last").as_bool());
        }
        return last;
    };
    REQUIRE(is_last({{.id = 1, .role = Role::prefill}, {.id = 2}, {.id = 3}}) == std::vector{true, false, false});
    // A mixed one does both; one that drains or is silent does nothing for those who come.
    REQUIRE(is_last({{.id = 1, .role = Role::prefill}, {.id = 2, .role = Role::mixed}}) == std::vector{false, true});
    REQUIRE(is_last({{.id = 1, .state = "suspect"}, {.id = 2, .state = "draining"}, {.id = 3}}) ==
            std::vector{false, false, true});
}

TEST_CASE("what became different between two looks is told", "[cli][fleet]") {
    const FleetMoment before =
        moment(10, {{.id = 1}, {.id = 2}, {.id = 3}, {.id = 4, .role = proto::Role::prefill, .state = "suspect"}});
    const FleetMoment same =
        moment(12, {{.id = 1}, {.id = 2}, {.id = 3}, {.id = 4, .role = proto::Role::prefill, .state = "suspect"}});
    REQUIRE(cli::fleet_changes(before, same, 100).empty());
    const FleetMoment now = moment(
        12,
        {{.id = 1, .state = "draining"}, {.id = 2, .life = 101}, {.id = 4, .role = proto::Role::prefill}, {.id = 5}},
        false);
    const auto changes = cli::fleet_changes(before, now, 100);
    REQUIRE(texts(changes) == std::vector<std::string>{
                                  "model stories: is not ready",
                                  "worker 0000000000000001: was ready, is draining",
                                  "worker 0000000000000002: is another process now, ready",
                                  "worker 0000000000000004: was suspect, is ready",
                                  "worker 0000000000000005: registered as decode of stories at 10.0.0.1:7100, ready",
                                  "worker 0000000000000003: is gone (decode of stories, was ready)",
                              });
    REQUIRE(changes.front().unix_s == 12);
    const auto few = cli::fleet_changes(before, now, 3);
    REQUIRE(few.size() == 3u);
    REQUIRE(few.back().text == "4 more changes at once");
}

TEST_CASE("a scheduler that is not reached changes no worker, and is told itself", "[cli][fleet]") {
    const FleetMoment before = moment(10, {{.id = 1}});
    FleetMoment lost = before;  // the roster is the last known one
    lost.unix_s = 70;
    lost.scheduler_problem = "connection refused";
    REQUIRE(texts(cli::fleet_changes(before, lost, 9)) ==
            std::vector<std::string>{"scheduler : is not reached: connection refused"});
    const json::object told = cli::fleet_json(lost, {}, {});
    REQUIRE_FALSE(told.at("scheduler").at("reached").as_bool());
    REQUIRE(told.at("scheduler").at("workers_age_s").to_number<double>() == Approx(60));
    REQUIRE(ids(told).size() == 1u);
    FleetMoment back = moment(80, {{.id = 1}});
    back.roster->set_scheduler_epoch(8);
    REQUIRE(texts(cli::fleet_changes(lost, back, 9)) ==
            std::vector<std::string>{"scheduler : is reached", "scheduler : another one leads, of epoch 8"});
    FleetMoment never;
    never.scheduler_problem = "no answer";
    const json::object nothing = cli::fleet_json(never, {}, {});
    REQUIRE(nothing.at("scheduler").at("workers_age_s").is_null());
    REQUIRE(nothing.at("workers").at("total").to_number<int>() == 0);
}

TEST_CASE("processes that are lost, come back, or are of another version are told", "[cli][fleet]") {
    const FleetMoment before = with_processes(
        moment(0, {}),
        {process("http://a:1", "1.0"), process("http://b:1", "1.0"), process("http://c:1", "", "timed out")});
    const FleetMoment now = with_processes(
        moment(2, {}),
        {process("http://a:1", "1.1"), process("http://b:1", "", "connection refused"), process("http://c:1", "1.0")});
    REQUIRE(texts(cli::fleet_changes(before, now, 9)) ==
            std::vector<std::string>{"process http://a:1: is of version 1.1",
                                     "process http://b:1: is not reached: connection refused",
                                     "process http://c:1: is reached"});
}
