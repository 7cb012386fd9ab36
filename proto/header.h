#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "base/result.h"
#include "proto/common.pb.h"
#include "proto/version.h"

namespace sluice::proto {

/// What a process of this version says about itself. `numerics_id` 0: it has no engine, or does not know yet.
Header make_header(std::string_view model, std::uint64_t numerics_id);

/// What a header is held against besides the version. What is not set is not compared.
struct ExpectedHeader {
    std::optional<std::string_view> model = std::nullopt;
    std::optional<std::uint64_t> numerics_id = std::nullopt;
};

/// Whether a message with this header may be read: the major version is ours (another minor version is fine: what it
/// adds is ignored, what it lacks has its default), and model and numerics id are the expected ones. Error:
/// failed_precondition with both values.
base::Result<void> check_header(const Header& header, const ExpectedHeader& expected = {});

}  // namespace sluice::proto
