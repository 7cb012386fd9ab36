#include "proto/header.h"

#include <string>
#include <utility>

#include "base/log.h"

namespace sluice::proto {
namespace {

auto refuse(std::string message) {
    return base::fail(base::ErrorCode::failed_precondition, std::move(message));
}

std::string version_text(std::uint32_t version, std::uint32_t minor) {
    return std::to_string(version) + "." + std::to_string(minor);
}

}  // namespace

Header make_header(std::string_view model, std::uint64_t numerics_id) {
    Header header;
    header.set_protocol_version(kProtocolVersion);
    header.set_protocol_minor(kProtocolMinor);
    header.set_model(std::string(model));
    header.set_numerics_id(numerics_id);
    return header;
}

base::Result<void> check_header(const Header& header, const ExpectedHeader& expected) {
    if (header.protocol_version() != kProtocolVersion) {
        return refuse("protocol version " + version_text(header.protocol_version(), header.protocol_minor()) +
                      ", ours is " + version_text(kProtocolVersion, kProtocolMinor));
    }
    if (expected.model && header.model() != *expected.model) {
        return refuse("model \"" + base::log_safe(header.model(), 64) + "\", here it is \"" +
                      std::string(*expected.model) + "\"");
    }
    if (expected.numerics_id && header.numerics_id() != *expected.numerics_id) {
        return refuse("numerics id " + std::to_string(header.numerics_id()) + ", here it is " +
                      std::to_string(*expected.numerics_id) + ": weights, formats or kernels differ");
    }
    return {};
}

}  // namespace sluice::proto
