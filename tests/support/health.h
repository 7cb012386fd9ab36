#pragma once

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <memory>
#include <string>

#include "tests/support/catch.h"

namespace test_support {

/// What the standard health service at `channel` says of a service; empty: of the process.
/// grpc.health.v1: HealthCheckRequest is the name as field 1; HealthCheckResponse{status = SERVING} is the bytes 08 01.
inline bool is_serving(const std::shared_ptr<grpc::Channel>& channel, const std::string& service = "") {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
    context.set_wait_for_ready(true);
    const std::string request =
        service.empty() ? "" : std::string("\x0a") + static_cast<char>(service.size()) + service;
    const grpc::Slice slice(request);
    const grpc::ByteBuffer question(&slice, 1);
    grpc::GenericStub stub(channel);
    grpc::CompletionQueue queue;
    const auto call = stub.PrepareUnaryCall(&context, "/grpc.health.v1.Health/Check", question, &queue);
    call->StartCall();
    grpc::ByteBuffer answer;
    grpc::Status status;
    call->Finish(&answer, &status, nullptr);
    void* tag = nullptr;
    bool ok = false;
    REQUIRE(queue.Next(&tag, &ok));
    if (!status.ok()) { FAIL(status.error_message()); }
    grpc::Slice bytes;
    REQUIRE(answer.DumpToSingleSlice(&bytes).ok());
    return std::string(reinterpret_cast<const char*>(bytes.begin()), bytes.size()) == std::string("\x08\x01");
}

}  // namespace test_support
