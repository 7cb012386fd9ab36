#include "base/result.h"

#include <memory>
#include <set>

#include "tests/support/catch.h"

namespace {

using base::ErrorCode;

constexpr ErrorCode kAllCodes[] = {ErrorCode::invalid_argument,
                                   ErrorCode::unauthenticated,
                                   ErrorCode::permission_denied,
                                   ErrorCode::not_found,
                                   ErrorCode::failed_precondition,
                                   ErrorCode::aborted,
                                   ErrorCode::resource_exhausted,
                                   ErrorCode::deadline_exceeded,
                                   ErrorCode::unavailable,
                                   ErrorCode::cancelled,
                                   ErrorCode::data_loss,
                                   ErrorCode::unimplemented,
                                   ErrorCode::internal};

base::Result<int> half(int value) {
    if (value % 2 != 0) { return base::fail(ErrorCode::invalid_argument, std::to_string(value) + " is odd"); }
    return value / 2;
}

base::Result<std::unique_ptr<int>> boxed_half(int value) {
    auto halved = half(value);
    if (!halved) { return base::pass_on(halved, "boxing"); }
    return std::make_unique<int>(*halved);
}

}  // namespace

TEST_CASE("every code has its own gRPC number and name and survives the way there and back", "[base]") {
    std::set<int> numbers;
    std::set<std::string_view> names;
    for (const ErrorCode code : kAllCodes) {
        const int number = base::grpc_status_number(code);
        REQUIRE(number >= 1);
        REQUIRE(number <= 16);
        REQUIRE(base::error_code_from_grpc(number) == code);
        numbers.insert(number);
        names.insert(base::error_code_name(code));
    }
    REQUIRE(numbers.size() == std::size(kAllCodes));
    REQUIRE(names.size() == std::size(kAllCodes));
    REQUIRE(base::grpc_status_number(ErrorCode::resource_exhausted) == 8);
    REQUIRE(base::error_code_name(ErrorCode::resource_exhausted) == "resource_exhausted");
}

TEST_CASE("numbers without a code of ours are internal errors", "[base]") {
    for (const int number : {-1, 2, 11, 17, 1000}) {
        REQUIRE(base::error_code_from_grpc(number) == ErrorCode::internal);
    }
}

TEST_CASE("an error passed on keeps its code and gets the context in front", "[base]") {
    REQUIRE(**boxed_half(6) == 3);
    const auto failed = boxed_half(7);
    REQUIRE_FALSE(failed.has_value());
    REQUIRE(failed.error().code == ErrorCode::invalid_argument);
    REQUIRE(failed.error().message == "boxing: 7 is odd");
}
