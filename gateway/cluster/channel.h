#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>

namespace gateway {

/// A connection to one address of the cluster, made when first used. Plain text: only loopback is bound so far.
std::shared_ptr<grpc::Channel> make_channel(const std::string& address);

}  // namespace gateway
