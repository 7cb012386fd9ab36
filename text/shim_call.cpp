#include "text/shim_call.h"

namespace text {

SluiceBytes shim_bytes(std::string_view text) {
    return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}

base::Error shim_error(std::int32_t code, std::string_view message) {
    base::ErrorCode kind = base::ErrorCode::internal;
    switch (code) {
        case SLUICE_INVALID:
        case SLUICE_RAISED:
            kind = base::ErrorCode::invalid_argument;
            break;
        case SLUICE_EXHAUSTED:
            kind = base::ErrorCode::resource_exhausted;
            break;
        case SLUICE_UNIMPLEMENTED:
            kind = base::ErrorCode::unimplemented;
            break;
        default:
            break;
    }
    return {kind, std::string(message)};
}

}  // namespace text
