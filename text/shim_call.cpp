#include "text/shim_call.h"

#include "base/log.h"
#include "text/text_process.h"

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
        case kNoTextProcess:
            kind = base::ErrorCode::unavailable;
            break;
        case SLUICE_UNIMPLEMENTED:
            kind = base::ErrorCode::unimplemented;
            break;
        default:
            // What a panic says is for the log: it names places in the library's source.
            spdlog::error("the text library failed: {}", message);
            return {kind, "an error inside the text library"};
    }
    return {kind, std::string(message)};
}

}  // namespace text
