#include "gateway/cache/routed_ask.h"

#include <utility>

#include "gateway/openai/prepare.h"

namespace gateway {

RoutedAsk::RoutedAsk() = default;
RoutedAsk::~RoutedAsk() = default;

void RoutedAsk::fall_back(std::string other_model) {
    model = std::move(other_model);
    arm = arm == caching::Arm::small ? caching::Arm::large : caching::Arm::small;
    why = "fallback";
    examples = 0;
    pack = 0;
    decision.reset();
    compared.reset();
}

HttpFields RoutedAsk::fields() const {
    return {{"x-routed-model", model},
            {"x-routed-reason", std::string(why)},
            {"x-routed-examples", std::to_string(examples)}};
}

std::string RoutedAsk::word() const {
    return std::string(caching::arm_name(arm)) + (examples > 0 ? "+" + std::to_string(examples) : "");
}

}  // namespace gateway
