#include <charconv>

#include "device/cuda/cuda_device.h"

namespace device {

Result<DeviceChoice> parse_device(std::string_view text) {
    if (text == "host") { return DeviceChoice{}; }
    if (text == "auto") { return DeviceChoice{.is_cuda = cuda_report().problem.empty(), .index = 0}; }
    constexpr std::string_view kPrefix = "cuda:";
    std::uint32_t index = 0;
    if (text.starts_with(kPrefix)) {
        const std::string_view digits = text.substr(kPrefix.size());
        const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), index);
        if (error == std::errc{} && end == digits.data() + digits.size() && !digits.empty() && index < 1024) {
            return DeviceChoice{.is_cuda = true, .index = index};
        }
    }
    return base::fail(base::ErrorCode::invalid_argument,
                      "device is '" + std::string(text) + "', must be auto, host or cuda:N (cuda:0 is the first GPU)");
}

}  // namespace device
