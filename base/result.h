#pragma once

#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <utility>

namespace base {

/// What kind of thing went wrong. The names (and meanings) are gRPC's.
enum class ErrorCode {
    invalid_argument,
    unauthenticated,
    permission_denied,
    not_found,
    failed_precondition,
    aborted,
    resource_exhausted,
    deadline_exceeded,
    unavailable,
    cancelled,
    data_loss,
    unimplemented,
    internal,
};

/// An expected failure. `message` says what was tried, with the numbers.
struct Error {
    ErrorCode code;
    std::string message;
};

/// A value, or why there is none. The only way in which our code reports expected failures: we do not throw.
template <class T>
using Result = tl::expected<T, Error>;

/// `return fail(ErrorCode::not_found, "no model at " + path);`
inline tl::unexpected<Error> fail(ErrorCode code, std::string message) {
    return tl::unexpected<Error>(Error{code, std::move(message)});
}

/// Passes an error on: `if (!x) { return pass_on(x); }`. Optional `context` is put in front of the message.
template <class T>
tl::unexpected<Error> pass_on(const Result<T>& failed, std::string_view context = {}) {
    Error error = failed.error();
    if (!context.empty()) { error.message = std::string(context) + ": " + error.message; }
    return tl::unexpected<Error>(std::move(error));
}

/// gRPC's number of the code (grpc::StatusCode), so that code which speaks gRPC needs no table of its own.
int grpc_status_number(ErrorCode code);
/// The inverse; numbers that have no code of ours become `internal`.
ErrorCode error_code_from_grpc(int number);
/// The name as written above, e.g. "resource_exhausted".
std::string_view error_code_name(ErrorCode code);

}  // namespace base
