#include "engine/kernels/backend.h"

#include <cstring>

#include "base/check.h"

namespace engine {

base::Result<void> Backend::quantize_rows(const std::byte* /*rows*/, std::uint32_t /*count*/, std::uint32_t /*width*/,
                                          std::byte* /*out*/, float* /*scales*/, device::Stream& /*stream*/) {
    CHECK(false, family() << " kernels have no FP8");
    return {};
}

void Backend::mlp(const MlpArgs& args) {
    linear(*args.gate_up, args.x, args.rows, nullptr, args.gate_up_rows, Activation::gate_up);
    swiglu(args.gate_up_rows, args.rows, args.down->inputs, args.activated_rows);
    linear(*args.down, args.activated_rows, args.rows, nullptr, args.y, args.kind);
}

void Backend::keep_wanted(const StepRows& step, Activation kind, void* rows, std::uint32_t width) {
    const std::size_t row_bytes = width * element_bytes(kind);
    auto* bytes = static_cast<std::byte*>(rows);
    for (std::size_t kept = 0; kept < step.rows_wanted.size(); ++kept) {
        const std::size_t row = step.rows_wanted[kept];  // ascending: never before `kept`
        if (row != kept) { std::memcpy(bytes + kept * row_bytes, bytes + row * row_bytes, row_bytes); }
    }
}

}  // namespace engine
