#include "base/result.h"

#include <array>

namespace base {
namespace {

struct CodeRow {
    ErrorCode code;
    int grpc_number;
    std::string_view name;
};

constexpr std::array kCodes = {
    CodeRow{ErrorCode::invalid_argument, 3, "invalid_argument"},
    CodeRow{ErrorCode::unauthenticated, 16, "unauthenticated"},
    CodeRow{ErrorCode::permission_denied, 7, "permission_denied"},
    CodeRow{ErrorCode::not_found, 5, "not_found"},
    CodeRow{ErrorCode::failed_precondition, 9, "failed_precondition"},
    CodeRow{ErrorCode::aborted, 10, "aborted"},
    CodeRow{ErrorCode::resource_exhausted, 8, "resource_exhausted"},
    CodeRow{ErrorCode::deadline_exceeded, 4, "deadline_exceeded"},
    CodeRow{ErrorCode::unavailable, 14, "unavailable"},
    CodeRow{ErrorCode::cancelled, 1, "cancelled"},
    CodeRow{ErrorCode::data_loss, 15, "data_loss"},
    CodeRow{ErrorCode::unimplemented, 12, "unimplemented"},
    CodeRow{ErrorCode::internal, 13, "internal"},
};

}  // namespace

int grpc_status_number(ErrorCode code) {
    for (const CodeRow& row : kCodes) {
        if (row.code == code) { return row.grpc_number; }
    }
    return 13;
}

ErrorCode error_code_from_grpc(int number) {
    for (const CodeRow& row : kCodes) {
        if (row.grpc_number == number) { return row.code; }
    }
    return ErrorCode::internal;
}

std::string_view error_code_name(ErrorCode code) {
    for (const CodeRow& row : kCodes) {
        if (row.code == code) { return row.name; }
    }
    return "internal";
}

}  // namespace base
