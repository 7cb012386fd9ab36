// Channels and servers over a real loopback connection.
#include "proto/channel.h"

#include <grpcpp/health_check_service_interface.h>

#include <array>
#include <chrono>
#include <string>

#include "proto/scheduler.grpc.pb.h"
#include "proto/status.h"

#include "tests/support/catch.h"

namespace {

using namespace std::chrono_literals;

/// Answers with the error that the request's model names.
class Refuser final : public proto::Scheduler::Service {
public:
    grpc::Status Describe(grpc::ServerContext*, const proto::DescribeRequest* request,
                          proto::DescribeReply* reply) override {
        if (!request->header().model().empty()) {
            return proto::status_of({base::ErrorCode::resource_exhausted, request->header().model()});
        }
        reply->mutable_header()->set_model(std::string(5 << 20, 'a'));  // more than gRPC takes by itself
        return grpc::Status::OK;
    }
};

grpc::Status describe(const std::string& address, const std::string& model, proto::DescribeReply& reply) {
    const auto stub = proto::Scheduler::NewStub(proto::make_channel({.address = address}));
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + 30s);  // a hang is a failure, not a wait for ever
    proto::DescribeRequest request;
    request.mutable_header()->set_model(model);
    return stub->Describe(&context, request, &reply);
}

}  // namespace

TEST_CASE("a channel reaches a server; long answers and errors come through", "[proto]") {
    Refuser service;
    auto running = proto::start_server({.listen_address = "127.0.0.1:0"}, std::array<grpc::Service*, 1>{&service});
    REQUIRE(running.has_value());
    REQUIRE(running->port > 0);
    REQUIRE(running->server->GetHealthCheckService() != nullptr);
    const std::string address = "127.0.0.1:" + std::to_string(running->port);
    proto::DescribeReply reply;
    REQUIRE(describe(address, "", reply).ok());
    REQUIRE(reply.header().model().size() == 5 << 20);
    const grpc::Status refused = describe(address, "7 of 7", reply);
    REQUIRE(proto::error_of(refused).code == base::ErrorCode::resource_exhausted);
    REQUIRE(proto::error_of(refused).message == "7 of 7");
    running->server->Shutdown();
    running->server->Wait();
    REQUIRE(proto::error_of(describe(address, "", reply)).code == base::ErrorCode::unavailable);
}

TEST_CASE("a port that is taken is not shared", "[proto]") {
    Refuser service;
    const std::array<grpc::Service*, 1> services{&service};
    auto first = proto::start_server({.listen_address = "127.0.0.1:0"}, services);
    REQUIRE(first.has_value());
    const auto second = proto::start_server({.listen_address = "127.0.0.1:" + std::to_string(first->port)}, services);
    REQUIRE(!second);
    REQUIRE(second.error().code == base::ErrorCode::unavailable);
    REQUIRE(second.error().message.find("cannot listen on 127.0.0.1:") == 0);
    first->server->Shutdown();
    first->server->Wait();
}
