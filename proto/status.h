#pragma once

#include <grpcpp/grpcpp.h>

#include "base/result.h"
#include "proto/version.h"

namespace sluice::proto {

/// An error as the status of a call; and the inverse, for a status that is not OK.
inline grpc::Status status_of(const base::Error& error) {
    return {static_cast<grpc::StatusCode>(base::grpc_status_number(error.code)), error.message};
}
inline base::Error error_of(const grpc::Status& status) {
    return {base::error_code_from_grpc(static_cast<int>(status.error_code())), status.error_message()};
}

}  // namespace sluice::proto
