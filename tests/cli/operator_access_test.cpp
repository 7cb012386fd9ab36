#include "cli/operator_access.h"

#include <string>

#include "tests/support/catch.h"

namespace {

namespace proto = sluice::proto;

void add(proto::DescribeReply& reply, const std::string& model, std::uint64_t id, const std::string& address,
         proto::WorkerRole role, std::uint32_t running) {
    proto::ModelState* state = nullptr;
    for (auto& one : *reply.mutable_models()) {
        if (one.model() == model) { state = &one; }
    }
    if (state == nullptr) {
        state = reply.add_models();
        state->set_model(model);
    }
    proto::WorkerState& worker = *state->add_workers();
    worker.mutable_endpoint()->set_worker_id(id);
    worker.mutable_endpoint()->set_incarnation(id + 1);
    worker.mutable_endpoint()->set_control_address(address);
    worker.set_role(role);
    worker.set_state("ready");
    worker.mutable_load()->set_requests_running(running);
}

proto::DescribeReply cluster() {
    proto::DescribeReply reply;
    add(reply, "chat", 0xff, "10.0.0.7:9001", proto::WORKER_ROLE_DECODE, 3);
    add(reply, "chat", 0xabc, "10.0.0.6:9001", proto::WORKER_ROLE_PREFILL, 0);
    add(reply, "small", 0x10, "10.0.0.6:9002", proto::WORKER_ROLE_MIXED, 1);
    return reply;
}

}  // namespace

TEST_CASE("a worker is named by its id, by where it listens, or by its host", "[cli][operator]") {
    const auto reply = cluster();
    for (const char* wanted : {"ff", "00000000000000ff", "FF", "10.0.0.7:9001", "10.0.0.7"}) {
        CAPTURE(wanted);
        const auto worker = cli::choose_worker(reply, wanted);
        REQUIRE(worker.has_value());
        REQUIRE(worker->endpoint().worker_id() == 0xff);
        REQUIRE(worker->endpoint().incarnation() == 0x100);
    }
    REQUIRE(cli::choose_worker(reply, "10.0.0.6:9002")->endpoint().worker_id() == 0x10);
    REQUIRE(cli::choose_worker(reply, "10")->endpoint().worker_id() == 0x10);  // digits alone are an id
}

TEST_CASE("who means no worker, or several, is told which there are", "[cli][operator]") {
    const auto reply = cluster();
    const auto several = cli::choose_worker(reply, "10.0.0.6");
    REQUIRE_FALSE(several.has_value());
    CAPTURE(several.error().message);
    REQUIRE(several.error().code == base::ErrorCode::failed_precondition);
    REQUIRE(several.error().message.find("2 workers are at 10.0.0.6") == 0);
    REQUIRE(several.error().message.find("0000000000000abc  prefill") != std::string::npos);
    for (const char* wanted : {"0", "", "1", "worker-1", "10.0.0.60", "10.0.0.6:", "12345678901234567"}) {
        CAPTURE(wanted);
        const auto none = cli::choose_worker(reply, wanted);
        REQUIRE_FALSE(none.has_value());
        REQUIRE(none.error().code == base::ErrorCode::not_found);
        REQUIRE(none.error().message.find("10.0.0.7:9001") != std::string::npos);
    }
    const auto empty = cli::choose_worker({}, "ff");
    REQUIRE_FALSE(empty.has_value());
    REQUIRE(empty.error().message == "there is no worker ff; there is none");
}

TEST_CASE("the list of workers has a line for each, by model and address", "[cli][operator]") {
    REQUIRE(cli::list_of_workers(cluster()) ==
            "0000000000000abc  prefill   ready        0 requests  10.0.0.6:9001  chat\n"
            "00000000000000ff  decode    ready        3 requests  10.0.0.7:9001  chat\n"
            "0000000000000010  mixed     ready        1 requests  10.0.0.6:9002  small\n");
    REQUIRE(cli::list_of_workers({}).empty());
}
