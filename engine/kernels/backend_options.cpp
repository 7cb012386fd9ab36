#include "engine/kernels/backend_options.h"

#include <algorithm>
#include <initializer_list>

namespace engine {
namespace {

using base::ErrorCode;
using base::Result;

Result<void> check_name(const char* setting, const std::string& value, std::initializer_list<const char*> names) {
    if (std::any_of(names.begin(), names.end(), [&](const char* name) { return value == name; })) { return {}; }
    std::string list;
    std::size_t left = names.size();
    for (const char* name : names) {
        list += name;
        --left;
        if (left > 0) { list += left == 1 ? " or " : ", "; }
    }
    return base::fail(ErrorCode::invalid_argument, std::string(setting) + " is '" + value + "', must be " + list);
}

}  // namespace

Result<void> check_names(const BackendOptions& options) {
    if (auto checked = check_name("weight_format", options.weight_format, {"auto", "f32", "bf16", "fp8"}); !checked) {
        return checked;
    }
    if (auto checked = check_name("kv_dtype", options.kv_dtype, {"auto", "f32", "bf16"}); !checked) { return checked; }
    return check_name("prefill_attention", options.prefill_attention, {"auto", "mma", "wgmma"});
}

Result<void> check_host_options(const BackendOptions& options, std::string_view family) {
    if (options.weight_format == "fp8") {
        return base::fail(ErrorCode::unimplemented,
                          "weight_format is 'fp8', which the " + std::string(family) +
                              " kernels do not have: set it to auto, f32 or bf16, or run on a GPU (device: cuda:0)");
    }
    if (options.prefill_attention == "wgmma") {
        return base::fail(ErrorCode::invalid_argument,
                          "prefill_attention is 'wgmma', which Hopper GPUs have and the host has not: set it to auto");
    }
    if (options.dependent_launch) {
        return base::fail(
            ErrorCode::invalid_argument,
            "dependent_launch is true, which Hopper GPUs and newer ones have and the host has not: set it "
            "to false");
    }
    return {};
}

ModelFormats choose_host_formats(const BackendOptions& options, WeightFormat stored) {
    using kv_cache::KvDtype;
    ModelFormats formats;
    formats.weights = options.weight_format == "auto"   ? stored
                      : options.weight_format == "bf16" ? WeightFormat::bf16
                                                        : WeightFormat::f32;
    const bool is_bf16 =
        options.kv_dtype == "auto" ? formats.weights == WeightFormat::bf16 : options.kv_dtype == "bf16";
    formats.kv = is_bf16 ? KvDtype::bf16 : KvDtype::f32;
    return formats;
}

}  // namespace engine
