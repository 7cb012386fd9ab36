#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"
#include "text/shim/sluice_text.h"

namespace text {

/// A view as the shim takes it; valid as long as `text`.
SluiceBytes shim_bytes(std::string_view text);

/// Owns what an entry of the shim filled in.
class ShimBuffer {
public:
    ShimBuffer() = default;
    ~ShimBuffer() { sluice_buffer_free(&buffer_); }
    ShimBuffer(const ShimBuffer&) = delete;
    ShimBuffer& operator=(const ShimBuffer&) = delete;

    SluiceBuffer* out() { return &buffer_; }
    std::string_view view() const { return {reinterpret_cast<const char*>(buffer_.data), buffer_.size}; }

private:
    SluiceBuffer buffer_{nullptr, 0, 0};
};

/// The error that a failed entry stands for; `code` is not SLUICE_OK, `message` what the entry left in its buffer. That
/// of a panic goes to the log only.
base::Error shim_error(std::int32_t code, std::string_view message);

}  // namespace text
